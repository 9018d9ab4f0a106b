"""One view of every checkpoint: named tensors that lie somewhere in its files, read when asked."""

import os
import threading
from dataclasses import replace
from io import FileIO
from math import prod
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from rwkv_edge.converters.checkpoints.tensors import (
    ELEMENT_DTYPES,
    MAX_DIMENSIONS,
    Directory,
    Elements,
    Shape,
    StoredTensor,
    Tensor,
    contiguous_strides,
    quant_format_named,
    stamp_of,
    widen,
)
from rwkv_edge.errors import FormatError
from rwkv_edge.quant import Bytes, Float32Array

__all__ = [
    "ELEMENT_DTYPES",
    "MAX_DIMENSIONS",
    "Checkpoint",
    "Directory",
    "Elements",
    "Shape",
    "StoredTensor",
    "Tensor",
    "contiguous_strides",
    "is_size",
    "plain",
    "require_plain_name",
    "widen",
]

# What can be a size or an offset in a file.
MAX_SIZE = 1 << 62
# Of all dimensions but those of zero: numpy refuses a shape whose product needs more than 64 bits.
MAX_ELEMENTS = 1 << 48
MAX_NAME_LENGTH = 200
# Of a checkpoint in many files: systems allow a process few hundred, and each is read in one go.
MAX_OPEN_FILES = 8


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


