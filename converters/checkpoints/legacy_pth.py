"""What `torch.save` wrote before version 1.6, and before 0.1.10, read without torch.

Before 1.6, pickles one after the other: a magic number, a version, facts about the machine, the
dict of tensors, the keys of the storages; then each storage, its number of elements before it.
Before 0.1.10, a tar file of three members: `storages` and `tensors`, where each pickle that
describes one is followed by it, and `pickle`, the dict, which names tensors by their numbers.
Source: torch/serialization.py, `_legacy_save` and `_legacy_load`.
"""

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

from rwkv_edge.converters.checkpoints.base import is_size, require_plain_name
from rwkv_edge.converters.checkpoints.pickled import (
    MAX_PICKLE_BYTES,
    Global,
    PickledTensor,
    PickleError,
    Storage,
    load_value,
    rebuild_tensor,
    require_dict,
    storage_dtype,
    viewed,
)
from rwkv_edge.converters.checkpoints.state_dict import find_state_dict, place
from rwkv_edge.converters.checkpoints.tar import tar_members
from rwkv_edge.converters.checkpoints.tensors import MAX_DIMENSIONS, Directory, Tensor
from rwkv_edge.errors import FormatError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
# The number as a pickle spells it.
MAGIC_BYTES = MAGIC_NUMBER.to_bytes(10, "little")
COUNT = struct.Struct("<q")
# A tensor of the tar file: its number of dimensions, in 8 bytes of which 4 count.
N_DIMENSIONS = struct.Struct("<i4x")
# Bytes of a number of each type, also of those that are only passed over.
ELEMENT_BYTES = {
    "float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "int64": 8, "int32": 4, "int16": 2,
    "int8": 1, "uint8": 1, "bool": 1, "untyped": 1,
}  # fmt: skip


