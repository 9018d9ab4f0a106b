"""A GGUF as one more container of tensors, under the names that it gives them."""

from pathlib import Path

from rwkv_edge.converters.checkpoints.base import require_plain_name
from rwkv_edge.converters.checkpoints.tensors import (
    Directory,
    StoredTensor,
    Tensor,
    contiguous_strides,
)
from rwkv_edge.gguf_reader import GgufFile, GgufTensor
from rwkv_edge.quant import BF16, F16, F32

NUMBERS = {F32: "float32", F16: "float16", BF16: "bfloat16"}


def read_gguf_directory(path: Path) -> Directory:
    """Where each tensor of a GGUF lies; raises FormatError, UnsupportedModelError, OSError."""
    with GgufFile(path) as file:
        # No view of a tensor outlives this: Windows keeps a mapped file from being replaced.
        tensors: dict[str, Tensor] = {
            require_plain_name(path, name): stored(tensor, file.place_of(name))
            for name, tensor in file.tensors.items()
        }
    return Directory(tensors, (path,))


def stored(tensor: GgufTensor, offset: int) -> StoredTensor:
    """Where a tensor lies whose bytes begin at `offset`."""
    dtype = NUMBERS.get(tensor.quant_format, tensor.quant_format.__name__)
    return StoredTensor(dtype, tensor.shape, contiguous_strides(tensor.shape), offset)
