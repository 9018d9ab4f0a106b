"""States: kept, moved, refused."""

import json
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from rwkv_edge import FormatError, Model, RwkvEdgeError, StateMismatchError, state
from rwkv_edge.arch.rwkv7 import Rwkv7Hyperparameters
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.state import FILE_FORMAT, digest

BEFORE = list(b"What was said before the pause, ")
AFTER = list(b"and what was said after it.")


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dull name: pytest's own holds the test's, which a `match` would find."""
    return tmp_path_factory.mktemp("s")


def refused(model: Model, path: Path, match: str, error: type[RwkvEdgeError] = FormatError) -> None:
    with pytest.raises(error, match=match) as caught:
        model.load_state(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    assert len(message) < len(str(path)) + 600


@pytest.fixture
def saved(tmp_path: Path, tiny_model: Model) -> Path:
    path = tmp_path / "talk.state"
    tiny_model.forward(BEFORE)[1].save(path)
    return path


def rewritten(path: Path, change: Callable[[dict[str, str], dict[str, Any]], object]) -> None:
    """Another state file in its place, whole by safetensors' own rules."""
    raw = path.read_bytes()
    (n_header,) = struct.unpack("<Q", raw[:8])
    metadata = json.loads(raw[8 : 8 + n_header])["__metadata__"]
    arrays = safetensors.numpy.load(raw)
    change(metadata, arrays)
    path.write_bytes(safetensors.numpy.save(arrays, metadata=metadata))


@pytest.mark.parametrize("backend", ["numba", "reference", "llama"])
def test_a_saved_state_resumes_to_the_same_bits(
    q8_gguf: Path, tmp_path: Path, backend: str
) -> None:
    if backend == "llama":
        pytest.importorskip("llama_cpp")
    with Model.load(q8_gguf, backend, threads=1) as model:
        _, state = model.forward(BEFORE)
        state.save(tmp_path / "a.state")
        wanted = model.forward(AFTER, state)[0]
    with Model.load(q8_gguf, backend, threads=1) as model:
        found = model.forward(AFTER, model.load_state(tmp_path / "a.state"))[0]
    assert np.array_equal(found, wanted)


def test_a_fresh_state_is_saved_and_loaded(tiny_model: Model, tmp_path: Path) -> None:
    tiny_model.new_state().save(tmp_path / "a.state")
    found = tiny_model.forward(AFTER, tiny_model.load_state(tmp_path / "a.state"))[0]
    assert np.array_equal(found, tiny_model.forward(AFTER)[0])


@pytest.mark.parametrize("other", ["reference", "llama"])
def test_a_conversation_moves_between_engines_and_back(f32_gguf: Path, other: str) -> None:
    if other == "llama":
        pytest.importorskip("llama_cpp")
    with Model.load(f32_gguf) as numba, Model.load(f32_gguf, other) as second:
        wanted = numba.forward(BEFORE + AFTER + BEFORE)[0]
        _, state = numba.forward(BEFORE)
        moved = second.state_from_arrays(state.to_arrays())
        second.forward(AFTER, moved)
        back = numba.state_from_arrays(moved.to_arrays())
        found = numba.forward(BEFORE, back)[0]
    # float32 sums in another order.
    assert np.abs(found - wanted).max() < 1e-4 * np.ptp(wanted)
    assert np.abs(found - wanted).max() > 0 or other == "numba"


def test_a_state_of_the_int8_file_resumes_with_the_int4_file(
    saved: Path, q4_gguf: Path, tiny_model: Model
) -> None:
    with Model.load(q4_gguf) as model:
        state = model.load_state(saved)
        wanted = tiny_model.load_state(saved).to_arrays()
        assert all(np.array_equal(a, wanted[name]) for name, a in state.to_arrays().items())


