"""An export takes the memory of a few blocks of rows, and of one tensor's scales."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("onnx")
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.onnx.export import convert_to_onnx
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from tests.converters.test_memory import MIB, MOST_BYTES, SHAPE, peak_of


@pytest.fixture(scope="module")
def pth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("memory") / "m.pth"
    write_synthetic(path, synthetic_hyperparameters(**SHAPE), dtype="float32")
    # The encoders are compiled and onnx is imported now, so that this does not count.
    convert_to_onnx(path, path.with_name("first.onnx"), "Q4_0", threads=1)
    path.with_name("first.onnx").unlink()
    yield path
    path.unlink()


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("weight_type", ["Q4_0", "Q8_0", "F32"])
def test_memory_does_not_grow_with_the_checkpoint(
    tmp_path: Path, pth: Path, weight_type: str, external: bool
) -> None:
    assert pth.stat().st_size > 95 * MIB
    out = tmp_path / "m.onnx"

    def export() -> None:
        convert_to_onnx(pth, out, weight_type, threads=1, external_data=external)

    assert peak_of(export) < MOST_BYTES


def test_memory_does_not_grow_with_a_gguf_that_keeps_its_types(tmp_path: Path, pth: Path) -> None:
    gguf = convert(pth, tmp_path / "m.gguf", "F32").path
    assert gguf.stat().st_size > 95 * MIB
    assert peak_of(lambda: convert_to_onnx(gguf, tmp_path / "m.onnx", None)) < MOST_BYTES
    gguf.unlink()
