"""Torch's formats of before 1.6 and before 0.1.10 are read as torch reads them, nothing is run."""

import contextlib
import os
import pickle
import struct
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge.converters.checkpoints import Checkpoint, container_of, open_checkpoint
from rwkv_edge.converters.checkpoints.legacy_pth import MAGIC_NUMBER, PROTOCOL_VERSION
from rwkv_edge.converters.checkpoints.pickled import MAX_PICKLE_BYTES
from rwkv_edge.converters.checkpoints.pth_writer import integer, integers, named, text
from rwkv_edge.errors import FormatError
from tests.converters.checkpoints.tar_writer import FOUR, oldest

Save = Callable[..., Path]
THIS_MACHINE = {"protocol_version": PROTOCOL_VERSION, "little_endian": True, "type_sizes": {}}


def assert_same(checkpoint: Checkpoint, state: dict[str, Any]) -> None:
    assert checkpoint.names() == list(state)
    for name, tensor in state.items():
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert checkpoint.dtype(name) == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(checkpoint.read(name), tensor.detach().float().numpy())


def state_of(torch: Any, dtype: Any) -> dict[str, Any]:
    whole = torch.randn(12, 10).to(dtype)
    return OrderedDict(
        whole=whole,
        rows=whole[3:7],
        transposed=whole.t(),
        every_other=whole[1::2, ::3],
        tied=whole,
        vector=torch.randn(1, 1, 5).to(dtype),
        scalar=torch.tensor(2.5).to(dtype),
        empty=torch.zeros(0, 3).to(dtype),
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_tensors_of_before_1_6_equal_what_torch_saved(
    save_with_torch: Save, dtype: str, protocol: int
) -> None:
    torch = pytest.importorskip("torch")
    state = state_of(torch, getattr(torch, dtype))
    path = save_with_torch(state, _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    assert container_of(path).name == "legacy-pth"
    with open_checkpoint(path) as checkpoint:
        assert_same(checkpoint, state)


def test_parameters_and_wrapped_state_dicts_of_before_1_6_are_found(save_with_torch: Save) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(3, 2)
    wrapped = {"epoch": 3, "state_dict": dict(module.named_parameters())}
    path = save_with_torch(wrapped, _use_new_zipfile_serialization=False)
    with open_checkpoint(path) as checkpoint:
        assert_same(checkpoint, module.state_dict())


def test_other_numbers_are_passed_over_and_refused_when_read(save_with_torch: Save) -> None:
    torch = pytest.importorskip("torch")
    state = {
        f"t{i}": torch.arange(1, 4).to(dtype)
        for i, dtype in enumerate((torch.int64, torch.float32, torch.bool, torch.float64))
    }
    path = save_with_torch(state, _use_new_zipfile_serialization=False)
    with open_checkpoint(path) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("t1"), [1, 2, 3])
        with pytest.raises(FormatError, match="t0 holds int64 numbers"):
            checkpoint.read("t0")


# --- Files of before 1.6 made by hand ---


def storage(view: bytes = b"N", n_elements: int = 4, key: str = "7") -> bytes:
    return (
        b"(" + text("storage") + named("torch", "FloatStorage") + text(key) + text("cpu")
        + integer(n_elements) + view + b"tQ"
    )  # fmt: skip


def entry(name: str, stored: bytes, offset: int, shape: Any, strides: Any) -> bytes:
    arguments = stored + integer(offset) + integers(shape) + integers(strides)
    return text(name) + named("torch._utils", "_rebuild_tensor") + b"(" + arguments + b"tR"


def forged(
    *entries: bytes,
    keys: Any = ("7",),
    data: bytes = struct.pack("<q", 4) + FOUR.tobytes(),
    machine: Any = THIS_MACHINE,
    version: Any = PROTOCOL_VERSION,
) -> bytes:
    head = [pickle.dumps(value, 2) for value in (MAGIC_NUMBER, version, machine)]
    state = b"\x80\x02}(" + b"".join(entries) + b"u."
    return b"".join(head) + state + pickle.dumps(list(keys), 2) + data


WHOLE = entry("a", storage(), 0, (4,), (1,))


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "forged.pth"
    path.write_bytes(data)
    return path


def test_a_view_sees_its_part_of_a_storage_as_torch_sees_it(tmp_path: Path) -> None:
    """What torch wrote before 0.4: the storage of a tensor may be a view of another."""
    view = b"(" + text("8") + integer(1) + integer(2) + b"t"
    path = write(tmp_path, forged(WHOLE, entry("b", storage(view), 1, (1,), (1,))))
    with open_checkpoint(path) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("b"), [3])
        np.testing.assert_array_equal(checkpoint.read("a"), FOUR)
    torch = pytest.importorskip("torch")
    loaded = torch.load(path, weights_only=False)
    np.testing.assert_array_equal(loaded["b"].numpy(), [3])