def test_a_state_of_another_shape_is_refused_and_says_what_differs(
    saved: Path, tmp_path: Path
) -> None:
    hp = synthetic_hyperparameters(2, 64, n_vocab=256, ranks=(32, 32, 32, 32))
    write_synthetic(tmp_path / "small.pth", hp)
    convert(tmp_path / "small.pth", tmp_path / "small.gguf", "Q8_0")
    with Model.load(tmp_path / "small.gguf", "reference") as model:
        refused(
            model, saved, r"a state of shape .*\[3, 128\].* has .*\[2, 64\]", StateMismatchError
        )


def test_a_state_of_another_checkpoint_is_refused(saved: Path, other_gguf: Path) -> None:
    with Model.load(other_gguf, "reference") as model:
        refused(model, saved, "of another checkpoint than", StateMismatchError)


def test_a_state_of_another_version_is_refused(saved: Path, tiny_model: Model) -> None:
    rewritten(saved, lambda metadata, _: metadata.update(version="6"))
    refused(tiny_model, saved, "a state of RWKV-6; .* is RWKV-7", StateMismatchError)


@pytest.mark.parametrize("text", ["6\n\x1b[2J", "x" * 100_000])
@pytest.mark.parametrize("key", ["version", "shape", "fingerprint", "format", "digest"])
def test_metadata_cannot_break_the_line_of_an_error(
    saved: Path, tiny_model: Model, key: str, text: str
) -> None:
    rewritten(saved, lambda metadata, _: metadata.update({key: text}))
    refused(tiny_model, saved, "state", RwkvEdgeError)


@pytest.mark.parametrize("key", ["version", "shape", "fingerprint", "format", "digest"])
def test_a_state_without_one_of_its_keys_is_refused(
    saved: Path, tiny_model: Model, key: str
) -> None:
    rewritten(saved, lambda metadata, _: metadata.pop(key))
    refused(tiny_model, saved, "state", RwkvEdgeError)


def test_another_safetensors_file_is_refused(tmp_path: Path, tiny_model: Model) -> None:
    path = tmp_path / "lora.safetensors"
    path.write_bytes(safetensors.numpy.save({"x": np.zeros(3, np.float32)}))
    refused(tiny_model, path, "not a state of rwkv-edge")
    path.write_bytes(safetensors.numpy.save({}, metadata={"format": FILE_FORMAT}))
    refused(tiny_model, path, "a state of RWKV-None", StateMismatchError)


def test_arrays_that_differ_from_what_the_metadata_says_are_refused(
    saved: Path, tiny_model: Model
) -> None:
    whole = saved.read_bytes()

    def with_arrays(change: Callable[[dict[str, Any]], object]) -> None:
        saved.write_bytes(whole)
        rewritten(saved, lambda _, arrays: change(arrays))
        refused(tiny_model, saved, "it holds .*; this model's state is .* as F32")

    with_arrays(lambda arrays: arrays.pop("wkv"))
    with_arrays(lambda arrays: arrays.clear())
    with_arrays(lambda arrays: arrays.update(extra=np.zeros(1, np.float32)))
    with_arrays(lambda arrays: arrays.update({"x\n" * 999: np.zeros(1, np.float32)}))
    with_arrays(lambda arrays: arrays.update(att_x=arrays["att_x"].T.copy()))
    with_arrays(lambda arrays: arrays.update(att_x=arrays["att_x"].astype(np.float16)))


