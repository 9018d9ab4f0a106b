"""Where the changed tensors of a model come from: another file's tensor, or factors that are added.

Nothing is read before it is needed, and nothing that is larger than an adapter's own factors.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from rwkv_edge.converters.adapters.deltas import Blockwise, Delta, LowRank, Tiled
from rwkv_edge.converters.checkpoints import Checkpoint
from rwkv_edge.quant import Float32Array


@dataclass(frozen=True)
class Replacement:
    """A whole tensor of another file. swapped: with its last two dimensions exchanged."""

    file: Checkpoint
    name: str
    swapped: bool = False


class DeltaSource(ABC):
    """What is to be added to one matrix, still in its file."""

    @abstractmethod
    def load(self) -> Delta:
        """Read the factors; raises FormatError."""


@dataclass(frozen=True)
class Factors:
    """The names of a low-rank pair: b (out, rank), a (rank, in)."""

    file: Checkpoint
    b: str
    a: str

    def load(self, scale: float) -> tuple[Float32Array, Float32Array]:
        """scale * b, and a."""
        return self.file.read(self.b) * np.float32(scale), self.file.read(self.a)


@dataclass(frozen=True)
class LoraSource(DeltaSource):
    """B A alpha / rank, and for PiSSA B A - B0 A0: scale is 1 there, and `initial` is B0, A0."""

    factors: Factors
    scale: float
    initial: Factors | None = None

    def load(self) -> LowRank:
        """See `DeltaSource.load`."""
        b, a = self.factors.load(self.scale)
        if self.initial is not None:
            b0, a0 = self.initial.load(-1.0)
            b, a = np.concatenate([b, b0], axis=1), np.concatenate([a, a0])
        return LowRank(b, a)


@dataclass(frozen=True)
class DishaSource(DeltaSource):
    """D in its file: (r, out) for "bone", (in / r, r, r) for "bat"."""

    file: Checkpoint
    name: str

    def load(self) -> Delta:
        """See `DeltaSource.load`."""
        d = self.file.read(self.name)
        return Blockwise(d) if d.ndim == 3 else Tiled(d)