class Checkpoint:
    """Named tensors, read one at a time, whole or by rows. Close it, or use `with`.

    path: the file or folder that was asked for. Threads may share it: each read names its own
    place in a file.
    """

    def __init__(self, path: Path, directory: Directory) -> None:
        """Open what `directory` describes; raises FormatError."""
        for name, tensor in directory.tensors.items():
            if prod(max(n, 1) for n in tensor.shape) > MAX_ELEMENTS:
                raise FormatError(
                    f"{path}: {name} is {list(tensor.shape)}, larger than any tensor; "
                    "the file is damaged"
                )
        self.path = path
        self.directory = directory
        self._tensors = directory.tensors
        self._open: dict[int, FileIO] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._gathering = threading.Lock()
        # The last tensor that had to be gathered, because its rows are not whole in the file.
        self._gathered: tuple[str, Elements] | None = None
        # Here, so that one that is not there is refused before anything else is done.
        self._file(0)

    def __enter__(self) -> "Checkpoint":
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files."""
        self.close()

    def close(self) -> None:
        """Close the files; the checkpoint can be listed but not read afterwards."""
        self._gathered = None
        self._closed = True
        for file in self._open.values():
            file.close()
        self._open.clear()

    def require_unchanged(self) -> None:
        """Raise FormatError if a file was written to since its directory was read."""
        with self._lock:
            for number in range(len(self.directory.files)):
                self._require_unchanged(number)

    def _require_unchanged(self, number: int) -> None:
        """The same for one file; what takes the name of one that is open changes nothing."""
        path, opened = self.directory.files[number], self._open.get(number)
        try:
            found = os.fstat(opened.fileno()) if opened is not None else path.stat()
            changed = stamp_of(found) != self.directory.stamps[number]
        except OSError:
            changed = True
        if changed:
            raise FormatError(
                f"{path}: changed while it was read; try again once nobody writes to it"
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
        """The kind of number that is read: "float32", "float16", "bfloat16", or one that is not.

        Blocks of quantized weights are read as float32.
        """
        return self._tensors[name].number

    def stored_as(self, name: str) -> str:
        """What the numbers are in the file: a name that `dtype` gives, or "Q4_0" and so on."""
        return self._tensors[name].dtype

    def read(self, name: str) -> Float32Array:
        """One whole tensor as float32; raises FormatError."""
        return widen(self._elements(name), self.dtype(name))

    def read_rows(self, name: str, start: int, stop: int, out: Elements) -> None:
        """Rows [start, stop) of a two-dimensional tensor, as `dtype` says, into `out`.

        out: contiguous, (stop - start, columns), of the dtype that ELEMENT_DTYPES gives.
        """
        tensor = self._tensors[name]
        if isinstance(tensor, StoredTensor) and tensor.is_contiguous:
            rows = tensor.part(0, start, stop)
            if quant_format_named(tensor.dtype):
                out[:] = self._stored(rows, name)
            else:
                self._read_into(rows, out.reshape(-1).view(np.uint8), name)
            return
        # One thread gathers for all: several would hold the tensor several times.
        with self._gathering:
            gathered = self._gathered
            if gathered is None or gathered[0] != name:
                self._gathered = None
                gathered = self._gathered = (name, self._elements(name))
        out[:] = gathered[1][start:stop]

    def read_stored(self, name: str, start: int, out: Bytes) -> None:
        """Bytes of a contiguous tensor as they lie in the file, from its byte `start` on."""
        tensor = self._tensors[name]
        assert isinstance(tensor, StoredTensor), name
        assert tensor.is_contiguous, name
        self._read_into(replace(tensor, offset=tensor.offset + start), out, name)

    def require_readable(self, name: str) -> None:
        """Raise FormatError unless `read` knows the tensor's kind of number."""
        dtype = self.dtype(name)
        if dtype not in ELEMENT_DTYPES:
            raise FormatError(
                f"{self.path}: {name} holds {dtype} numbers; "
                f"wanted {', '.join(ELEMENT_DTYPES)}; save it as one of these"
            )

    def _elements(self, name: str) -> Elements:
        """One tensor as `dtype` says, gathered from its strides, its parts joined."""
        self.require_readable(name)
        tensor = self._tensors[name]
        if isinstance(tensor, StoredTensor):
            return self._stored(tensor, name)
        parts = [self._stored(part, name) for part in tensor.parts]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=tensor.axis)
        if tensor.function is None:
            return joined
        return tensor.function(widen(joined, tensor.parts[0].number))

    def _stored(self, tensor: StoredTensor, name: str) -> Elements:
        """What lies in one place, gathered from its strides, decoded where it is blocks."""
        blocks = quant_format_named(tensor.dtype)
        if 0 in tensor.shape:
            return np.empty(tensor.shape, np.float32 if blocks else ELEMENT_DTYPES[tensor.dtype])
        if blocks is not None:
            raw = np.empty(tensor.n_bytes(tensor.span), np.uint8)
            self._read_into(tensor, raw, name)
            elements: Elements = blocks.decode(raw, tensor.span).reshape(-1)
        else:
            elements = np.empty(tensor.span, ELEMENT_DTYPES[tensor.dtype])
            self._read_into(tensor, elements.view(np.uint8), name)
        # Where there is nothing to step to, a stride may be any number, even one past 64 bits.
        strides = tuple(
            stride * elements.itemsize if n > 1 else 0
            for n, stride in zip(tensor.shape, tensor.strides, strict=True)
        )
        view = np.lib.stride_tricks.as_strided(elements, tensor.shape, strides, writeable=False)
        return np.ascontiguousarray(view).reshape(tensor.shape)

    def _file(self, number: int) -> FileIO:
        """One of the files, open."""
        file = self._open.get(number)
        if file is None:
            if self._closed:
                raise ValueError(f"{self.path} is closed")
            if len(self._open) >= MAX_OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            file = self._open[number] = open(  # noqa: SIM115
                self.directory.files[number], "rb", buffering=0
            )
            self._require_unchanged(number)
        return file

    def _read_into(self, tensor: StoredTensor, buffer: npt.NDArray[np.uint8], name: str) -> None:
        """Fill `buffer` from the file; one call can return less than what was asked for."""
        target = buffer.data
        done = 0
        try:
            with self._lock:
                file = self._file(tensor.file)
                file.seek(tensor.offset)
                while done < len(target):
                    n_read = file.readinto(target[done:])
                    if not n_read:
                        raise FormatError(
                            f"{self.directory.files[tensor.file]}: {name}: the file ended at byte "
                            f"{tensor.offset + done}, {len(target) - done} bytes early; it shrank "
                            "while it was read"
                        )
                    done += n_read
        except OSError as error:
            raise FormatError(
                f"{self.directory.files[tensor.file]}: {name}: cannot be read: {error.strerror}"
            ) from error
