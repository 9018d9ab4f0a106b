"""Parts of blocks side by side: what the searches for scales work on.

LANES parts are looked at together, weight by weight: the loops over lanes are those that LLVM turns
into vectors, and no sum runs across a vector. That is also the order in which numpy adds.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rwkv_edge.converters.kernels.half import F32_MAGNITUDE
from rwkv_edge.jit import kernel
from rwkv_edge.quant.least_squares import LARGEST_WEIGHT, SMALLEST_SCALE

LANES = 64
MAX_PART_LEN = 32
ZERO, ONE = np.float32(0), np.float32(1)
INFINITY = np.float32(np.inf)
# As bits, which order like the magnitudes.
LARGEST_BITS = LARGEST_WEIGHT.view(np.uint32)

# Rows of `Scratch.lanes`: where each begins.
# The scale and least value being tried, and what they give.
SCALE, LEAST, INVERSE, ERROR = (row * LANES for row in range(4))
SUM_L, SUM_LL, SUM_XL, SUM_X = (row * LANES for row in range(4, 8))
# The best so far.
BEST_ERROR, BEST_SCALE, BEST_LEAST = (row * LANES for row in range(8, 11))
# Where the search began: the least value, and how far the largest is from it.
LOWEST, SPAN = (row * LANES for row in range(11, 13))
# Scales of parts in units of their block's: those rounded, those tried, and the best.
FIRST_SCALES, TRIED_SCALES, BEST_SCALES = (row * LANES for row in range(13, 16))
FIRST_SUM_L, TRIED_LEASTS, BEST_LEASTS = (row * LANES for row in range(16, 19))
# The block's, repeated for each of its parts.
UNIT_SCALE, UNIT_LEAST = (row * LANES for row in range(19, 21))
FITTED_SCALE, FITTED_LEAST, FIRST_ERROR = (row * LANES for row in range(21, 24))
# One weight of each part, in units of its scale, and the value that its code stands for.
SCALED, VALUE = (row * LANES for row in range(24, 26))
N_ROWS = 26

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


class Scratch(NamedTuple):
    """What a search writes to; kernels allocate nothing.

    x: weights, LANES of them for each place in a part. lanes: N_ROWS rows of LANES numbers.
    codes: one part after the other.
    """

    x: Floats
    lanes: Floats
    codes: Bytes


def new_scratch() -> Scratch:
    """One for each thread."""
    n_weights = LANES * MAX_PART_LEN
    return Scratch(
        np.zeros(n_weights, np.float32),
        np.zeros(N_ROWS * LANES, np.float32),
        np.zeros(n_weights, np.uint8),
    )


@kernel(exact=True)
def load_parts(weights: Floats, part_len: int, x: Floats) -> bool:
    """Weights, part after part, to x, place after place; lanes left over are zero.

    False if one is larger than any format stores.
    """
    bits = weights.view(np.uint32)
    largest = np.uint32(0)
    for i in range(bits.size):
        largest = max(largest, bits[i] & F32_MAGNITUDE)
    n_parts = weights.size // part_len
    if n_parts < LANES:
        x[:] = ZERO
    for part in range(n_parts):
        for i in range(part_len):
            x[i * LANES + part] = weights[part * part_len + i]
    return bool(largest <= LARGEST_BITS)


@kernel(exact=True)
def invert_scales(lanes: Floats) -> None:
    """1 / scale of each lane, and 0 for a scale so small that it is none."""
    for p in range(LANES):
        scale = lanes[SCALE + p]
        usable = abs(scale) > SMALLEST_SCALE
        quotient = ONE / (scale if usable else ONE)
        lanes[INVERSE + p] = quotient if usable else ZERO


@kernel(exact=True)
def copy_row(lanes: Floats, source: int, target: int) -> None:
    """One row of the lanes to another."""
    for p in range(LANES):
        lanes[target + p] = lanes[source + p]


@kernel(exact=True)
def sum_by_block(lanes: Floats, row: int, n_parts: int, block: int) -> np.float32:
    """The sum of a row over the parts of one block."""
    total: np.float32 = ZERO
    for p in range(block * n_parts, (block + 1) * n_parts):
        total += lanes[row + p]
    return total


@kernel(exact=True)
def keep_if_better(source: int, target: int, lanes: Floats) -> None:
    """One row to another in those lanes whose ERROR is below BEST_ERROR."""
    for p in range(LANES):
        # Both are read before one is chosen: loads that hang on a comparison are not vectorised.
        tried, best = lanes[source + p], lanes[target + p]
        error, best_error = lanes[ERROR + p], lanes[BEST_ERROR + p]
        lanes[target + p] = tried if error < best_error else best
