"""Small matrix products: of an adapter's factors, a few rows at a time.

numpy's BLAS would run each on threads of its own, beside those that encode: on two busy cores that
takes five times as long. Here the sums also have the same order for every number of rows.
"""

import numpy as np
import numpy.typing as npt

from rwkv_edge.jit import kernel

Float32Array = npt.NDArray[np.float32]

# Columns at a time: as many of each row of w as stay in the first-level cache for usual ranks.
TILE = 512
# Terms that are added at a time, so that a sum is loaded and stored once for all of them.
TERMS = 4


@kernel
def add_product(x: Float32Array, w: Float32Array, out: Float32Array) -> None:
    """out += x w; x (m, k), w (k, n), out (m, n), all contiguous; k a multiple of TERMS."""
    m, k = x.shape
    n = w.shape[1]
    for first in range(0, n, TILE):
        last = min(first + TILE, n)
        # Two rows share what is loaded of w; the last of an odd number is alone.
        for i in range(0, m - 1, 2):
            for p in range(0, k, TERMS):
                add_to_two(x[i], x[i + 1], w, p, out[i, first:last], out[i + 1, first:last], first)
        if m % 2:
            for p in range(0, k, TERMS):
                add_to_one(x[m - 1], w, p, out[m - 1, first:last], first)


@kernel
def add_to_two(
    x: Float32Array,
    y: Float32Array,
    w: Float32Array,
    p: int,
    to_x: Float32Array,
    to_y: Float32Array,
    first: int,
) -> None:
    """Terms p to p + 3 of two rows x and y, for the columns from `first` on."""
    last = first + to_x.size
    x0, x1, x2, x3 = x[p], x[p + 1], x[p + 2], x[p + 3]
    y0, y1, y2, y3 = y[p], y[p + 1], y[p + 2], y[p + 3]
    w0, w1, w2, w3 = (
        w[p, first:last],
        w[p + 1, first:last],
        w[p + 2, first:last],
        w[p + 3, first:last],
    )
    for j in range(to_x.size):
        a, b, c, d = w0[j], w1[j], w2[j], w3[j]
        to_x[j] += x0 * a + x1 * b + x2 * c + x3 * d
        to_y[j] += y0 * a + y1 * b + y2 * c + y3 * d


@kernel
def add_to_one(x: Float32Array, w: Float32Array, p: int, to_x: Float32Array, first: int) -> None:
    """The same of one row."""
    last = first + to_x.size
    x0, x1, x2, x3 = x[p], x[p + 1], x[p + 2], x[p + 3]
    w0, w1, w2, w3 = (
        w[p, first:last],
        w[p + 1, first:last],
        w[p + 2, first:last],
        w[p + 3, first:last],
    )
    for j in range(to_x.size):
        to_x[j] += x0 * w0[j] + x1 * w1[j] + x2 * w2[j] + x3 * w3[j]
