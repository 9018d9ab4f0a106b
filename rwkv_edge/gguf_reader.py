"""Reading GGUF, from files that may be damaged or made to harm.

Every count and length is bounded by the bytes that are really there before anything is allocated
by it, every tensor's extent is checked against the file, and nothing is copied: tensors are views
of the mapped file.
"""

import contextlib
import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from rwkv_edge.arch.base import Shape
from rwkv_edge.errors import FormatError, UnsupportedModelError, shown
from rwkv_edge.gguf_types import DEFAULT_ALIGNMENT, SCALARS, ValueType, ValueTypes
from rwkv_edge.quant import Bytes, QuantFormat, quant_format_of

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMENSIONS = 4
MAX_ALIGNMENT = 1 << 16
# What becomes of a header in memory may take several times its size: a text of one emoji among
# letters five times, a list of short texts six times. With World a header takes 1.4 MB; the largest
# RWKV has 2,000 tensors.
MAX_HEADER_BYTES = 20 << 20
# Texts of lists so long take no more in memory than in the file, and are not counted: the tuned
# state of a model of 14 billion weights is 85 MB of them.
LONG_TEXT_BYTES = 4096
MAX_TEXTS = 1 << 20
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 15
# Before every text stands its length in bytes.
TEXT_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: its shape in numpy order, its format, and its raw rows as a view of the file.

    raw: (rows, row_bytes) uint8, where rows are all dimensions but the last.
    """

    name: str
    shape: Shape
    quant_format: type[QuantFormat]
    raw: Bytes

    def decode(self) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        """The weights as float32, in `shape`."""
        return self.quant_format.decode(self.raw, self.shape[-1]).reshape(self.shape)


@dataclass(frozen=True)
class UnreadTensor:
    """One tensor of a weight type that this package does not read: what can be said of it.

    type_name: ggml's; n_bytes: of its data, as ggml stores that type.
    """

    name: str
    shape: Shape
    type_name: str
    n_bytes: int


class _Cursor:
    """Walks the header; a read past the end raises FormatError instead of allocating."""

    def __init__(self, buffer: mmap.mmap, path: Path) -> None:
        self.buffer = buffer
        self.path = path
        self.position = 0
        self._n_texts = 0
        self._n_long_bytes = 0

    def fail(self, problem: str) -> FormatError:
        return FormatError(f"{self.path}: {problem}; download or convert it again")

    def cut_off(self) -> FormatError:
        return self.fail(f"the file ends inside its header, at byte {len(self.buffer):,}")

    def too_large(self) -> FormatError:
        return self.fail(f"its header is larger than any model's, {MAX_HEADER_BYTES:,} bytes")

    def take(self, n_bytes: int) -> int:
        """Reserve n_bytes; gives where they start."""
        start = self.position
        if n_bytes > len(self.buffer) - start:
            raise self.cut_off()
        self.position = start + n_bytes
        if self.position - self._n_long_bytes > MAX_HEADER_BYTES:
            raise self.too_large()
        return start

    def number(self, code: str) -> int:
        start = self.take(struct.calcsize("<" + code))
        value: int = struct.unpack_from("<" + code, self.buffer, start)[0]
        return value

    def count(self, what: str, smallest_bytes: int, most: int = MAX_HEADER_BYTES) -> int:
        """A count of items that each take at least `smallest_bytes` of what is left."""
        n_items = self.number("Q")
        if n_items * smallest_bytes > len(self.buffer) - self.position:
            raise self.fail(f"it announces {n_items:,} {what}, more than fit in the file")
        if n_items > most:
            raise self.fail(f"it announces {n_items:,} {what}; a model has at most {most:,}")
        return n_items

    def text(self, what: str) -> str:
        n_bytes = self.number("Q")
        start = self.take(n_bytes)
        try:
            # Out of the map at once: `bytes` between would be a second copy.
            with memoryview(self.buffer) as view, view[start : start + n_bytes] as raw:
                return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not valid UTF-8") from None

    def texts(self) -> list[bytes]:
        """A list of raw byte strings; those of all lists together are bounded."""
        n_items = self.count("strings", smallest_bytes=8, most=MAX_TEXTS - self._n_texts)
        self._n_texts += n_items
        found = []
        # As `number` and `take` would do it, without calls: opening a model waits for 65,536 texts.
        buffer, end, position = self.buffer, len(self.buffer), self.position
        length_at = TEXT_LENGTH.unpack_from
        last = MAX_HEADER_BYTES + self._n_long_bytes
        for _ in range(n_items):
            start = position + TEXT_LENGTH.size
            if start > end:
                raise self.cut_off()
            (n_bytes,) = length_at(buffer, position)
            position = start + n_bytes
            if position > end:
                raise self.cut_off()
            if position > last:
                raise self.too_large()
            found.append(buffer[start:position])
            if n_bytes >= LONG_TEXT_BYTES:
                self._n_long_bytes += n_bytes
                last += n_bytes
        self.position = position
        return found

    def value(self) -> object:
        """A metadata value: a number, a bool, a str, a list of raw byte strings, or an array."""
        kind = self.value_type()
        if kind == ValueType.STRING:
            return self.text("a metadata string")
        if kind != ValueType.ARRAY:
            return self.number(SCALARS[kind])
        item = self.value_type()
        # They nest in theory; no writer does so, and an attack would recurse.
        if item == ValueType.ARRAY:
            raise self.fail("it nests metadata arrays, which no RWKV model does")
        if item == ValueType.STRING:
            return self.texts()
        dtype = np.dtype("<" + SCALARS[item]) if SCALARS[item] != "?" else np.dtype(np.bool_)
        n_items = self.count("array items", dtype.itemsize)
        start = self.take(n_items * dtype.itemsize)
        return np.frombuffer(self.buffer, dtype, n_items, start).copy()

    def types_ahead(self) -> ValueTypes:
        """The type of the value that comes next, which stays unread; of an array's items, too."""
        start = self.position
        kind = self.value_type()
        item = self.value_type() if kind == ValueType.ARRAY else None
        self.position = start
        return kind, item

    def value_type(self) -> ValueType:
        number = self.number("I")
        try:
            return ValueType(number)
        except ValueError:
            raise self.fail(f"metadata type {number} does not exist") from None


