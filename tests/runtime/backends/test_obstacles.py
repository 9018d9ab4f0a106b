"""What is said to keep an engine from a model is what its loading raises, and nothing else is."""

import contextlib
import importlib.util
from pathlib import Path

import pytest

from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import (
    SYNTHETIC_VERSIONS,
    synthetic_hyperparameters,
    write_synthetic,
)
from rwkv_edge.errors import UnsupportedModelError
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.model_files import open_model_file
from rwkv_edge.onnx_model_file import HELD_TYPES
from rwkv_edge.quant import F16, F32, QUANT_FORMATS, QuantFormat
from rwkv_edge.runtime.arch import COMPILED
from rwkv_edge.runtime.backends import BACKENDS, load_backend, obstacles
from rwkv_edge.runtime.backends.obstacles import OBSTACLES, WITH_KERNELS
from rwkv_edge.runtime.kernels import matmul
from rwkv_edge.runtime.reference import REFERENCES
from tests.exported import file_for

MODULES = {"llama": "llama_cpp", "onnx": "onnxruntime"}
SHAPES: dict[str, Hyperparameters] = {
    f"{version} of {width}": synthetic_hyperparameters(
        2, width, version=version, n_vocab=256, head_size=8 if width % 16 else 64
    )
    for version in SYNTHETIC_VERSIONS
    for width in (64, 72)
}


def test_every_engine_says_what_it_cannot_run() -> None:
    assert list(OBSTACLES) == list(BACKENDS)
    # Versions are not asked about, because these two have all of them.
    assert set(COMPILED) == set(REFERENCES) == set(SYNTHETIC_VERSIONS)


@pytest.mark.parametrize("name", QUANT_FORMATS)
def test_a_weight_type_is_said_to_have_kernels_exactly_if_it_is_packed(name: str) -> None:
    said = OBSTACLES["numba"](SHAPES["7 of 64"], {QUANT_FORMATS[name]})
    try:
        matmul.packed_format(QUANT_FORMATS[name])
    except UnsupportedModelError:
        assert said == f"the numba backend has no kernel for {name}"
        assert name not in WITH_KERNELS
    else:
        assert said is None


def test_weight_types_without_kernels_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_for_blocks(quant: type[QuantFormat]) -> None:
        if quant.block_len > 1:
            raise UnsupportedModelError("not this")

    monkeypatch.setattr(matmul, "packed_format", none_for_blocks)
    monkeypatch.setattr(obstacles, "WITH_KERNELS", frozenset({"F32"}))
    formats = {QUANT_FORMATS[name] for name in ("F32", "F16", "Q8_0", "Q4_0")}
    said = OBSTACLES["numba"](SHAPES["7 of 64"], formats)
    assert said == "the numba backend has no kernel for Q4_0, Q8_0"


def test_the_weight_types_of_an_onnx_are_those_that_are_exported() -> None:
    assert set(HELD_TYPES) == {"F32", "F16", "BF16", "Q8_0", "Q4_0"}
    said = OBSTACLES["onnx"](SHAPES["7 of 64"], set(QUANT_FORMATS.values()))
    others = ", ".join(sorted(set(QUANT_FORMATS) - set(HELD_TYPES)))
    assert said == f"an ONNX file cannot hold {others}"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("engine", BACKENDS)
def test_an_engine_loads_a_model_exactly_if_nothing_is_said_to_keep_it(
    tmp_path: Path, engine: str, shape: str
) -> None:
    module = MODULES.get(engine)
    if module is not None and importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    hp = SHAPES[shape]
    write_synthetic(tmp_path / "m.pth", hp)
    path = tmp_path / "m.gguf"
    convert(tmp_path / "m.pth", path, "F16")
    with contextlib.closing(open_model_file(file_for(engine, path))) as file:
        said = OBSTACLES[engine](hp, {F16, F32})
        if said is None:
            load_backend(engine, file, 1).close()
            return
        with pytest.raises(UnsupportedModelError) as refused:
            load_backend(engine, file, 1)
        assert str(refused.value).startswith(f"{file.path}: {said}; use --backend ")
