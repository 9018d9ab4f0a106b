"""What torch.save writes is read as torch reads it; what is damaged is refused."""

import collections
import contextlib
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge.converters.checkpoints import Checkpoint, open_checkpoint
from rwkv_edge.converters.checkpoints.pth_writer import (
    PthWriter,
    integer,
    integers,
    named,
    pickled_entry,
    text,
)
from rwkv_edge.errors import FormatError

Forge = Callable[..., Path]
Save = Callable[..., Path]


def pickled(*entries: bytes) -> bytes:
    return b"\x80\x02}(" + b"".join(entries) + b"u."


def strided(name: str, n_stored: int, offset: int, shape: Any, strides: Any) -> bytes:
    storage = (
        b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu")
        + integer(n_stored) + b"tQ"
    )  # fmt: skip
    arguments = storage + integer(offset) + integers(shape) + integers(strides) + b"\x89N"
    return text(name) + named("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


FOUR = np.arange(1, 5, dtype=np.float32)
ONE_TENSOR = pickled(pickled_entry("a", "float32", (4,), "0", 4))


def assert_same(checkpoint: Checkpoint, state: dict[str, Any]) -> None:
    assert checkpoint.names() == list(state)
    for name, tensor in state.items():
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert checkpoint.dtype(name) == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(checkpoint.read(name), tensor.detach().float().numpy())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_tensors_equal_what_torch_saved(save_with_torch: Save, dtype: str, protocol: int) -> None:
    torch = pytest.importorskip("torch")
    state = {
        "matrix": torch.randn(33, 7),
        "vector": torch.randn(1, 1, 5),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "extremes": torch.tensor([0.0, -0.0, 6e-8, 65504.0, float("inf"), float("nan")]),
    }
    state = {name: tensor.to(getattr(torch, dtype)) for name, tensor in state.items()}
    with open_checkpoint(save_with_torch(state, pickle_protocol=protocol)) as checkpoint:
        assert_same(checkpoint, state)


def test_views_of_one_storage_are_read_apart(save_with_torch: Save) -> None:
    torch = pytest.importorskip("torch")
    whole = torch.randn(12, 10)
    state = {
        "whole": whole,
        "rows": whole[3:7],
        "columns": whole[:, 2:5],
        "transposed": whole.t(),
        "every_other": whole[1::2, ::3],
        "tied": whole,
    }
    with open_checkpoint(save_with_torch(state)) as checkpoint:
        assert_same(checkpoint, state)


@pytest.mark.parametrize("transposed", [False, True])
def test_rows_are_those_of_the_whole(save_with_torch: Save, transposed: bool) -> None:
    torch = pytest.importorskip("torch")
    matrix = torch.randn(40, 17).to(torch.bfloat16)
    matrix = matrix.t().contiguous().t() if transposed else matrix
    other = matrix + 1
    with open_checkpoint(save_with_torch({"m": matrix, "other": other})) as checkpoint:
        for name, tensor in (("m", matrix), ("other", other), ("m", matrix)):
            out = np.empty((9, 17), np.uint16)
            checkpoint.read_rows(name, 30, 39, out)
            expected = tensor.contiguous().view(torch.uint16).numpy()[30:39]
            np.testing.assert_array_equal(out, expected)


def test_parameters_and_ordered_dicts_are_tensors_and_dicts(save_with_torch: Save) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(3, 2)
    state = module.state_dict()
    assert isinstance(state, collections.OrderedDict)
    with open_checkpoint(save_with_torch(state)) as checkpoint:
        assert_same(checkpoint, state)
    parameters = dict(module.named_parameters())
    with open_checkpoint(save_with_torch(parameters)) as checkpoint:
        assert_same(checkpoint, parameters)


@pytest.mark.parametrize("wrap", ["state_dict", "model_state_dict", "model", "module"])
def test_a_wrapped_state_dict_is_found(save_with_torch: Save, wrap: str) -> None:
    torch = pytest.importorskip("torch")
    state = {"emb.weight": torch.randn(2, 2)}
    wrapped = {"epoch": 3, "loss": 0.5, "note": None, "done": True, wrap: state}
    with open_checkpoint(save_with_torch(wrapped)) as checkpoint:
        assert_same(checkpoint, state)


@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "module.model."])
def test_a_prefix_of_every_name_goes(save_with_torch: Save, prefix: str) -> None:
    torch = pytest.importorskip("torch")
    with open_checkpoint(save_with_torch({prefix + "emb.weight": torch.ones(1)})) as checkpoint:
        assert checkpoint.names() == ["emb.weight"]
    both = {prefix + "emb.weight": torch.ones(1), "emb.weight": torch.ones(1)}
    with pytest.raises(FormatError, match="twice"):
        open_checkpoint(save_with_torch(both))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "a list; wanted a dict"),
        ({}, "no dict of tensors"),
        ({"epoch": 3}, "no dict of tensors"),
        ({"a": {"b": {"c": {}}}}, "no dict of tensors"),
    ],
)
def test_what_is_no_state_dict_is_refused(save_with_torch: Save, value: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        open_checkpoint(save_with_torch(value))


def test_other_numbers_are_listed_and_refused_when_read(save_with_torch: Save) -> None:
    torch = pytest.importorskip("torch")
    state = {"a": torch.ones(2, dtype=torch.float64), "b": torch.ones(2)}
    with open_checkpoint(save_with_torch(state)) as checkpoint:
        assert checkpoint.dtype("a") == "float64"
        with pytest.raises(FormatError, match="a holds float64 numbers; wanted float32"):
            checkpoint.read("a")


def test_numpy_arrays_in_a_checkpoint_are_refused_by_name(save_with_torch: Save) -> None:
    with pytest.raises(FormatError, match="numpy"):
        open_checkpoint(save_with_torch({"a": np.ones(3)}))


def test_a_big_endian_file_is_refused(forge_pth: Forge) -> None:
    path = forge_pth(ONE_TENSOR, {"0": FOUR.tobytes()}, members={"byteorder": b"big"})
    with pytest.raises(FormatError, match="big-endian"):
        open_checkpoint(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_compressed_file_is_refused(forge_pth: Forge, compression: int) -> None:
    path = forge_pth(ONE_TENSOR, {"0": FOUR.tobytes()}, compression=compression)
    with pytest.raises(FormatError, match="compressed"):
        open_checkpoint(path)


def test_a_missing_storage_is_refused(forge_pth: Forge) -> None:
    with pytest.raises(FormatError, match="forged/data/0 is missing"):
        open_checkpoint(forge_pth(ONE_TENSOR))


@pytest.mark.parametrize("n_bytes", [0, 15, 17, 20])
def test_a_storage_of_another_size_is_refused(forge_pth: Forge, n_bytes: int) -> None:
    path = forge_pth(ONE_TENSOR, {"0": bytes(n_bytes)})
    with pytest.raises(FormatError, match=f"a: its storage holds {n_bytes} bytes.*need 16"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (4, (1,), (1,)),
        (5, (0,), (1,)),
        (1 << 61, (1,), (1,)),
        (0, (2, 2), (3, 1)),
        (0, (2,), (4,)),
        (0, (5,), (0,)),
        (0, (1 << 40, 1 << 40), (0, 0)),
        (0, (1 << 61, 1 << 61), (1, 1)),
    ],
)
def test_a_tensor_that_leaves_its_storage_is_refused(
    forge_pth: Forge, offset: int, shape: Any, strides: Any
) -> None:
    path = forge_pth(pickled(strided("a", 4, offset, shape, strides)), {"0": FOUR.tobytes()})
    with pytest.raises(FormatError, match=r"a: .*its storage has"):
        open_checkpoint(path)


def test_a_strided_tensor_within_its_storage_is_read(forge_pth: Forge) -> None:
    path = forge_pth(pickled(strided("a", 4, 1, (2, 2), (1, 1))), {"0": FOUR.tobytes()})
    with pytest.raises(FormatError):
        # Four numbers out of the three that are left: torch.save writes no such overlap.
        open_checkpoint(path)
    path = forge_pth(pickled(strided("a", 4, 0, (2, 2), (1, 2))), {"0": FOUR.tobytes()})
    with open_checkpoint(path) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("a"), [[1, 3], [2, 4]])