class _Window:
    """A part of a file that pickles are read from: no read is larger than what is left of it."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file = file
        self.end = end
        self._budget = MAX_PICKLE_BYTES
        file.seek(start)
        self.tell = file.tell

    def read(self, n_bytes: int) -> bytes:
        """Up to so many bytes; raises PickleError when all pickles together are too large."""
        return self._counted(self._file.read(self._bounded(n_bytes)))

    def readline(self) -> bytes:
        """Up to the end of a line."""
        return self._counted(self._file.readline(self._bounded(MAX_PICKLE_BYTES)))

    def number(self) -> int:
        """8 bytes that are no pickle."""
        data = self._file.read(self._bounded(COUNT.size))
        if len(data) != COUNT.size:
            raise PickleError("ends too early; it was probably cut short; fetch it again")
        found: int = COUNT.unpack(data)[0]
        return found

    def skip(self, n_bytes: int) -> int:
        """Pass over bytes that must be there; gives where they begin."""
        start = self.tell()
        if not 0 <= n_bytes <= self.end - start:
            raise PickleError(
                f"says that {n_bytes} bytes follow at byte {start}; {self.end - start} do; it was "
                "probably cut short; fetch it again"
            )
        self._file.seek(n_bytes, os.SEEK_CUR)
        return start

    def _bounded(self, n_bytes: int) -> int:
        return max(0, min(n_bytes, self.end - self.tell(), self._budget + 1))

    def _counted(self, data: bytes) -> bytes:
        self._budget -= len(data)
        if self._budget < 0:
            raise PickleError(f"describes its tensors in more than {MAX_PICKLE_BYTES} bytes")
        return data


def looks_like_legacy_pth(head: bytes) -> bool:
    """`head`: the first bytes of a file."""
    return head.startswith(b"\x80") and MAGIC_BYTES in head[:32]


def read_legacy_directory(path: Path) -> Directory:
    """Where each tensor of a file from before version 1.6 lies; raises FormatError."""
    with open(path, "rb") as file:
        try:
            window = _Window(file, 0, file.seek(0, os.SEEK_END))
            tensors, extents = read_pickles(window)
        except PickleError as error:
            raise FormatError(f"{path}: {error}") from error
    return placed(path, tensors, extents)


def read_pickles(
    window: _Window,
) -> tuple[dict[Any, PickledTensor], dict[str, tuple[int, int]]]:
    """The tensors by name, and where each storage lies, and how many bytes, by key."""
    found = [load_value(window) for _ in range(2)]
    if found != [MAGIC_NUMBER, PROTOCOL_VERSION]:
        raise PickleError("begins like a checkpoint of before torch 1.6, but goes on otherwise")
    machine = load_value(window)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise PickleError("was saved on a big-endian machine; save it again on another")
    tensors = find_state_dict(require_dict(load_value(window)))
    storages: dict[str, Storage] = {}
    for tensor in tensors.values():
        first = storages.setdefault(tensor.storage.key, tensor.storage)
        if (first.dtype, first.n_elements) != (tensor.storage.dtype, tensor.storage.n_elements):
            raise PickleError("describes one storage in two ways; it is damaged")
    keys = load_value(window)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise PickleError("does not list its storages as torch.save does")
    if len(set(keys)) != len(keys) or set(keys) != set(storages):
        raise PickleError(
            f"lists {len(keys)} storages; its tensors lie in {len(storages)}; it is damaged, or "
            "holds more than a dict of tensors"
        )
    extents: dict[str, tuple[int, int]] = {}
    for key in keys:
        n_bytes = sized(window.number()) * ELEMENT_BYTES[storages[key].dtype]
        extents[key] = (window.skip(n_bytes), n_bytes)
    return tensors, extents


def read_tar_directory(path: Path) -> Directory:
    """Where each tensor of a file from before version 0.1.10 lies; raises FormatError."""
    with open(path, "rb") as file:
        try:
            members = tar_members(file)
            missing = [name for name in ("storages", "tensors", "pickle") if name not in members]
            if missing:
                raise PickleError(f"is a tar file without {missing[0]}, so not torch.save's")
            storages, extents = read_storages(_Window(file, *members["storages"]))
            tensors = read_tensors(_Window(file, *members["tensors"]), storages)
            window = _Window(file, *members["pickle"])
            state = find_state_dict(require_dict(load_value(window, tensors)))
        except PickleError as error:
            raise FormatError(f"{path}: {error}") from error
    return placed(path, state, extents)


def read_storages(window: _Window) -> tuple[dict[str, Storage], dict[str, tuple[int, int]]]:
    """The storages by number, views of others among them, and where each lies."""
    storages: dict[str, Storage] = {}
    extents: dict[str, tuple[int, int]] = {}
    for _ in range(sized(load_value(window))):
        key, _, kind = fields(load_value(window), 3)
        dtype = storage_dtype(kind) if isinstance(kind, Global) else None
        name = numbered(key)
        if dtype is None or name in storages:
            raise PickleError("describes a storage in a way that torch.save does not")
        n_elements = sized(window.number())
        n_bytes = n_elements * ELEMENT_BYTES[dtype]
        storages[name] = Storage(name, dtype, n_elements, 0, n_elements)
        extents[name] = (window.skip(n_bytes), n_bytes)
    views = load_value(window)
    for view in views if isinstance(views, list) else []:
        key, root, first, n_visible = fields(view, 4)
        storages[numbered(key)] = viewed(known(storages, root), sized(first), sized(n_visible))
    return storages, extents


def read_tensors(window: _Window, storages: dict[str, Storage]) -> dict[str, PickledTensor]:
    """The tensors by number."""
    tensors: dict[str, PickledTensor] = {}
    for _ in range(sized(load_value(window))):
        key, storage, _ = fields(load_value(window), 3)
        (n_dims,) = N_DIMENSIONS.unpack(COUNT.pack(window.number()))
        if not 0 <= n_dims <= MAX_DIMENSIONS:
            raise PickleError(f"has a tensor of {n_dims} dimensions; it is damaged")
        shape = tuple(window.number() for _ in range(n_dims))
        strides = tuple(window.number() for _ in range(n_dims))
        offset = window.number()
        stored = known(storages, storage)
        tensors[numbered(key)] = rebuild_tensor(stored, offset, shape, strides)
    return tensors


def placed(
    path: Path, tensors: dict[Any, PickledTensor], extents: dict[str, tuple[int, int]]
) -> Directory:
    """Check each tensor against the bytes of its storage."""
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = require_plain_name(path, key)
        found[name] = place(path, name, tensor, *extents[tensor.storage.key])
    return Directory(found, (path,))


def sized(value: Any) -> int:
    """A count out of the file; raises PickleError."""
    if not is_size(value):
        raise PickleError("has something else where a count belongs; it is damaged")
    return int(value)


def fields(value: Any, n: int) -> tuple[Any, ...]:
    """A tuple of `n`; raises PickleError."""
    if not isinstance(value, tuple) or len(value) != n:
        raise PickleError("describes a tensor in a way that torch.save does not")
    return value


def numbered(key: Any) -> str:
    """What the tar file calls a tensor or a storage, a number, as a text; raises PickleError."""
    if not is_size(key):
        raise PickleError("names a tensor or a storage in a way that torch.save does not")
    return str(key)


def known(storages: dict[str, Storage], key: Any) -> Storage:
    """The storage of this number; raises PickleError."""
    storage = storages.get(numbered(key))
    if storage is None:
        raise PickleError("names a storage that it does not hold; it is damaged")
    return storage
