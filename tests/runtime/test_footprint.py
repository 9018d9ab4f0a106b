"""The memory that a model is said to take is what the engine reserves, and what a process has."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge.apps.fresh_process import Task, measure_memory
from rwkv_edge.arch import architecture_of
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import (
    SYNTHETIC_VERSIONS,
    synthetic_hyperparameters,
    write_synthetic,
)
from rwkv_edge.errors import UnsupportedModelError
from rwkv_edge.gguf_reader import GgufTensor
from rwkv_edge.model_file import ModelFile
from rwkv_edge.quant import QUANT_FORMATS, QuantFormat
from rwkv_edge.runtime import arena, footprint
from rwkv_edge.runtime.arch import COMPILED
from rwkv_edge.runtime.backends import numba_cpu
from rwkv_edge.runtime.footprint import MemoryEstimate, estimate_memory, packed_bytes
from rwkv_edge.runtime.kernels import matmul

# Whole units of what rows and columns are padded to, and not.
SHAPES = [(1000, 768), (2048, 2048)]


def packed_formats() -> list[type[QuantFormat]]:
    """Those that the engine has kernels for."""
    found = []
    for quant in QUANT_FORMATS.values():
        with contextlib.suppress(UnsupportedModelError):
            matmul.packed_format(quant)
            found.append(quant)
    return found


def estimate_of(path: Path) -> MemoryEstimate:
    with contextlib.closing(ModelFile(path)) as file:
        formats = {name: tensor.quant_format for name, tensor in file.gguf.tensors.items()}
        return estimate_memory(file.hyperparameters, formats)


@pytest.mark.parametrize("name", ["time_mix_key.weight", "channel_mix_value.weight"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("quant", packed_formats(), ids=lambda quant: quant.__name__)
def test_a_matrix_is_counted_about_as_the_arena_reserves_it(
    quant: type[QuantFormat], shape: tuple[int, int], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Addresses are compiled for; sizes need none.
    monkeypatch.setattr(arena, "kernel_addresses", lambda kind: (0, 0))
    raw = np.zeros((shape[0], quant.row_bytes(shape[1])), np.uint8)
    tensor = GgufTensor(name, shape, quant, raw)
    sparse = {name} if name.startswith("channel_mix_value") else ()
    reserved = arena.Arena([tensor], sparse).weights.size
    # Less than a cache line at the end, and some rows more where whole groups of them are padded.
    assert packed_bytes(name, shape, quant) == pytest.approx(reserved, rel=0.001)


@pytest.mark.parametrize("version", COMPILED)
def test_scratch_is_counted_for_the_neediest_version(version: str) -> None:
    hp = synthetic_hyperparameters(2, 768, version=version, n_vocab=1024)
    made = COMPILED[version].new_scratch(hp, numba_cpu.BLOCK_TOKENS, 1)
    counted = footprint.scratch_bytes(hp, architecture_of(version).tensors(hp))
    # Some arrays show the same bytes twice; small ones are left out of the count.
    assert 0.9 * all_bytes(made) < counted < 2.5 * all_bytes(made)


def all_bytes(value: object) -> int:
    """The memory of all arrays in nested tuples, shared ones once."""
    arrays: dict[int, int] = {}

    def visit(item: object) -> None:
        if isinstance(item, np.ndarray):
            arrays[item.ctypes.data] = max(arrays.get(item.ctypes.data, 0), item.nbytes)
        elif isinstance(item, tuple):
            for part in item:
                visit(part)

    visit(value)
    return sum(arrays.values())


def test_blocks_are_those_of_the_engine() -> None:
    assert footprint.BLOCK_TOKENS == numba_cpu.BLOCK_TOKENS


@pytest.mark.parametrize("version", SYNTHETIC_VERSIONS)
def test_a_state_and_what_stays_in_the_file_are_counted_exactly(
    tmp_path: Path, version: str
) -> None:
    hp = synthetic_hyperparameters(2, 64, version=version, n_vocab=256)
    write_synthetic(tmp_path / "m.pth", hp)
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", "Q8_0")
    found = estimate_of(tmp_path / "m.gguf")
    with contextlib.closing(ModelFile(tmp_path / "m.gguf")) as file:
        engine = numba_cpu.NumbaBackend(file, 1)
        assert found.state == engine.new_state().values.nbytes
        engine.close()
        tables = [name for name in file.gguf.tensors if name.endswith("channel_mix_s_emb.weight")]
        in_file = [file.tensor(name).raw.nbytes for name in ("token_embd.weight", *tables)]
        assert found.mapped == sum(in_file)
    assert found.resident == found.weights + found.state + found.scratch + found.program


def test_a_process_has_about_the_memory_that_was_estimated(tmp_path: Path) -> None:
    hp = synthetic_hyperparameters(8, 768, n_vocab=256)
    write_synthetic(tmp_path / "m.pth", hp)
    resident, estimates = {}, {}
    for weight_type in ("Q4_0", "F32"):
        path = tmp_path / f"{weight_type}.gguf"
        convert(tmp_path / "m.pth", path, weight_type)
        # Twice, because what compiles the kernels keeps some of the compiler's memory.
        for _ in range(2):
            measured = measure_memory(Task(path, "numba", 1)).steady
        if measured is None:
            pytest.skip("this system does not say how much memory a process has")
        resident[weight_type], estimates[weight_type] = measured, estimate_of(path)
    for weight_type, found in resident.items():
        # Python and its libraries differ by system, and are most of the small one.
        assert 0.6 < found / estimates[weight_type].resident < 1.3, (found, estimates)
    # What differs is weights alone: 200 MB, of which a few pages more or less are nothing.
    more = resident["F32"] - resident["Q4_0"]
    estimated = estimates["F32"].weights - estimates["Q4_0"].weights
    assert 0.93 < more / estimated < 1.07, (more, estimated)
