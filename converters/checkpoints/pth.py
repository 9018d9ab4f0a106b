"""The zip file that `torch.save` writes, read without torch.

Members: `NAME/data.pkl`, the pickle; `NAME/data/KEY`, one uncompressed member for each storage;
`NAME/byteorder`. Tensors are read straight out of the file, at the place where a member lies.
"""

import os
import struct
import zipfile
from bisect import bisect_right
from pathlib import Path
from typing import BinaryIO

from rwkv_edge.converters.checkpoints.base import plain, require_plain_name
from rwkv_edge.converters.checkpoints.pickled import MAX_PICKLE_BYTES, PickleError, load_tensors
from rwkv_edge.converters.checkpoints.state_dict import find_state_dict, place
from rwkv_edge.converters.checkpoints.tensors import Directory, Tensor
from rwkv_edge.errors import FormatError

ZIP_MAGIC = b"PK\x03\x04"
# Signature; versions, flags, times and sizes; then the lengths of the name and the extra field.
LOCAL_HEADER = struct.Struct("<4s22xHH")
ENCRYPTED = 0x1
# The largest published model has 2,000 members of about 100 bytes. One of 47 bytes takes 450 in
# memory.
MAX_DIRECTORY_BYTES = 4 << 20


def read_pth_directory(path: Path) -> Directory:
    """Where each tensor of a `.pth` lies; raises FormatError."""
    with open(path, "rb") as file:
        members = _Members(path, file)
        pickle_name = members.only_one_ending_in("/data.pkl")
        root = pickle_name.removesuffix("data.pkl")
        byteorder = f"{root}byteorder"
        if members.holds(byteorder) and members.read(byteorder, 16) != b"little":
            raise FormatError(
                f"{path}: was saved on a big-endian machine; save it again on another"
            )
        try:
            pickled = load_tensors(members.read(pickle_name, MAX_PICKLE_BYTES))
            tensors = find_state_dict(pickled)
        except PickleError as error:
            raise FormatError(f"{path}: {error}") from error
        placed: dict[str, Tensor] = {}
        for key, tensor in tensors.items():
            name = require_plain_name(path, key)
            start, n_bytes = members.extent(f"{root}data/{tensor.storage.key}")
            placed[name] = place(path, name, tensor, start, n_bytes)
        return Directory(placed, (path,))


class _Bounded:
    """A file as zipfile sees it, where no single read is larger than a zip directory can be."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._n_bytes = file.seek(0, os.SEEK_END)
        self.seek = file.seek
        self.tell = file.tell

    def read(self, n_bytes: int = -1) -> bytes:
        if n_bytes > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a directory of {n_bytes} bytes")
        # Python allocates what is asked for, however little of it is there.
        n_left = max(0, self._n_bytes - self.tell())
        return self._file.read(min(n_left, n_bytes if n_bytes >= 0 else MAX_DIRECTORY_BYTES))


class _Members:
    """The members of a zip file, and where their bytes begin."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._n_bytes = file.seek(0, os.SEEK_END)
        try:
            with zipfile.ZipFile(_Bounded(file)) as archive:
                infos = archive.infolist()
                # Where something else begins: the next member's header, in the end the directory.
                self._starts = sorted({info.header_offset for info in infos} | {archive.start_dir})
        # NotImplementedError: a zip version of the future; ValueError, struct.error: nonsense.
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
            raise FormatError(
                f"{path}: begins like a .pth, but its zip directory is missing or damaged "
                f"({error}); it was probably cut short; fetch it again"
            ) from error
        self._infos = {info.filename: info for info in infos}
        if len(self._infos) != len(infos):
            raise FormatError(f"{path}: two members of the zip file have one name; it is damaged")

    def holds(self, name: str) -> bool:
        return name in self._infos

    def only_one_ending_in(self, suffix: str) -> str:
        found = [name for name in self._infos if name.endswith(suffix)]
        if len(found) != 1 or found[0].count("/") != 1:
            raise FormatError(
                f"{self._path}: is a zip file, but not one that torch.save wrote "
                f"({len(found)} members named data.pkl, wanted 1)"
            )
        return found[0]

    def extent(self, name: str) -> tuple[int, int]:
        """File position and length in bytes of a member's data."""
        info = self._infos.get(name)
        name = plain(name)
        if info is None:
            raise FormatError(f"{self._path}: member {name} is missing; the file is damaged")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & ENCRYPTED:
            raise FormatError(
                f"{self._path}: member {name} is compressed or encrypted, which torch.save never "
                "does; save the checkpoint again"
            )
        header = b""
        # An offset may be any number of 64 bits, and was moved by what stands before the zip file.
        if 0 <= info.header_offset < self._n_bytes:
            self._file.seek(info.header_offset)
            header = self._file.read(LOCAL_HEADER.size)
        if len(header) != LOCAL_HEADER.size or not header.startswith(ZIP_MAGIC):
            raise FormatError(f"{self._path}: member {name} has no header; the file is damaged")
        _, name_length, extra_length = LOCAL_HEADER.unpack(header)
        start = info.header_offset + LOCAL_HEADER.size + name_length + extra_length
        if info.file_size != info.compress_size or start + info.file_size > self._n_bytes:
            raise FormatError(
                f"{self._path}: member {name} says {info.file_size} bytes, more than the file "
                "holds; it is damaged or cut short"
            )
        # Members over one another make a small file many times as large where it is converted.
        after = bisect_right(self._starts, info.header_offset)
        if after == len(self._starts) or start + info.file_size > self._starts[after]:
            raise FormatError(
                f"{self._path}: member {name} overlaps what follows it; the file is damaged"
            )
        return start, info.file_size

    def read(self, name: str, max_bytes: int) -> bytes:
        """A small member, whole."""
        start, n_bytes = self.extent(name)
        if n_bytes > max_bytes:
            raise FormatError(
                f"{self._path}: member {plain(name)} has {n_bytes} bytes; "
                f"no model needs more than {max_bytes}"
            )
        self._file.seek(start)
        return self._file.read(n_bytes)
