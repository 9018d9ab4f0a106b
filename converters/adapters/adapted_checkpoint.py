"""A base with adapters: the same names and shapes, and merged numbers wherever it is read."""

import threading
from dataclasses import dataclass

import numpy as np

from rwkv_edge.converters.adapters.deltas import Delta
from rwkv_edge.converters.adapters.sources import DeltaSource, Replacement
from rwkv_edge.converters.checkpoints import Checkpoint
from rwkv_edge.converters.checkpoints.base import ELEMENT_DTYPES, Elements, Shape, widen
from rwkv_edge.converters.tuned_state import is_tuned_state
from rwkv_edge.quant import Bytes, Float32Array

# Weights that are merged at a time: 1 MiB of float32, which stays in the cache.
BLOCK_WEIGHTS = 1 << 18


@dataclass
class Recipe:
    """How one tensor is made: from the base or a replacement, and what is added to it in order."""

    origin: Replacement
    deltas: list[DeltaSource]


class AdaptedCheckpoint(Checkpoint):
    """The base's tensors, some of them replaced or merged, and tuned states beside them.

    Merged tensors are float32. Threads may share it. Memory: the factors of one tensor, and a
    block of rows for each thread.
    """

    def __init__(
        self, base: Checkpoint, recipes: dict[str, Recipe], others: list[Checkpoint]
    ) -> None:
        """others: the adapters' files, which are closed with the base."""
        self.path = base.path
        self._base = base
        self._others = others
        self._recipes = recipes
        self._added = [name for name in recipes if is_tuned_state(name)]
        self._deltas_lock = threading.Lock()
        # Those of the tensor that is being converted: others come after it, or before.
        self._loaded: tuple[str, list[Delta]] | None = None

    @property
    def merged(self) -> frozenset[str]:
        """Names of the tensors that are other than the base's."""
        return frozenset(self._recipes)

    def close(self) -> None:
        """Close all files."""
        self._loaded = None
        for file in (self._base, *self._others):
            file.close()

    def require_unchanged(self) -> None:
        """Raise FormatError if any of the files was written to."""
        for file in (self._base, *self._others):
            file.require_unchanged()

    def names(self) -> list[str]:
        """Names of the tensors, those of the base first."""
        base = self._base.names()
        return base + [name for name in self._added if name not in base]

    def shape(self, name: str) -> Shape:
        """Shape of one tensor: the base's own."""
        if name in self._added:
            origin = self._recipes[name].origin
            return origin.file.shape(origin.name)
        return self._base.shape(name)

    def shapes(self) -> dict[str, Shape]:
        """Shapes of all tensors by name."""
        return {name: self.shape(name) for name in self.names()}

    def dtype(self, name: str) -> str:
        """The kind of number: that of the file that it comes from, float32 where it is merged."""
        recipe = self._recipes.get(name)
        if recipe is None:
            return self._base.dtype(name)
        return "float32" if recipe.deltas else recipe.origin.file.dtype(recipe.origin.name)

    def require_readable(self, name: str) -> None:
        """Raise FormatError unless `read` knows the tensor's kind of number."""
        recipe = self._recipes.get(name)
        if recipe is None:
            self._base.require_readable(name)
        else:
            recipe.origin.file.require_readable(recipe.origin.name)

    def read(self, name: str) -> Float32Array:
        """One whole tensor as float32; raises FormatError."""
        recipe = self._recipes.get(name)
        if recipe is None:
            return self._base.read(name)
        weights = recipe.origin.file.read(recipe.origin.name).reshape(self.shape(name))
        if recipe.origin.swapped:
            weights = np.ascontiguousarray(np.swapaxes(weights, -1, -2))
        for delta in self._deltas_of(name):
            add(delta, weights, 0)
        return weights

    def read_rows(self, name: str, start: int, stop: int, out: Elements) -> None:
        """Rows [start, stop) of a two-dimensional tensor into `out`, see `Checkpoint.read_rows`."""
        recipe = self._recipes.get(name)
        if recipe is None:
            self._base.read_rows(name, start, stop, out)
            return
        origin = recipe.origin
        if not recipe.deltas:
            origin.file.read_rows(origin.name, start, stop, out)
            return
        deltas = self._deltas_of(name)
        dtype = origin.file.dtype(origin.name)
        step = max(1, BLOCK_WEIGHTS // out.shape[1])
        stored = np.empty((min(step, stop - start), out.shape[1]), ELEMENT_DTYPES[dtype])
        for first in range(start, stop, step):
            last = min(first + step, stop)
            origin.file.read_rows(origin.name, first, last, stored[: last - first])
            block = out[first - start : last - start]
            block[:] = widen(stored[: last - first], dtype)
            for delta in deltas:
                add(delta, block, first)

    def read_stored(self, name: str, start: int, out: Bytes) -> None:
        """Bytes of a tensor of the base that nothing is merged into."""
        assert name not in self._recipes, name
        self._base.read_stored(name, start, out)

    def _deltas_of(self, name: str) -> list[Delta]:
        """What is added to a tensor, read once while that tensor is converted."""
        with self._deltas_lock:
            if self._loaded is None or self._loaded[0] != name:
                self._loaded = None
                self._loaded = (name, [source.load() for source in self._recipes[name].deltas])
            return self._loaded[1]


def add(delta: Delta, rows: Float32Array, start: int) -> None:
    """Merge; a sum that is too large is refused where it is encoded."""
    with np.errstate(over="ignore", invalid="ignore"):
        delta.add_to(rows, start)