def test_a_changed_bit_is_noticed(saved: Path, tiny_model: Model) -> None:
    whole = saved.read_bytes()
    (n_header,) = struct.unpack("<Q", whole[:8])
    for position in (8 + n_header, (8 + n_header + len(whole)) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        saved.write_bytes(damaged)
        refused(tiny_model, saved, "the state is damaged")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_is_refused(saved: Path, tiny_model: Model, bad: float) -> None:
    def poison(metadata: dict[str, str], arrays: dict[str, Any]) -> None:
        arrays["wkv"] = arrays["wkv"].copy()
        arrays["wkv"][1, 1, 5, 7] = bad
        metadata["digest"] = digest(arrays)

    rewritten(saved, poison)
    refused(tiny_model, saved, "numbers that are not finite")


def test_a_truncated_state_is_refused_wherever_it_ends(saved: Path, tiny_model: Model) -> None:
    whole = saved.read_bytes()
    for n_bytes in (*range(0, 600, 7), len(whole) // 2, len(whole) - 4, len(whole) - 1):
        saved.write_bytes(whole[:n_bytes])
        refused(tiny_model, saved, "not a state file, or a damaged one")


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"GGUF" + bytes(99), b"PK\x03\x04" + bytes(99), struct.pack("<Q", 1 << 63) + b"{}",
     struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 1 << 30) + bytes(99), b"\xff" * 64],
)  # fmt: skip
def test_what_is_no_state_is_refused(tmp_path: Path, tiny_model: Model, content: bytes) -> None:
    path = tmp_path / "a.state"
    path.write_bytes(content)
    refused(tiny_model, path, "not a state")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes in the file system are POSIX")
def test_a_pipe_is_not_waited_for(tmp_path: Path, tiny_model: Model) -> None:
    os.mkfifo(tmp_path / "a.state")
    refused(tiny_model, tmp_path / "a.state", "is not a regular file")


