"""What a file of any kind that this program meets is, from its header alone."""

from pathlib import Path

from rwkv_edge.apps.inspection.checkpoint import describe_checkpoint
from rwkv_edge.apps.inspection.gguf_model import describe_gguf
from rwkv_edge.apps.inspection.onnx_model import (
    describe_data,
    describe_lost_data,
    describe_onnx,
)
from rwkv_edge.apps.inspection.other_files import describe_other
from rwkv_edge.apps.inspection.saved_state import describe_state, state_metadata
from rwkv_edge.apps.inspection.schema import FileInfo
from rwkv_edge.errors import FormatError, UnsupportedModelError
from rwkv_edge.gguf_reader import MAGIC, require_no_pipe
from rwkv_edge.onnx_reader import is_onnx


def describe_file(path: Path) -> FileInfo:
    """What a file or a folder is, without reading weights.

    A file that is known but cannot be used is described, with the reason as its `problem`. Raises
    FormatError for a damaged one and for what nobody here knows, and OSError.
    """
    require_no_pipe(path)
    if path.is_dir():
        return describe_weights(path)
    with open(path, "rb") as file:
        magic = file.read(len(MAGIC))
    if magic == MAGIC:
        return describe_gguf(path)
    if is_onnx(path):
        return describe_onnx(path)
    state = state_metadata(path)
    if state is not None:
        return describe_state(path, state)
    try:
        return describe_weights(path)
    except FormatError:
        other = describe_data(path) or describe_other(path) or describe_lost_data(path)
        if other is None:
            raise
        return other


def describe_weights(path: Path) -> FileInfo:
    """A checkpoint, an adapter, or what else holds tensors. Raises FormatError, OSError."""
    try:
        return describe_checkpoint(path)
    except UnsupportedModelError as error:
        # Whole, as far as it was looked at, but of no use.
        n_bytes = 0 if path.is_dir() else path.stat().st_size
        problem = str(error).removeprefix(f"{path}: ")
        return FileInfo(path, "model of another kind", "none", n_bytes, problem=problem)