class GgufFile:
    """An open GGUF: `metadata` by key, `tensors` by name. Close it, or use it as a context.

    types: those of the values in `metadata`, by key. any_type: tensors of weight types that this
    package does not read are listed in `unread`, rather than the file refused.

    Raises FormatError for a damaged file, UnsupportedModelError for such a weight type, OSError if
    the file cannot be opened.
    """

    def __init__(self, path: str | Path, *, any_type: bool = False) -> None:
        self.path = Path(path)
        self._any_type = any_type
        require_no_pipe(self.path)
        with open(self.path, "rb") as file:
            magic = file.read(len(MAGIC))
            if magic != MAGIC:
                raise FormatError(f"{self.path}: {not_gguf(magic)}")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.metadata: dict[str, object] = {}
        self.types: dict[str, ValueTypes] = {}
        self.tensors: dict[str, GgufTensor] = {}
        self.unread: dict[str, UnreadTensor] = {}
        try:
            self._read_header(_Cursor(self._map, self.path))
        except BaseException:
            self.close()
            raise

    def _read_header(self, cursor: _Cursor) -> None:
        cursor.take(len(MAGIC))
        version = cursor.number("I")
        if version not in VERSIONS:
            # Writers put the magic in one order always, and the version in the machine's.
            if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
                raise FormatError(f"{self.path}: {not_gguf(MAGIC[::-1])}")
            raise cursor.fail(f"GGUF version {version} is not one of {VERSIONS}")
        # The least a tensor takes: name length, dimension count, type, offset.
        n_tensors = cursor.count("tensors", smallest_bytes=24, most=MAX_TENSORS)
        # The least a key takes: its length, its type, one byte of value.
        n_keys = cursor.count("keys", smallest_bytes=13, most=MAX_KEYS)
        self.metadata = dict(self._read_metadata(cursor, n_keys))
        self.tensors = {t.name: t for t in self._read_tensors(cursor, n_tensors)}

    def _read_metadata(self, cursor: _Cursor, n_keys: int) -> Iterator[tuple[str, object]]:
        seen: set[str] = set()
        for _ in range(n_keys):
            key = cursor.text("a metadata key")
            if key in seen:
                raise cursor.fail(f"it holds the key {shown(key)} twice")
            seen.add(key)
            self.types[key] = cursor.types_ahead()
            yield key, cursor.value()

    def _read_tensors(self, cursor: _Cursor, n_tensors: int) -> Iterator[GgufTensor]:
        infos = [self._read_tensor_info(cursor) for _ in range(n_tensors)]
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if (
            not isinstance(alignment, int)
            or not 0 < alignment <= MAX_ALIGNMENT
            or alignment & (alignment - 1)
        ):
            raise cursor.fail(
                f"its alignment {shown(alignment)} is not a power of two up to 65,536"
            )
        data_start = -(-cursor.position // alignment) * alignment
        end_of_previous = 0
        seen: set[str] = set()
        for name, shape, ggml_type, offset in sorted(infos, key=lambda info: info[3]):
            if name in seen:
                raise cursor.fail(f"it holds the tensor {shown(name)} twice")
            seen.add(name)
            tensor_format = quant_format_of(ggml_type)
            type_name = tensor_format.__name__ if tensor_format else ggml_type_name(ggml_type)
            if tensor_format is None and not self._any_type:
                raise UnsupportedModelError(
                    f"{self.path}: {shown(name)} is stored as {type_name}, which "
                    "this version does not read; convert the original checkpoint with "
                    "rwkv-edge convert"
                )
            try:
                row_bytes = (
                    tensor_format.row_bytes(shape[-1])
                    if tensor_format is not None
                    else ggml_row_bytes(ggml_type, shape[-1])
                )
            except FormatError as error:
                raise cursor.fail(f"{shown(name)}: {error}") from None
            n_rows = math.prod(shape[:-1])
            start = data_start + offset
            if offset % alignment or offset < end_of_previous:
                raise cursor.fail(f"{shown(name)} is misaligned or overlaps another tensor")
            if n_rows * row_bytes > len(self._map) - start:
                raise cursor.fail(
                    f"{shown(name)} holds {max(0, len(self._map) - start):,} bytes; "
                    f"{type_name} {list(shape)} needs {n_rows * row_bytes:,}"
                )
            end_of_previous = offset + n_rows * row_bytes
            if tensor_format is None:
                self.unread[name] = UnreadTensor(name, shape, type_name, n_rows * row_bytes)
                continue
            raw = np.frombuffer(self._map, np.uint8, n_rows * row_bytes, start)
            yield GgufTensor(name, shape, tensor_format, raw.reshape(n_rows, row_bytes))

    def _read_tensor_info(self, cursor: _Cursor) -> tuple[str, Shape, int, int]:
        name = cursor.text("a tensor name")
        n_dims = cursor.number("I")
        if not 1 <= n_dims <= MAX_DIMENSIONS:
            raise cursor.fail(f"{shown(name)} has {n_dims} dimensions")
        # GGUF lists the contiguous dimension first; numpy last.
        shape = tuple(cursor.number("Q") for _ in range(n_dims))[::-1]
        if min(shape) < 1 or math.prod(shape) > len(self._map) * 8:
            raise cursor.fail(f"{shown(name)} is {list(shape)}, which cannot fit in the file")
        return name, shape, cursor.number("I"), cursor.number("Q")

    def place_of(self, name: str) -> int:
        """Where in the file the bytes of one of its tensors begin."""
        start: int = np.frombuffer(self._map, np.uint8).ctypes.data
        return int(self.tensors[name].raw.ctypes.data) - start

    def require_whole(self) -> None:
        """Raise FormatError if another program has cut the file since it was opened.

        Reading mapped bytes that are gone ends the process (SIGBUS), and nothing can catch it. This
        is cheap enough to be asked before every use; a cut right after the question still ends it.
        """
        # Python asks the system; its own size of the map is len().
        n_bytes = self._map.size()
        if n_bytes < len(self._map):
            raise FormatError(
                f"{self.path}: was cut to {n_bytes:,} of {len(self._map):,} bytes while it was "
                "open; load it again once it is whole"
            )

    def release_pages(self) -> None:
        """Tell the system that mapped pages read so far are not needed in memory."""
        if hasattr(self._map, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Unmap the file; if views of it are still alive, it goes with the last of them."""
        self.tensors = {}
        with contextlib.suppress(BufferError):
            self._map.close()

    def __enter__(self) -> "GgufFile":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def require_no_pipe(path: Path) -> None:
    """Raise FormatError for a pipe or a device, which opening or reading would wait on for ever."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise FormatError(f"{path}: is not a regular file")


def not_gguf(magic: bytes) -> str:
    """Say what a file that does not begin with GGUF's magic seems to be."""
    if not magic:
        return "the file is empty"
    if magic[:2] == b"PK":
        return "this is a .pth checkpoint; run rwkv-edge convert on it first"
    # Field 1 of an ONNX, its version as a number, and then a field with a length.
    if magic[:1] == b"\x08" and magic[2:3] and magic[2] & 7 == 2:
        return "this seems to be an ONNX; wanted the GGUF of the same model"
    if magic == MAGIC[::-1]:
        return "this GGUF is big-endian, which no laptop reads; convert it again"
    return "this is not a GGUF file; rwkv-edge convert makes one from a .pth checkpoint"


def ggml_row_bytes(ggml_type: int, n_columns: int) -> int:
    """Bytes of a row of a weight type that only ggml knows, 0 for one that it does not know either.

    Raises FormatError if the row is not whole blocks.
    """
    import gguf

    try:
        kind = gguf.GGMLQuantizationType(ggml_type)
    except ValueError:
        return 0
    block_len, block_bytes = gguf.GGML_QUANT_SIZES.get(kind, (1, 0))
    if n_columns % block_len:
        raise FormatError(f"{kind.name} needs rows of a multiple of {block_len}, not {n_columns}")
    return int(n_columns // block_len * block_bytes)


def ggml_type_name(ggml_type: int) -> str:
    """ggml's name for a weight type, or its number."""
    import gguf

    try:
        return str(gguf.GGMLQuantizationType(ggml_type).name)
    except ValueError:
        return f"type {ggml_type}"
