"""What adapters add to a matrix, a block of its rows at a time.

The formulas are those of RWKV-PEFT's merge scripts; here they are computed in float32.
"""

from abc import ABC, abstractmethod

import numpy as np

from rwkv_edge.quant import Float32Array

# What the product kernel adds at a time.
TERMS = 4


class Delta(ABC):
    """A change of one matrix W, (out, in)."""

    @abstractmethod
    def add_to(self, rows: Float32Array, start: int) -> None:
        """Change rows [start, start + len(rows)) of W, contiguous, which are overwritten."""


class LowRank(Delta):
    """W + B A. b: (out, rank), scaled already; a: (rank, in)."""

    def __init__(self, b: Float32Array, a: Float32Array) -> None:
        self._b, self._a = with_whole_terms(b, a)

    def add_to(self, rows: Float32Array, start: int) -> None:
        """See `Delta.add_to`."""
        # numba takes a second to import: an adapter that does not fit should not wait for it.
        from rwkv_edge.converters.kernels.products import add_product

        add_product(self._b[start : start + len(rows)], self._a, rows)


class Tiled(Delta):
    """DiSHA's "bone": input j of W gets row j mod r of D, as every r-th other input does.

    d: (r, out).
    """

    def __init__(self, d: Float32Array) -> None:
        self._shares = np.ascontiguousarray(d.T)

    def add_to(self, rows: Float32Array, start: int) -> None:
        """See `Delta.add_to`."""
        shares = self._shares[start : start + len(rows)]
        n_inputs, r = rows.shape[1], shares.shape[1]
        for first in range(0, n_inputs, r):
            # The last tile is ragged where r does not divide the inputs.
            last = min(first + r, n_inputs)
            rows[:, first:last] += shares[:, : last - first]


class Blockwise(Delta):
    """DiSHA's "bat": each r x r block of W becomes block + block D + D, D that of its columns.

    blocks: (in / r, r, r).
    """

    def __init__(self, blocks: Float32Array) -> None:
        self._blocks = blocks

    def add_to(self, rows: Float32Array, start: int) -> None:
        """See `Delta.add_to`."""
        from rwkv_edge.converters.kernels.products import add_product

        r = self._blocks.shape[1]
        row_in_block = np.arange(start, start + len(rows)) % r
        for i, block in enumerate(self._blocks):
            part = rows[:, i * r : (i + 1) * r]
            added = block[row_in_block]
            add_product(*with_whole_terms(part, block), added)
            part += added


def with_whole_terms(x: Float32Array, w: Float32Array) -> tuple[Float32Array, Float32Array]:
    """The factors of x w, contiguous, with zeros up to a multiple of TERMS products to be added."""
    n_more = -w.shape[0] % TERMS
    if n_more:
        x, w = np.pad(x, ((0, 0), (0, n_more))), np.pad(w, ((0, n_more), (0, 0)))
    return np.ascontiguousarray(x), np.ascontiguousarray(w)
