"""Zip files that attack whoever opens them: bombs, lies about sizes and places, names as paths."""

import contextlib
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.checkpoints.pth import MAX_DIRECTORY_BYTES
from rwkv_edge.converters.checkpoints.pth_writer import pickled_entry
from rwkv_edge.errors import FormatError
from tests.converters.checkpoints.test_pth import FOUR, ONE_TENSOR, pickled, strided

Forge = Callable[..., Path]


@pytest.mark.parametrize(
    ("shape", "strides"), [((1,), ((1 << 62) - 1,)), ((1, 4), ((1 << 62) - 1, 1)), ((0, 3), (9, 1))]
)
def test_a_stride_that_leads_nowhere_may_be_any_number(
    forge_pth: Forge, shape: Any, strides: Any
) -> None:
    path = forge_pth(pickled(strided("a", 4, 0, shape, strides)), {"0": FOUR.tobytes()})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read("a").shape == shape


@pytest.mark.parametrize("shape", [(0, 1 << 61), (0, 1 << 40, 1 << 40), (1 << 61, 0)])
def test_an_empty_tensor_of_absurd_dimensions_is_refused(forge_pth: Forge, shape: Any) -> None:
    path = forge_pth(pickled(strided("a", 4, 0, shape, (1,) * len(shape))), {"0": FOUR.tobytes()})
    with pytest.raises(FormatError, match=r"a is .*, larger than any tensor"):
        open_checkpoint(path)


def directory_entry(name: bytes, start: int, n_bytes: int) -> bytes:
    """An entry of a zip file's central directory, for an uncompressed member at `start`."""
    return struct.pack(
        "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, n_bytes, n_bytes, len(name),
        0, 0, 0, 0, 0, start,
    ) + name  # fmt: skip


def end_record(n_entries: int, n_bytes: int, start: int, comment: bytes = b"") -> bytes:
    n_entries = min(n_entries, 0xFFFF)
    return (
        struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, n_entries, n_entries, n_bytes, start,
                    len(comment)) + comment
    )  # fmt: skip


def test_a_directory_of_a_million_entries_is_refused(tmp_path: Path) -> None:
    """Each of them costs ten times its bytes in memory."""
    path = tmp_path / "many.pth"
    for n_entries, match in ((40_000, "not one that torch"), (1_000_000, "a directory of")):
        entries = b"".join(directory_entry(b"%07d" % i, 0, 0) for i in range(n_entries))
        head = b"PK\x03\x04" + bytes(26)
        path.write_bytes(head + entries + end_record(n_entries, len(entries), len(head)))
        tracemalloc.start()
        try:
            with pytest.raises(FormatError, match=match):
                open_checkpoint(path)
            limit = 2 * path.stat().st_size + (64 << 20)
            assert tracemalloc.get_traced_memory()[1] < limit
        finally:
            tracemalloc.stop()


