"""When llama.cpp is let near its fastest kernels, and how its states make way and move."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import BackendUnavailableError, Model
from rwkv_edge.runtime.backends.llama_cpp import LlamaCppBackend, cpu_libraries, may_repack

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


@pytest.fixture
def llama(f32_gguf: Path) -> Iterator[Model]:
    pytest.importorskip("llama_cpp")
    with Model.load(f32_gguf, "llama", threads=1) as model:
        yield model


@pytest.mark.parametrize("there", ["numba", "reference"])
def test_a_conversation_goes_on_in_the_other_engine_and_back(
    llama: Model, f32_gguf: Path, there: str
) -> None:
    tokens = np.random.default_rng(1).integers(0, 256, 120)
    turns = np.split(tokens, [1, 30, 31, 90])
    with Model.load(f32_gguf, there) as other:
        stayed = {model: model.new_state() for model in (other, llama)}
        moving = other.new_state()
        for i, turn in enumerate(turns):
            here = (other, llama)[i % 2]
            moving = here.state_from_arrays(moving.to_arrays())
            found, _ = here.forward(turn, moving, all_logits=True)
            for model, state in stayed.items():
                wanted, _ = model.forward(turn, state, all_logits=True)
                # The engines add float32 in another order, and a state carries what that leaves
                # on; a state that lost an array differs by more than 1e-2.
                assert np.abs(found - wanted).max() < 1e-4 * np.ptp(wanted), (i, model.info.backend)
        for name, array in stayed[other].to_arrays().items():
            np.testing.assert_allclose(moving.to_arrays()[name], array, rtol=1e-3, atol=1e-4)


def test_moved_states_go_on_in_a_batch_with_those_that_were_there(
    llama: Model, f32_gguf: Path
) -> None:
    parts = [np.arange(i, i + 20) for i in range(20)]
    wanted = np.stack([llama.forward(part)[0] for part in parts])
    with Model.load(f32_gguf, "reference") as other:
        states = []
        for i, part in enumerate(parts):
            _, state = (other, llama)[i % 2].forward(part[:10])
            states.append(llama.state_from_arrays(state.to_arrays()) if i % 2 == 0 else state)
    found = llama.forward_batch([part[10:] for part in parts], states)
    # float32 sums in another order; relative to the spread of the logits.
    assert np.abs(found - wanted).max() < 1e-4 * np.ptp(wanted)


def test_a_layout_that_is_unknown_stops_what_moves_and_nothing_else(
    llama: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = list(b"Some text.")
    _, state = llama.forward(tokens)
    arrays = state.to_arrays()
    wanted, _ = llama.forward(tokens, state)
    blob_of = LlamaCppBackend._blob_of
    # As if a release wrote 4 bytes more before each state.
    monkeypatch.setattr(LlamaCppBackend, "_blob_of", lambda *of: b"more" + blob_of(*of))
    _, state = llama.forward(tokens)
    uses = [
        state.to_arrays,
        lambda: state.save(tmp_path / "a.state"),
        lambda: llama.state_from_arrays(arrays),
    ]
    for use in uses:
        with pytest.raises(BackendUnavailableError, match="in a layout that is unknown here"):
            use()
    assert not list(tmp_path.iterdir())
    found, _ = llama.forward(tokens, state)
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("function", ["llama_state_seq_get_data", "llama_state_seq_set_data"])
def test_a_state_that_llama_cpp_moves_in_part_is_an_error(
    llama: Model, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    import llama_cpp

    _, state = llama.forward([1, 2, 3])
    copy = state.clone()
    monkeypatch.setattr(llama_cpp, function, lambda *_: 0)
    with pytest.raises(BackendUnavailableError, match=r"llama.cpp (gave|took) 0 of a state's"):
        llama.forward([4], copy)


def test_moving_a_state_in_leaves_the_one_that_was_there(llama: Model) -> None:
    _, first = llama.forward([1, 2, 3])
    second = llama.state_from_arrays(first.to_arrays())
    one, two = (llama.forward([4, 5], state)[0] for state in (first, second))
    # Which cell a state is in does not change what is computed from it.
    assert np.array_equal(one, two)
