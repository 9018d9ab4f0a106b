"""The built-in model as ONNX, exported once for all pages."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rwkv_edge.builtin import checkpoint_path

Export = Callable[..., Path]


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Give the path of the built-in model in a weight type; with its weights beside it if asked."""
    pytest.importorskip("onnx")
    from rwkv_edge.converters.onnx.export import convert_to_onnx

    folder = tmp_path_factory.mktemp("onnx")

    def exported(weight_type: str, external_data: bool = False) -> Path:
        path = folder / f"{weight_type}{'-external' * external_data}.onnx"
        if not path.exists():
            convert_to_onnx(checkpoint_path(), path, weight_type, external_data=external_data)
        return path

    return exported
