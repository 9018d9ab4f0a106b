"""Opening a model's file, whichever kind it is."""

from pathlib import Path

from rwkv_edge.gguf_reader import MAGIC, require_no_pipe
from rwkv_edge.model_file import ModelFile
from rwkv_edge.onnx_model_file import OnnxModelFile
from rwkv_edge.onnx_reader import is_onnx


def open_model_file(path: str | Path) -> ModelFile | OnnxModelFile:
    """A GGUF or an ONNX, told by its content. Raises FormatError, UnsupportedModelError, OSError.

    A file that is neither is refused as a GGUF, unless its name says that it is an ONNX.
    """
    path = Path(path)
    require_no_pipe(path)
    with open(path, "rb") as file:
        magic = file.read(len(MAGIC))
    if magic != MAGIC and is_onnx(path):
        return OnnxModelFile(path)
    return ModelFile(path)
