"""Where tensors lie in files: what a reader of a container finds out, before any number is read."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_edge.quant import QUANT_FORMATS, Float32Array, QuantFormat

Shape = tuple[int, ...]
Elements = npt.NDArray[Any]
# More than any model has; numpy itself stops at 32 or 64.
MAX_DIMENSIONS = 8

# How each kind of number is held in numpy, which has no bfloat16: its bits.
ELEMENT_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}


def quant_format_named(dtype: str) -> type[QuantFormat] | None:
    """The format of blocks that this name stands for, None for plain numbers."""
    found = QUANT_FORMATS.get(dtype)
    return found if found is not None and found.block_len > 1 else None


# What is another once a file was written to, or another took its name.
Stamp = tuple[int, int, int]


def stamp_of(found: os.stat_result) -> Stamp:
    """A file's number, size and time of the last write."""
    return found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: `offset` is the file position in bytes of its first element.

    dtype: a key of ELEMENT_DTYPES, the name of a format of blocks such as "Q4_0", or the name of a
    type that can be listed but not read. strides: in elements, not bytes. file: which of the
    container's files holds it. Whoever makes one has checked that it lies inside the file.
    """

    dtype: str
    shape: Shape
    strides: Shape
    offset: int
    file: int = 0

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

    @property
    def number(self) -> str:
        """The kind of number that the elements are read as: blocks are decoded."""
        return "float32" if quant_format_named(self.dtype) else self.dtype

    def n_bytes(self, n_elements: int) -> int:
        """Bytes of so many elements in the file; 0 for a type that cannot be read.

        Elements in blocks must be whole blocks; raises FormatError.
        """
        blocks = quant_format_named(self.dtype)
        if blocks is not None:
            return blocks.row_bytes(n_elements)
        element = ELEMENT_DTYPES.get(self.dtype)
        return n_elements * element.itemsize if element is not None else 0

    def transposed(self) -> "StoredTensor":
        """The same elements with the last two dimensions exchanged."""
        *first, a, b = range(len(self.shape))
        order = (*first, b, a)
        return replace(
            self,
            shape=tuple(self.shape[i] for i in order),
            strides=tuple(self.strides[i] for i in order),
        )

    def part(self, axis: int, start: int, stop: int) -> "StoredTensor":
        """The elements [start, stop) of one dimension."""
        shape = list(self.shape)
        shape[axis] = stop - start
        offset = self.offset + self.n_bytes(start * self.strides[axis])
        return replace(self, shape=tuple(shape), offset=offset)

    def reshaped(self, shape: Shape) -> "StoredTensor":
        """A contiguous tensor with as many elements in other dimensions."""
        assert self.is_contiguous
        assert prod(shape) == self.n_elements
        return replace(self, shape=shape, strides=contiguous_strides(shape))


@dataclass(frozen=True)
class DerivedTensor:
    """What a file holds otherwise than its name says: parts joined along an axis, then a function.

    All parts are of one kind of number. function: of float32, elementwise.
    """

    parts: tuple[StoredTensor, ...]
    axis: int = 0
    function: Callable[[Float32Array], Float32Array] | None = None

    @property
    def dtype(self) -> str:
        """That of the parts."""
        return self.parts[0].dtype

    @property
    def number(self) -> str:
        """The kind of number that the elements are read as."""
        return "float32" if self.function is not None else self.parts[0].number

    @property
    def shape(self) -> Shape:
        """The shape of all parts together."""
        shape = list(self.parts[0].shape)
        shape[self.axis] = sum(part.shape[self.axis] for part in self.parts)
        return tuple(shape)

    @property
    def n_elements(self) -> int:
        """Elements of the tensor."""
        return prod(self.shape)


Tensor = StoredTensor | DerivedTensor


@dataclass(frozen=True)
class Directory:
    """What a container holds, by name, in file order.

    files: those that tensors lie in, as `StoredTensor.file` counts them; stamps: what each was
    when it was read. container: the name of
    the entry of `CONTAINERS` that read it. naming: whose names the tensors had, empty if RWKV-LM's.
    config: what a `config.json` beside them says, empty where there is none. notes: sentences for
    the user.
    """

    tensors: Mapping[str, Tensor]
    files: tuple[Path, ...]
    container: str = ""
    naming: str = ""
    config: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stamps: tuple[Stamp, ...] = ()


def contiguous_strides(shape: Shape) -> Shape:
    """Strides in elements of a tensor without gaps."""
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def widen(elements: Elements, dtype: str) -> Float32Array:
    """Elements as stored to float32; exact."""
    if dtype == "bfloat16":
        return (elements.astype(np.uint32) << 16).view(np.float32)
    return elements.astype(np.float32)