def test_a_header_of_many_megabytes_is_not_parsed(tmp_path: Path, tiny_model: Model) -> None:
    """safetensors itself would, and make an object of each of its entries."""
    entry = b'"%06d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(entry % i for i in range(200_000)) + b"}"
    path = tmp_path / "a.state"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    tracemalloc.start()
    try:
        refused(tiny_model, path, "its header says 11,")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_state_that_becomes_shorter_while_it_is_read_is_refused(
    saved: Path, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapped file would end the process where its bytes are gone."""

    def check_and_cut(*arguments: Any) -> None:
        os.truncate(saved, saved.stat().st_size // 2)

    monkeypatch.setattr(state, "check_belongs", check_and_cut)
    refused(tiny_model, saved, "it became shorter while it was read")


def test_a_missing_file_and_a_folder_are_errors_of_the_system(
    tmp_path: Path, tiny_model: Model
) -> None:
    with pytest.raises(FileNotFoundError):
        tiny_model.load_state(tmp_path / "no.state")
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on the system
        tiny_model.load_state(tmp_path)
    with pytest.raises(FileNotFoundError):
        tiny_model.new_state().save(tmp_path / "no" / "a.state")


@pytest.mark.parametrize("backend", ["numba", "reference", "llama"])
def test_a_clone_and_its_origin_go_their_own_ways(q8_gguf: Path, backend: str) -> None:
    if backend == "llama":
        pytest.importorskip("llama_cpp")
    with Model.load(q8_gguf, backend, threads=1) as model:
        _, state = model.forward(BEFORE)
        clone = state.clone()
        kept = clone.to_arrays()
        on = model.forward(AFTER, state)[0]
        assert all(np.array_equal(a, kept[name]) for name, a in clone.to_arrays().items())
        gone_on = state.to_arrays()
        assert not np.array_equal(gone_on["wkv"], kept["wkv"])
        assert np.array_equal(model.forward(AFTER, clone)[0], on)
        assert all(np.array_equal(a, gone_on[name]) for name, a in state.to_arrays().items())


def test_the_arrays_of_a_state_are_copies(tiny_model: Model) -> None:
    _, state = tiny_model.forward(BEFORE)
    arrays = state.to_arrays()
    made = tiny_model.state_from_arrays(arrays)
    for array in arrays.values():
        array[:] = np.nan
    wanted = tiny_model.forward(BEFORE + AFTER)[0]
    for one in (state, made):
        assert np.allclose(tiny_model.forward(AFTER, one)[0], wanted, atol=1e-4 * np.ptp(wanted))


def test_assigning_makes_a_state_what_the_other_is_and_no_more(tiny_model: Model) -> None:
    _, one = tiny_model.forward(BEFORE)
    _, two = tiny_model.forward(AFTER)
    one.assign(two)
    wanted = tiny_model.forward(BEFORE, two)[0]
    assert np.array_equal(tiny_model.forward(BEFORE, one)[0], wanted)
    one.assign(one)
    tiny_model.forward(AFTER, one)
    assert not np.array_equal(one.to_arrays()["wkv"], two.to_arrays()["wkv"])


def test_the_state_of_another_model_cannot_be_assigned(tiny_model: Model, other_gguf: Path) -> None:
    with Model.load(other_gguf, "reference") as other:
        state = tiny_model.new_state()
        before = state.to_arrays()
        with pytest.raises(StateMismatchError, match="belongs to"):
            state.assign(other.new_state())
        assert np.array_equal(state.to_arrays()["wkv"], before["wkv"])


def test_arrays_of_other_shapes_or_names_are_no_state(tiny_model: Model) -> None:
    arrays = tiny_model.new_state().to_arrays()
    for wrong in (
        {},
        {**arrays, "extra": np.zeros(3, np.float32)},
        {**arrays, "wkv": arrays["wkv"][:2]},
        {name: arrays[name] for name in ("att_x", "wkv")},
    ):
        with pytest.raises(StateMismatchError, match="are no state of"):
            tiny_model.state_from_arrays(wrong)


def test_arrays_may_come_in_any_order_and_layout(tiny_model: Model) -> None:
    _, state = tiny_model.forward(BEFORE)
    arrays = state.to_arrays()
    shuffled = {name: np.asfortranarray(arrays[name]) for name in reversed(arrays)}
    found = tiny_model.state_from_arrays(shuffled).to_arrays()
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


def test_a_failed_save_keeps_the_state_that_was_there(
    saved: Path, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()
    _, state = tiny_model.forward(AFTER)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            state.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    state.save(saved)
    assert saved.read_bytes() != before


KILLED = """
import os, signal, sys
import rwkv_edge.atomic_file
from rwkv_edge import Model
with Model.load(sys.argv[1], "reference") as model:
    _, state = model.forward([1, 2, 3])
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    state.save(sys.argv[2])
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_process_killed_while_saving_leaves_the_state_that_was_there(
    saved: Path, tiny_model: Model, q8_gguf: Path
) -> None:
    before = saved.read_bytes()
    command = [sys.executable, "-c", KILLED, str(q8_gguf), str(saved)]
    assert subprocess.run(command, check=False, timeout=60).returncode == -9
    assert saved.read_bytes() == before
    tiny_model.load_state(saved).save(saved)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_full_disk_is_an_os_error_and_keeps_the_old_state(
    tmp_path: Path, tiny_model: Model
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("no small disk can be mounted here")
    except FileNotFoundError:
        pytest.skip("no small disk can be mounted here")
    try:
        path = disk / "a.state"
        _, state = tiny_model.forward(BEFORE)
        state.save(path)
        before = path.read_bytes()
        (disk / "filler").write_bytes(bytes(64 << 10))
        tiny_model.forward(AFTER, state)
        with pytest.raises(OSError, match="No space left"):
            state.save(path)
        assert path.read_bytes() == before
        assert sorted(os.listdir(disk)) == ["a.state", "filler"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_state_file_is_small_and_of_constant_size(
    tiny_model: Model, tmp_path: Path, tiny_hyperparameters: Rwkv7Hyperparameters
) -> None:
    hp = tiny_hyperparameters
    n_numbers = hp.n_layer * (2 * hp.n_embd + hp.n_embd * hp.head_size)
    sizes = set()
    for tokens in (BEFORE, BEFORE * 20):
        tiny_model.forward(tokens)[1].save(tmp_path / "a.state")
        sizes.add((tmp_path / "a.state").stat().st_size)
    (size,) = sizes
    assert 4 * n_numbers < size < 4 * n_numbers + 1000
