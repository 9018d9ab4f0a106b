"""How the names of other projects become those that RWKV's own training code gives.

A naming is a table. What it says of a tensor is a `Target`: its own name, and how it lies in the
file: as RWKV-LM has it, turned, as one row of several, in another order. Nothing is read for that.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from rwkv_edge.converters.checkpoints.tensors import (
    DerivedTensor,
    Directory,
    Shape,
    StoredTensor,
    Tensor,
)
from rwkv_edge.errors import FormatError
from rwkv_edge.quant import Float32Array

LAYER_NUMBER = r"(0|[1-9][0-9]{0,4})"


class Target(ABC):
    """What a tensor of another project's file is in ours."""

    @abstractmethod
    def place(self, tensor: StoredTensor, n_embd: int) -> dict[str, Tensor]:
        """Own tensors by name within the block; raises FormatError for a shape that cannot be."""


@dataclass(frozen=True)
class Renamed(Target):
    """The same numbers under another name."""

    name: str

    def place(self, tensor: StoredTensor, n_embd: int) -> dict[str, Tensor]:
        """The tensor itself."""
        return {self.name: tensor}


@dataclass(frozen=True)
class Turned(Target):
    """A low-rank matrix, stored (out, in) where RWKV-LM has (in, out)."""

    name: str

    def place(self, tensor: StoredTensor, n_embd: int) -> dict[str, Tensor]:
        """The tensor with its last two dimensions exchanged."""
        require(len(tensor.shape) >= 2, tensor, "a matrix")
        return {self.name: tensor.transposed()}


@dataclass(frozen=True)
class Facing(Target):
    """A low-rank matrix stored in one of two ways, of which the shape tells which.

    axis: the dimension that RWKV-LM gives n_embd numbers, -1 or -2. Where both do, it is turned.
    """

    name: str
    axis: int

    def place(self, tensor: StoredTensor, n_embd: int) -> dict[str, Tensor]:
        """The tensor, turned unless n_embd stands where it belongs."""
        require(len(tensor.shape) >= 2, tensor, "a matrix")
        here, there = tensor.shape[self.axis], tensor.shape[-3 - self.axis]
        is_right = here == n_embd and there != n_embd
        return {self.name: tensor if is_right else tensor.transposed()}


@dataclass(frozen=True)
class Rows(Target):
    """Vectors of one tensor, in the order of the names."""

    names: tuple[str, ...]

    def place(self, tensor: StoredTensor, n_embd: int) -> dict[str, Tensor]:
        """Each row by itself."""
        n = len(self.names)
        require(
            tensor.n_elements == n * n_embd and tensor.is_contiguous,
            tensor,
            f"{n} rows of {n_embd}",
        )
        rows = tensor.reshaped((n, n_embd))
        return {name: rows.part(0, i, i + 1) for i, name in enumerate(self.names)}


@dataclass(frozen=True)
class Flat(Target):
    """A vector that is stored in several dimensions."""

    name: str

    def place(self, tensor: StoredTensor, n_embd: int) -> dict[str, Tensor]:
        """The tensor in one dimension."""
        require(tensor.is_contiguous, tensor, "no gaps")
        return {self.name: tensor.reshaped((tensor.n_elements,))}


@dataclass(frozen=True)
class Computed(Target):
    """Numbers that were stored after a function had been applied; `undo` is its inverse."""

    name: str
    undo: Callable[[Float32Array], Float32Array]

    def place(self, tensor: StoredTensor, n_embd: int) -> dict[str, Tensor]:
        """The tensor, of which each number goes through `undo` when it is read."""
        return {self.name: DerivedTensor((tensor,), function=self.undo)}


@dataclass(frozen=True)
class View:
    """A directory as a naming looks at it."""

    directory: Directory

    @cached_property
    def within(self) -> frozenset[str]:
        """Names within the blocks, of all layers together, whatever stands before the number."""
        found = (re.split(rf"\.{LAYER_NUMBER}\.", name, maxsplit=1) for name in self.names)
        return frozenset(parts[2] for parts in found if len(parts) == 3)

    @property
    def names(self) -> list[str]:
        """All names as they are."""
        return list(self.directory.tensors)

    def shape(self, name: str) -> Shape:
        """Of one tensor; empty where it is not there."""
        tensor = self.directory.tensors.get(name)
        return tensor.shape if tensor is not None else ()

    def shapes_ending_in(self, suffix: str) -> list[Shape]:
        """Of the tensors of all layers."""
        tensors = self.directory.tensors
        return [tensors[name].shape for name in tensors if name.endswith(suffix)]


@dataclass(frozen=True)
class Naming:
    """The names that one project gives to one version's tensors.

    title: for messages. outside: names outside the blocks, and our own. block: what stands before
    a layer's number. within: names within a block. as_is: names within a block that `within` does
    not have are ours already.
    """

    title: str
    outside: Mapping[str, str]
    block: str
    within: Mapping[str, Target]
    recognises: Callable[[View], bool]
    as_is: bool = False
    notes: tuple[str, ...] = field(default=())

    def recognises_directory(self, directory: Directory) -> bool:
        """Are these the names of this table?"""
        return self.recognises(View(directory))

    def own_tensors(self, view: View) -> dict[str, Tensor]:
        """Every tensor under our own name; raises FormatError, without the file's name."""
        n_embd = self._n_embd(view)
        pattern = re.compile(rf"{re.escape(self.block)}{LAYER_NUMBER}\.(.+)")
        found: dict[str, Tensor] = {}
        strange: list[str] = []
        for name, tensor in view.directory.tensors.items():
            assert isinstance(tensor, StoredTensor), "names are changed once"
            prefix, target = self._target(name, pattern)
            if target is None:
                strange.append(name)
                continue
            try:
                placed = target.place(tensor, n_embd)
            except FormatError as error:
                raise FormatError(f"{name} {error}") from None
            for own, own_tensor in placed.items():
                if prefix + own in found:
                    raise FormatError(f"{name} and another tensor are both {prefix}{own}")
                found[prefix + own] = own_tensor
        if strange:
            raise FormatError(
                f"{', '.join(strange[:3])}{' and others' if len(strange) > 3 else ''}: no such "
                f"tensor in {self.title}; an adapter must be merged first, another architecture "
                "cannot be converted"
            )
        return found

    def _target(self, name: str, pattern: re.Pattern[str]) -> tuple[str, Target | None]:
        """What stands before the own name, and what the tensor is; None if it is none of ours."""
        if name in self.outside:
            return "", Renamed(self.outside[name])
        match = pattern.fullmatch(name)
        if match is None:
            return "", Renamed(name) if self.as_is else None
        target = self.within.get(match[2])
        if target is None and self.as_is:
            target = Renamed(match[2])
        return f"blocks.{match[1]}.", target

    def _n_embd(self, view: View) -> int:
        """The width, by the embedding."""
        embedding = next(name for name, own in self.outside.items() if own == "emb.weight")
        shape = view.shape(embedding)
        if len(shape) != 2 or not shape[1]:
            what = f"is {list(shape)}; wanted a matrix" if shape else "is missing"
            raise FormatError(f"{embedding} {what}; the file is incomplete")
        return shape[1]


def require(holds: bool, tensor: StoredTensor, wanted: str) -> None:
    """Raise FormatError for a tensor whose shape its place does not allow."""
    if not holds:
        raise FormatError(f"is {list(tensor.shape)}; wanted {wanted}")


def renamed(names: Mapping[str, str]) -> dict[str, Target]:
    """A table of tensors that have another name alone."""
    return {foreign: Renamed(own) for foreign, own in names.items()}
