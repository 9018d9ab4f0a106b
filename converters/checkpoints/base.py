"""One view of every checkpoint file: named tensors that lie somewhere in it, read when asked."""

import os
import threading
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_edge.errors import FormatError
from rwkv_edge.quant import Float32Array

Shape = tuple[int, ...]
# More than any model has; numpy itself stops at 32 or 64.
MAX_DIMENSIONS = 8
# What can be a size or an offset in a file.
MAX_SIZE = 1 << 62
# Of all dimensions but those of zero: numpy refuses a shape whose product needs more than 64 bits.
MAX_ELEMENTS = 1 << 48
MAX_NAME_LENGTH = 200
Elements = npt.NDArray[Any]

# How each kind of number is held in numpy, which has no bfloat16: its bits.
ELEMENT_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: `offset` is the file position in bytes of its first element.

    dtype: a key of ELEMENT_DTYPES, or the name of a type that can be listed but not read.
    strides: in elements, not bytes. Whoever makes one has checked that it lies inside the file.
    """

    dtype: str
    shape: Shape
    strides: Shape
    offset: int

    @property
    def n_elements(self) -> int:
        """Elements of the tensor."""
        return prod(self.shape)

    @property
    def span(self) -> int:
        """Elements from the first to the last in the file, gaps included."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))

    @property
    def is_contiguous(self) -> bool:
        """True if the elements lie in the file in the order in which they are counted."""
        expected = 1
        for n, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n != 1 and stride != expected:
                return False
            expected *= n
        return True


def is_size(value: object) -> bool:
    """True for an int that can be a size or an offset in a file."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_SIZE


def plain(text: str) -> str:
    """A name out of a file, for a message: one line, short, nothing that moves the cursor."""
    # Its beginning will do: the whole may be millions of characters.
    start = text[: MAX_NAME_LENGTH + 1]
    shown = start if start.isprintable() else ascii(start)[1:-1]
    return shown if len(shown) <= MAX_NAME_LENGTH else shown[:MAX_NAME_LENGTH] + "..."


def require_plain_name(path: Path, name: object) -> str:
    """A tensor's name, which messages and the output will repeat; raises FormatError."""
    if not isinstance(name, str):
        raise FormatError(f"{path}: names a tensor by a {type(name).__name__}, not by a text")
    if not name or plain(name) != name:
        raise FormatError(
            f"{path}: names a tensor {plain(name)!r}, which is no name that a model uses"
        )
    return name


def contiguous_strides(shape: Shape) -> Shape:
    """Strides in elements of a tensor without gaps."""
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def widen(elements: Elements, dtype: str) -> Float32Array:
    """Elements as stored to float32; exact."""
    if dtype == "bfloat16":
        return (elements.astype(np.uint32) << 16).view(np.float32)
    return elements.astype(np.float32)


def stamp(found: os.stat_result) -> tuple[int, int, int]:
    """What is another number once a file was written to, or another took its name."""
    return found.st_ino, found.st_size, found.st_mtime_ns


class Checkpoint:
    """Named tensors of a file, read one at a time, whole or by rows. Close it, or use `with`.

    Threads may share it: each read names its own place in the file.
    """

    def __init__(self, path: Path, tensors: dict[str, StoredTensor]) -> None:
        """Open `path`, whose directory says `tensors`."""
        for name, tensor in tensors.items():
            if prod(max(n, 1) for n in tensor.shape) > MAX_ELEMENTS:
                raise FormatError(
                    f"{path}: {name} is {list(tensor.shape)}, larger than any tensor; "
                    "the file is damaged"
                )
        self.path = path
        self._tensors = tensors
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self._stamp = stamp(os.fstat(self._file.fileno()))
        self._lock = threading.Lock()
        # The last tensor that had to be gathered, because its rows are not whole in the file.
        self._gathered: tuple[str, Elements] | None = None

    def __enter__(self) -> "Checkpoint":
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; the checkpoint can be listed but not read afterwards."""
        self._gathered = None
        self._file.close()

    def require_unchanged(self, seen: os.stat_result | None = None) -> None:
        """Raise FormatError if the file was written to since it was opened.

        seen: also if it is another than this, what stood under its name before.
        """
        found = stamp(os.fstat(self._file.fileno())), stamp(seen) if seen else self._stamp
        if found != (self._stamp, self._stamp):
            raise FormatError(
                f"{self.path}: changed while it was read; try again once nobody writes to it"
            )

    def names(self) -> list[str]:
        """Names of the tensors, in file order."""
        return list(self._tensors)

    def shape(self, name: str) -> Shape:
        """Shape of one tensor."""
        return self._tensors[name].shape

    def shapes(self) -> dict[str, Shape]:
        """Shapes of all tensors by name, in file order."""
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def dtype(self, name: str) -> str:
        """The kind of number: "float32", "float16", "bfloat16", or one that `read` refuses."""
        return self._tensors[name].dtype

    def read(self, name: str) -> Float32Array:
        """One whole tensor as float32; raises FormatError."""
        return widen(self._elements(name), self.dtype(name))

    def read_rows(self, name: str, start: int, stop: int, out: Elements) -> None:
        """Rows [start, stop) of a two-dimensional tensor, as stored, into `out`.

        out: contiguous, (stop - start, columns), of the dtype that ELEMENT_DTYPES gives.
        """
        tensor = self._tensors[name]
        if tensor.is_contiguous:
            offset = tensor.offset + start * tensor.shape[1] * out.itemsize
            self._read_into(offset, out.reshape(-1).view(np.uint8), name)
            return
        if self._gathered is None or self._gathered[0] != name:
            self._gathered = None
            self._gathered = (name, self._elements(name))
        out[:] = self._gathered[1][start:stop]

    def require_readable(self, name: str) -> None:
        """Raise FormatError unless `read` knows the tensor's kind of number."""
        dtype = self._tensors[name].dtype
        if dtype not in ELEMENT_DTYPES:
            raise FormatError(
                f"{self.path}: {name} holds {dtype} numbers; "
                f"wanted {', '.join(ELEMENT_DTYPES)}; save it as one of these"
            )

    def _elements(self, name: str) -> Elements:
        """One tensor as stored, gathered from its strides."""
        self.require_readable(name)
        tensor = self._tensors[name]
        if 0 in tensor.shape:
            return np.empty(tensor.shape, ELEMENT_DTYPES[tensor.dtype])
        elements = np.empty(tensor.span, ELEMENT_DTYPES[tensor.dtype])
        self._read_into(tensor.offset, elements.view(np.uint8), name)
        # Where there is nothing to step to, a stride may be any number, even one past 64 bits.
        strides = tuple(
            stride * elements.itemsize if n > 1 else 0
            for n, stride in zip(tensor.shape, tensor.strides, strict=True)
        )
        view = np.lib.stride_tricks.as_strided(elements, tensor.shape, strides, writeable=False)
        return np.ascontiguousarray(view).reshape(tensor.shape)

    def _read_into(self, offset: int, buffer: npt.NDArray[np.uint8], name: str) -> None:
        """Fill `buffer` from the file; one call can return less than what was asked for."""
        target = buffer.data
        done = 0
        try:
            with self._lock:
                self._file.seek(offset)
                while done < len(target):
                    n_read = self._file.readinto(target[done:])
                    if not n_read:
                        raise FormatError(
                            f"{self.path}: {name}: the file ended at byte {offset + done}, "
                            f"{len(target) - done} bytes early; it shrank while it was read"
                        )
                    done += n_read
        except OSError as error:
            raise FormatError(f"{self.path}: {name}: cannot be read: {error.strerror}") from error
