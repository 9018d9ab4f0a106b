"""The file that an engine runs, of a model that is a GGUF."""

from pathlib import Path

import pytest

from rwkv_edge.converters.onnx.export import convert_to_onnx


def file_for(engine: str, gguf: Path) -> Path:
    """The GGUF itself; for onnx, an ONNX of the same numbers beside it, made once."""
    if engine != "onnx":
        return gguf
    pytest.importorskip("onnx")
    path = gguf.with_suffix(".onnx")
    if not path.exists():
        convert_to_onnx(gguf, path, None)
    return path
