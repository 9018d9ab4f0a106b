"""What adapters add to a matrix, a block of its rows at a time.

The formulas are those of RWKV-PEFT's merge scripts; here they are computed in float32.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from rwkv_edge.quant import Float32Array


class Delta(ABC):
    """A change of one matrix W, (out, in)."""

    @abstractmethod
    def add_to(self, rows: Float32Array, start: int) -> None:
        """Change rows [start, start + len(rows)) of W, which are overwritten."""


@dataclass(frozen=True)
class LowRank(Delta):
    """W + B A. b: (out, rank), scaled already; a: (rank, in)."""

    b: Float32Array
    a: Float32Array

    def add_to(self, rows: Float32Array, start: int) -> None:
        """See `Delta.add_to`."""
        rows += self.b[start : start + len(rows)] @ self.a


@dataclass(frozen=True)
class Tiled(Delta):
    """DiSHA's "bone": input j of W shares row j mod r of D with every r-th other input.

    shares: (out, r), D transposed.
    """

    shares: Float32Array

    def add_to(self, rows: Float32Array, start: int) -> None:
        """See `Delta.add_to`."""
        shares = self.shares[start : start + len(rows)]
        n_inputs, r = rows.shape[1], shares.shape[1]
        for first in range(0, n_inputs, r):
            # The last tile is ragged where r does not divide the inputs.
            last = min(first + r, n_inputs)
            rows[:, first:last] += shares[:, : last - first]


@dataclass(frozen=True)
class Blockwise(Delta):
    """DiSHA's "bat": each r x r block of W becomes block + block D + D, D that of its columns.

    blocks: (in / r, r, r).
    """

    blocks: Float32Array

    def add_to(self, rows: Float32Array, start: int) -> None:
        """See `Delta.add_to`."""
        r = self.blocks.shape[1]
        row_in_block = np.arange(start, start + len(rows)) % r
        for i, block in enumerate(self.blocks):
            part = rows[:, i * r : (i + 1) * r]
            part += part @ block + block[row_in_block]