HOSTILE = {
    "a storage longer than the file": (
        forged(entry("a", storage(n_elements=1 << 40), 0, (4,), (1,)),
               data=struct.pack("<q", 1 << 40) + FOUR.tobytes()),
        "bytes follow",
    ),
    "a storage of a negative length": (
        forged(WHOLE, data=struct.pack("<q", -4) + FOUR.tobytes()), "where a count belongs"
    ),
    "a storage of another length than the pickle says": (
        forged(WHOLE, data=struct.pack("<q", 3) + FOUR.tobytes()), "its storage holds 12 bytes"
    ),
    "a storage described twice": (
        forged(WHOLE, entry("b", storage(n_elements=3), 0, (3,), (1,))), "in two ways"
    ),
    "a storage listed twice": (forged(WHOLE, keys=("7", "7")), "lists 2 storages"),
    "a storage that is not there": (forged(WHOLE, keys=()), "lists 0 storages"),
    "a storage that no tensor uses": (forged(WHOLE, keys=("7", "8")), "lists 2 storages"),
    "keys that are no texts": (forged(WHOLE, keys=(7,)), "does not list its storages"),
    "a tensor that leaves its storage": (
        forged(entry("a", storage(), 1, (4,), (1,))), "its storage has 3"
    ),
    "a view that leaves its storage": (
        forged(entry("a", storage(b"(" + text("8") + integer(3) + integer(2) + b"t"),
                     0, (1,), (1,))),
        "a view of 2 numbers from 3",
    ),
    "a view of nonsense": (forged(entry("a", storage(b")"), 0, (1,), (1,))), "describes a storage"),
    "a big-endian machine": (forged(WHOLE, machine={"little_endian": False}), "big-endian"),
    "a machine that is no dict": (forged(WHOLE, machine=3), "big-endian"),
    "another version": (forged(WHOLE, version=1002), "goes on otherwise"),
    "a gadget": (
        forged(text("a") + b"cos\nsystem\n(" + text("exit 3") + b"tR"), r"names os\.system"
    ),
    "a gadget where the version belongs": (
        pickle.dumps(MAGIC_NUMBER, 2) + b"\x80\x02cos\nsystem\n(" + text("exit 3") + b"tR.",
        r"names os\.system",
    ),
    "a text of 1 GiB": (
        pickle.dumps(MAGIC_NUMBER, 2) + b"\x80\x02X" + struct.pack("<I", 1 << 30) + b"abc",
        "damaged",
    ),
    "a number of 2 GiB": (
        pickle.dumps(MAGIC_NUMBER, 2) + b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1),
        "damaged",
    ),
    "pickles without end": (
        pickle.dumps(MAGIC_NUMBER, 2) + b"\x80\x02X" + struct.pack("<I", MAX_PICKLE_BYTES)
        + bytes(MAX_PICKLE_BYTES), "more than",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_of_before_1_6_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = write(tmp_path, data)
    tracemalloc.start()
    with pytest.raises(FormatError, match=message) as caught:
        open_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value).isprintable()
    # A text out of the pickle, and its bytes, and the message.
    assert peak < 8 * MAX_PICKLE_BYTES


def test_a_file_of_before_1_6_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = forged(WHOLE)
    for n_bytes in range(len(whole)):
        with pytest.raises(FormatError, match=r"forged\.pth"):
            open_checkpoint(write(tmp_path, whole[:n_bytes]))