@pytest.mark.parametrize("name", ["", "a\nb", "a\x1b[31m", "a" * 300])
def test_a_name_that_would_spoil_a_message_is_refused(forge_pth: Forge, name: str) -> None:
    path = forge_pth(pickled(pickled_entry(name, "float32", (4,), "0", 4)), {"0": FOUR.tobytes()})
    with pytest.raises(FormatError, match="names a tensor") as caught:
        open_checkpoint(path)
    assert str(caught.value).isprintable()


def test_a_zip_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(FormatError, match=r"not one that torch\.save wrote"):
        open_checkpoint(path)


def test_two_members_of_one_name_are_refused(forge_pth: Forge) -> None:
    path = forge_pth(ONE_TENSOR, {"0": FOUR.tobytes()})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("forged/data/0", FOUR.tobytes())
    with pytest.raises(FormatError, match="one name"):
        open_checkpoint(path)


def test_a_file_cut_anywhere_is_refused(forge_pth: Forge, tmp_path: Path) -> None:
    whole = forge_pth(ONE_TENSOR, {"0": FOUR.tobytes()}).read_bytes()
    path = tmp_path / "cut.pth"
    for n_bytes in range(len(whole)):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(FormatError, match=r"cut\.pth"):
            open_checkpoint(path)


def test_any_changed_byte_is_refused_or_read_within_bounds(
    forge_pth: Forge, tmp_path: Path
) -> None:
    whole = bytearray(forge_pth(ONE_TENSOR, {"0": FOUR.tobytes()}).read_bytes())
    path = tmp_path / "changed.pth"
    for i in range(len(whole)):
        for value in {0, 0xFF, whole[i] ^ 1, whole[i] ^ 0x80}:
            changed = whole.copy()
            changed[i] = value
            path.write_bytes(changed)
            with contextlib.suppress(FormatError), open_checkpoint(path) as checkpoint:
                for name in checkpoint.names():
                    checkpoint.read(name)


