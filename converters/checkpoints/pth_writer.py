"""The zip file that `torch.save` writes, written without torch, one storage at a time."""

import pickle
import struct
import zipfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from rwkv_edge.atomic_file import atomic_write
from rwkv_edge.converters.checkpoints.base import ELEMENT_DTYPES, Shape, contiguous_strides
from rwkv_edge.converters.checkpoints.pickled import STORAGE_DTYPES
from rwkv_edge.converters.checkpoints.pth import LOCAL_HEADER

STORAGE_CLASSES = {dtype: name for name, dtype in STORAGE_DTYPES.items()}
PICKLE_PROTOCOL = 2
# torch pads members so that storages can be mapped; the padding is an extra field of this id.
ALIGNMENT = 64
PADDING_FIELD = struct.Struct("<2sH")
PADDING_ID = b"FB"


class PthWriter:
    """Writes a dict of tensors, each from chunks of bytes; use it in a `with` block.

    The file appears when the block ends without an exception, whole or not at all. It is read by
    `torch.load(path, weights_only=True)`.
    """

    def __init__(self, path: Path) -> None:
        """Begin the file; its members lie under a folder named after it, as torch has it."""
        self._open = ExitStack()
        file = self._open.enter_context(atomic_write(path))
        archive = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._archive = self._open.enter_context(archive)
        self._root = path.stem
        self._entries: list[bytes] = []

    def __enter__(self) -> "PthWriter":
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the pickle and the zip directory, unless an exception is on its way."""
        if error is not None:
            self._open.__exit__(kind, error, trace)
            return
        with self._open:
            pickled = pickle.PROTO + bytes([PICKLE_PROTOCOL]) + pickle.EMPTY_DICT + pickle.MARK
            pickled += b"".join(self._entries) + pickle.SETITEMS + pickle.STOP
            self._member("data.pkl", len(pickled), [pickled])
            self._member("byteorder", len(b"little"), [b"little"])
            self._member("version", len(b"3\n"), [b"3\n"])

    def add(
        self, name: str, dtype: str, shape: Shape, chunks: Iterable[bytes | memoryview]
    ) -> None:
        """Write one contiguous tensor; the chunks together are its bytes."""
        key = str(len(self._entries))
        n_elements = 1
        for n in shape:
            n_elements *= n
        self._entries.append(pickled_entry(name, dtype, shape, key, n_elements))
        self._member(f"data/{key}", n_elements * ELEMENT_DTYPES[dtype].itemsize, chunks)

    def _member(self, name: str, n_bytes: int, chunks: Iterable[bytes | memoryview]) -> None:
        info = zipfile.ZipInfo(f"{self._root}/{name}")
        info.file_size = n_bytes
        header_end = self._archive.start_dir + LOCAL_HEADER.size + len(info.filename.encode())
        n_padding = -(header_end + PADDING_FIELD.size) % ALIGNMENT
        info.extra = PADDING_FIELD.pack(PADDING_ID, n_padding) + bytes(n_padding)
        with self._archive.open(info, "w") as member:
            for chunk in chunks:
                member.write(chunk)
        assert info.file_size == n_bytes, f"{name}: {info.file_size} bytes, announced {n_bytes}"


def pickled_entry(name: str, dtype: str, shape: Shape, key: str, n_elements: int) -> bytes:
    """`name: _rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())`."""
    storage = (
        pickle.MARK
        + text("storage")
        + named("torch", STORAGE_CLASSES[dtype])
        + text(key)
        + text("cpu")
        + integer(n_elements)
        + pickle.TUPLE
        + pickle.BINPERSID
    )
    hooks = named("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    arguments = (
        storage
        + integer(0)
        + integers(shape)
        + integers(contiguous_strides(shape))
        + pickle.NEWFALSE
        + hooks
    )
    rebuild = named("torch._utils", "_rebuild_tensor_v2")
    return text(name) + rebuild + pickle.MARK + arguments + pickle.TUPLE + pickle.REDUCE


def text(value: str) -> bytes:
    """A str."""
    encoded = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def integer(value: int) -> bytes:
    """A count; beyond 31 bits pickle has another instruction."""
    if value < 1 << 31:
        return pickle.BININT + struct.pack("<i", value)
    encoded = pickle.encode_long(value)
    return pickle.LONG1 + bytes([len(encoded)]) + encoded


def integers(values: Shape) -> bytes:
    """A tuple of counts."""
    return pickle.MARK + b"".join(integer(value) for value in values) + pickle.TUPLE


def named(module: str, name: str) -> bytes:
    """A global."""
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()
