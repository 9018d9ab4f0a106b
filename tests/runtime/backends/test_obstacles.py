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
from rwkv_edge.model_file import ModelFile
from rwkv_edge.quant import QUANT_FORMATS
from rwkv_edge.runtime import arena
from rwkv_edge.runtime.arch import COMPILED
from rwkv_edge.runtime.backends import BACKENDS, load_backend, obstacles
from rwkv_edge.runtime.backends.obstacles import COMMON_FORMATS, OBSTACLES
from rwkv_edge.runtime.reference import REFERENCES

MODULES = {"llama": "llama_cpp"}
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


def test_the_weight_types_with_kernels_are_those_of_the_arena() -> None:
    packed = {quant.__name__ for quant in arena.PACKED_FORMATS}
    assert packed >= COMMON_FORMATS
    hp = SHAPES["7 of 64"]
    for name, quant in QUANT_FORMATS.items():
        said = OBSTACLES["numba"](hp, {quant})
        assert said is None if name in packed else name in str(said)


def test_a_weight_type_without_kernels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = {q: p for q, p in arena.PACKED_FORMATS.items() if q.__name__ != "Q4_0"}
    monkeypatch.setattr(arena, "PACKED_FORMATS", packed)
    monkeypatch.setattr(obstacles, "COMMON_FORMATS", frozenset({"F32"}))
    formats = {QUANT_FORMATS["F32"], QUANT_FORMATS["Q4_0"], QUANT_FORMATS["Q8_0"]}
    said = OBSTACLES["numba"](SHAPES["7 of 64"], formats)
    assert said == "the numba backend has no kernel for Q4_0"


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
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", "F16")
    with contextlib.closing(ModelFile(tmp_path / "m.gguf")) as file:
        said = OBSTACLES[engine](hp, {tensor.quant_format for tensor in file.gguf.tensors.values()})
        if said is None:
            load_backend(engine, file, 1).close()
            return
        with pytest.raises(UnsupportedModelError) as refused:
            load_backend(engine, file, 1)
        assert str(refused.value).startswith(f"{file.path}: {said}; use --backend ")