def test_a_directory_of_many_gigabytes_is_not_read(forge_pth: Forge) -> None:
    """The end record says where the directory begins and how long it is; zipfile believes it."""
    path = forge_pth(ONE_TENSOR, {"0": FOUR.tobytes()})
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    with open(path, "r+b") as file:
        # A sparse file, so that the directory's length can be true.
        n_bytes = 3 << 30
        file.seek(end + n_bytes)
        record = data[end:]
        struct.pack_into("<II", record, 12, n_bytes, end)
        file.write(record)
    with pytest.raises(FormatError, match=f"a directory of {n_bytes} bytes"):
        open_checkpoint(path)


def test_a_member_that_claims_more_than_the_file_is_refused(forge_pth: Forge) -> None:
    """The pickle and the zip directory agree; only the file is too small."""
    n_bytes = 1 << 30
    path = forge_pth(
        pickled(pickled_entry("a", "float32", (n_bytes // 4,), "0", n_bytes // 4)),
        {"0": FOUR.tobytes()},
    )
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    struct.pack_into("<II", data, entry + 20, n_bytes, n_bytes)
    path.write_bytes(data)
    with pytest.raises(FormatError, match=f"says {n_bytes} bytes, more than the file"):
        open_checkpoint(path)


def test_a_file_that_shrinks_while_open_is_refused(forge_pth: Forge) -> None:
    path = forge_pth(ONE_TENSOR, {"0": FOUR.tobytes()})
    with open_checkpoint(path) as checkpoint:
        path.write_bytes(b"")
        with pytest.raises(FormatError, match="shrank"):
            checkpoint.read("a")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_torch_reads_what_the_writer_wrote(tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "written.pth"
    tensors = {"a.weight": torch.randn(5, 3), "b": torch.randn(1, 1, 4), "c": torch.randn(0)}
    tensors = {name: t.to(getattr(torch, dtype)) for name, t in tensors.items()}
    with PthWriter(path) as writer:
        for name, tensor in tensors.items():
            data = tensor.view(torch.uint8).numpy().tobytes()
            writer.add(name, dtype, tuple(tensor.shape), [data[:2], data[2:]])
    for mmap in (False, True):
        loaded = torch.load(path, weights_only=True, mmap=mmap)
        assert loaded.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(loaded[name], tensor)


@pytest.mark.parametrize(
    "key", [integer(3), b"\x8b" + struct.pack("<i", 5000) + b"\x7f" * 5000, b"N", b"\x88"]
)
def test_a_tensor_that_no_text_names_is_refused(forge_pth: Forge, key: bytes) -> None:
    """Python refuses to write a number of more than 4,300 digits, with an error of its own."""
    entry = pickled_entry("", "float32", (4,), "0", 4).removeprefix(text(""))
    path = forge_pth(b"\x80\x02}(" + key + entry + b"u.", {"0": FOUR.tobytes()})
    with pytest.raises(FormatError, match=r"names a tensor by a|a number past"):
        open_checkpoint(path)