def test_any_changed_byte_is_refused_or_read_within_bounds(tmp_path: Path) -> None:
    wholes = [forged(WHOLE), oldest([("a", "1", "8", 0, (2, 2), (2, 1))])]
    for whole in map(bytearray, wholes):
        for i in range(0, len(whole), 1 + len(whole) // 600):
            for value in {0, 0xFF, whole[i] ^ 1, whole[i] ^ 0x80}:
                changed = whole.copy()
                changed[i] = value
                with contextlib.suppress(FormatError):
                    path = write(tmp_path, bytes(changed))
                    with open_checkpoint(path) as checkpoint:
                        for name in checkpoint.names():
                            checkpoint.read(name)


# --- The tar file of before 0.1.10, which nothing writes any more ---


def test_a_tar_file_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    numbers = np.random.default_rng(0).standard_normal(60).astype(np.float32)
    halves = numbers.astype(np.float16)
    tensors = [
        ("whole", "1", "7", 0, (6, 10), (10, 1)),
        ("transposed", "2", "7", 0, (10, 6), (1, 10)),
        ("view", "3", "8", 2, (3,), (4,)),
        ("half", "4", "9", 1, (59,), (1,)),
        ("again", "1", "7", 0, (6, 10), (10, 1)),
    ]
    storages = [
        ("7", "FloatStorage", numbers.tobytes()),
        ("9", "HalfStorage", halves.tobytes()),
    ]
    path = write(tmp_path, oldest(tensors, storages=storages, views=[(8, 7, 20, 11)]))
    assert container_of(path).name == "tar-pth"
    loaded = torch.load(path, weights_only=False)
    assert list(loaded) == [name for name, *_ in tensors]
    with open_checkpoint(path) as checkpoint:
        assert_same(checkpoint, loaded)
    np.testing.assert_array_equal(loaded["view"].numpy(), numbers[[22, 26, 30]])


HOSTILE_TAR = {
    "no pickle": (oldest([], members=("storages", "tensors")), "without pickle"),
    "two pickles": (oldest([], members=("storages", "tensors", "pickle", "pickle")), "one name"),
    "many members": (oldest([], members=("pickle", *["tensors"] * 80)), "one name"),
    "a tensor that leaves its storage": (
        oldest([("a", "1", "8", 1, (2, 2), (2, 1))]), "its storage has 3"
    ),
    "a view that leaves its storage": (
        oldest([], views=[(8, 7, 3, 2)]), "a view of 2 numbers from 3"
    ),
    "a view of an unknown storage": (oldest([], views=[(8, 6, 0, 1)]), "does not hold"),
    "an unknown storage": (oldest([("a", "1", "5", 0, (1,), (1,))]), "does not hold"),
    "nine dimensions": (oldest([("a", "1", "8", 0, (1,) * 9, (1,) * 9)]), "9 dimensions"),
    "a negative shape": (oldest([("a", "1", "8", 0, (-1,), (1,))]), "in a way that torch.save"),
    "two storages of one number": (
        oldest([], storages=[("7", "FloatStorage", b"")] * 2), "in a way that torch.save"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "message"), HOSTILE_TAR.values(), ids=HOSTILE_TAR)
def test_a_hostile_tar_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        open_checkpoint(write(tmp_path, data))


def test_a_tar_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = oldest([("a", "1", "8", 0, (2, 2), (2, 1))])
    end = whole.rindex(b"u.") + 2
    for n_bytes in range(0, end, 7):
        with pytest.raises(FormatError, match=r"forged\.pth"):
            open_checkpoint(write(tmp_path, whole[:n_bytes]))


def test_a_tar_file_names_no_path_outside(tmp_path: Path) -> None:
    """Nothing is extracted: a member called ../storages is just not the one that is wanted."""
    data = oldest([("a", "1", "8", 0, (2, 2), (2, 1))])
    path = write(tmp_path, data.replace(b"storages\0", b"../torag\0", 1))
    before = set(os.listdir(tmp_path.parent))
    with pytest.raises(FormatError):
        open_checkpoint(path)
    assert set(os.listdir(tmp_path.parent)) == before