def test_members_over_one_another_are_refused(forge_pth: Forge) -> None:
    """One run of bytes under many names: a small file would become a large model."""
    path = forge_pth(ONE_TENSOR, {"0": bytes(16), "1": FOUR.tobytes()})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        header = archive.getinfo("forged/data/0").header_offset
    entry = data.index(b"forged/data/0", data.index(b"PK\x01\x02")) - 46
    # The first storage says that it reaches into the second.
    struct.pack_into("<II", data, entry + 20, 24, 24)
    forged = pickled(pickled_entry("a", "float32", (6,), "0", 6))
    assert header < entry
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"forged/data/0 overlaps what follows it|24 bytes"):
        open_checkpoint(path)
    path = forge_pth(forged, {"0": bytes(16), "1": FOUR.tobytes()})
    data = bytearray(path.read_bytes())
    entry = data.index(b"forged/data/0", data.index(b"PK\x01\x02")) - 46
    struct.pack_into("<II", data, entry + 20, 24, 24)
    path.write_bytes(data)
    with pytest.raises(FormatError, match="forged/data/0 overlaps what follows it"):
        open_checkpoint(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_bomb_is_not_unpacked(forge_pth: Forge, compression: int) -> None:
    """64 MB of zeros in 64 kB, as the pickle and as a storage."""
    zeros = bytes(64 << 20)
    for pickled_bytes, storage in ((zeros, b""), (ONE_TENSOR, zeros)):
        path = forge_pth(pickled_bytes, {"0": storage}, compression=compression)
        assert path.stat().st_size < 1 << 20
        tracemalloc.start()
        try:
            with pytest.raises(FormatError, match="compressed"):
                open_checkpoint(path)
            # As much as a directory may have is looked at, and no more.
            assert tracemalloc.get_traced_memory()[1] < 2 * MAX_DIRECTORY_BYTES
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    "name",
    [
        "../data.pkl",
        "/etc/data.pkl",
        "..\\x/data.pkl",
        "a/../../data.pkl",
        "c:/data.pkl",
        "x\n/data.pkl",
    ],
)
def test_names_of_members_are_no_paths(tmp_path: Path, name: str) -> None:
    """Nothing is ever unpacked to the disk, wherever a name points."""
    path = tmp_path / "in" / "m.pth"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), ONE_TENSOR)
        archive.writestr(zipfile.ZipInfo(name.replace("data.pkl", "data/0")), FOUR.tobytes())
    before = sorted(tmp_path.rglob("*"))
    with contextlib.suppress(FormatError), open_checkpoint(path) as checkpoint:
        checkpoint.read("a")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_comment_may_be_as_long_as_it_likes(forge_pth: Forge) -> None:
    path = forge_pth(ONE_TENSOR, {"0": FOUR.tobytes()})
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"x" * 0xFFFF
    with open_checkpoint(path) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("a"), FOUR)
    with zipfile.ZipFile(path, "a") as archive:
        # It looks like another end of the file.
        archive.comment = end_record(1 << 15, 1 << 31, 0) * 2000
    with pytest.raises(FormatError, match="zip directory is missing or damaged"):
        open_checkpoint(path)


@pytest.mark.parametrize("value", [1 << 40, (1 << 64) - 1, 1 << 63])
@pytest.mark.parametrize("place", ["size", "compressed", "offset", "end"])
def test_lies_in_zip64_fields_are_refused(tmp_path: Path, place: str, value: int) -> None:
    """The sizes of more than 32 bits, which stand in fields of their own."""
    fields = {"size": 16, "compressed": 16, "offset": 0, place: value}
    name = b"m/data/0"
    extra = struct.pack("<2H3Q", 1, 24, fields["size"], fields["compressed"], fields["offset"])
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 45, 0, 0, 0, 0, 0, 16, 16, len(name), 0) + name
    pickle_name = b"m/data.pkl"
    second = struct.pack(
        "<4s5H3I2H", b"PK\x03\x04", 45, 0, 0, 0, 0, 0, len(ONE_TENSOR), len(ONE_TENSOR),
        len(pickle_name), 0,
    ) + pickle_name  # fmt: skip
    head = local + FOUR.tobytes()
    entry = bytearray(directory_entry(name, 0xFFFFFFFF, 0xFFFFFFFF))
    struct.pack_into("<H", entry, 30, len(extra))
    directory = bytes(entry) + extra
    directory += directory_entry(pickle_name, len(head), len(ONE_TENSOR))
    body = head + second + ONE_TENSOR
    size, start = len(directory), len(body)
    end64 = struct.pack(
        "<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2,
        value if place == "end" else size, start,
    )  # fmt: skip
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, start + size, 1)
    path = tmp_path / "m.pth"
    path.write_bytes(body + directory + end64 + locator + end_record(2, 0xFFFFFFFF, 0xFFFFFFFF))
    with pytest.raises(FormatError, match=r"m\.pth"):
        open_checkpoint(path)
