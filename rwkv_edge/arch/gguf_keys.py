"""Reading counts and shapes out of a GGUF that may lie."""

from collections.abc import Mapping

from rwkv_edge.arch.base import Shape
from rwkv_edge.errors import FormatError

# RWKV has no context window; llama.cpp wants a number, and its converter writes this one.
CONTEXT_LENGTH = 1048576
# No count in a model's header is near this; a larger one is damage or an attack.
MAX_COUNT = 1 << 24


def read_count(metadata: Mapping[str, object], key: str, least: int = 1) -> int:
    """An integer key from `least` on, bounded before anything is allocated by it."""
    value = metadata.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FormatError(f"key {key} is {'missing' if value is None else 'not an integer'}")
    if not least <= value <= MAX_COUNT:
        raise FormatError(f"key {key} is {value}; a model has {least} to {MAX_COUNT}")
    return value


def require_shape(shapes: Mapping[str, Shape], tensor: str, n_dims: int) -> Shape:
    """The shape of a tensor that must be there with `n_dims` dimensions."""
    shape = shapes.get(tensor)
    if shape is None:
        raise FormatError(f"tensor {tensor} is missing")
    if len(shape) != n_dims:
        raise FormatError(f"tensor {tensor} is {list(shape)}; it needs {n_dims} dimensions")
    return shape
