"""When llama.cpp is let near its fastest kernels, and how its sequences make way for others."""

from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import Model
from rwkv_edge.runtime.backends.llama_cpp import cpu_libraries, may_repack

WITH_AMX = b"CPU : AVX512 = 1 | AMX_INT8 = 1 | REPACK = 1 | "
WITHOUT_AMX = b"CPU : AVX2 = 1 | REPACK = 1 | "
GCC = b"\x7fELF\x00GCC: (Debian 12.2.0-14) 12.2.0\x00"
# What clang compiles is linked with a few objects of GCC's.
CLANG = GCC + b"Debian clang version 16.0.6\x00"
STRIPPED = b"\x7fELF\x00"


@pytest.mark.parametrize(
    ("system_info", "contents", "allowed"),
    [
        (WITHOUT_AMX, [GCC], True),
        (WITHOUT_AMX, [], True),
        (WITH_AMX, [CLANG], True),
        (WITH_AMX, [CLANG, CLANG], True),
        (WITH_AMX, [GCC], False),
        (WITH_AMX, [CLANG, GCC], False),
        (WITH_AMX, [STRIPPED], False),
        (WITH_AMX, [], False),
    ],
)
def test_weights_are_repacked_unless_gcc_may_have_miscompiled_amx(
    tmp_path: Path, system_info: bytes, contents: list[bytes], allowed: bool
) -> None:
    libraries = []
    for i, content in enumerate(contents):
        libraries.append(tmp_path / f"libggml-cpu-{i}.so")
        libraries[-1].write_bytes(content)
    assert may_repack(system_info, libraries) is allowed


def test_the_library_that_is_asked_is_the_one_that_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    monkeypatch.delenv("LLAMA_CPP_LIB_PATH", raising=False)
    assert cpu_libraries(llama_cpp)
    (tmp_path / "libggml-cpu.so").touch()
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    assert cpu_libraries(llama_cpp) == [tmp_path / "libggml-cpu.so"]


def test_more_sequences_than_there_is_room_for_take_turns(f32_gguf: Path) -> None:
    pytest.importorskip("llama_cpp")
    n_sequences = 70
    random = np.random.default_rng(0)
    parts = [random.integers(0, 256, 4) for _ in range(n_sequences)]
    with Model.load(f32_gguf, "llama", threads=1) as model:
        alone = np.stack([model.forward(part)[0] for part in parts])
        states = [model.new_state() for _ in parts]
        # Few first, so that the context grows with states in it.
        model.forward_batch([part[:2] for part in parts[:9]], states[:9])
        model.forward_batch([part[:2] for part in parts[9:]], states[9:])
        together = model.forward_batch([part[2:] for part in parts], states)
    # float32 sums in another order; relative to the spread of the logits.
    assert np.abs(together - alone).max() < 1e-4 * np.ptp(alone)
