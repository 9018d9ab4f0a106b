"""Scales that leave little error: how the encoders of several formats look for them.

Codes are the nearest ones to the weights, once the scale is known; the scale that fits given codes
best solves a least-squares problem. The search alternates between the two from a few starts, and
keeps the best scale that it saw. Where scales have scales, it goes on with those rounded: each
part's scale tries its neighbours, and the scale of all parts is fitted to what they became.

All numbers are float32, and sums run over weights (or parts) in their order: the compiled twins of
`converters/kernels` add in the same order and so give the same bits. Errors are squared and are
not weighted. Arrays of weights are (weights of a part, parts): one part is a column.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_edge.quant.base import Float32Array, half_of_scale

# A scale as small is zero: half the least float16 is 2^-25, and a scale's scale is up to 128.
SMALLEST_SCALE = np.float32(2.0**-60)
# No format holds weights as large; below, squares of errors stay far from float32's limits.
LARGEST_WEIGHT = np.float32(2.0**40)
ZERO, ONE = np.float32(0), np.float32(1)
# A scale that float16 cannot hold spoils the block; converters refuse it, nobody reads its codes.
too_large_is_infinite = np.errstate(over="ignore", invalid="ignore")
# What a part's scale of a few bits is tried with beside the nearest.
NEIGHBOURS = (np.float32(-1), np.float32(1))


@dataclass(frozen=True)
class Fit:
    """A scale tried: the values it gives, their squared error, and sums over each part."""

    values: Float32Array
    error: Float32Array
    sum_l: Float32Array
    sum_ll: Float32Array
    sum_xl: Float32Array


def ordered_sum(terms: Float32Array) -> Float32Array:
    """Rows added one after the other; numpy's own sums add in whichever order is fastest."""
    total: Float32Array = np.zeros_like(terms[0])
    for term in terms:
        total = total + term
    return total


def rounded_to_half(scale: npt.NDArray[Any]) -> Float32Array:
    """The float16 that will be stored, as float32; infinite past 65504."""
    rounded: Float32Array = half_of_scale(scale).view(np.float16).astype(np.float32)
    return rounded


def or_one(numbers: Float32Array, usable: npt.NDArray[np.bool_]) -> Float32Array:
    """The numbers that may be divided by, and one in place of the others."""
    found: Float32Array = np.where(usable, numbers, ONE)
    return found


def inverse(scale: Float32Array) -> Float32Array:
    """1 / scale, and 0 for a scale so small that it is none."""
    usable = np.abs(scale) > SMALLEST_SCALE
    found: Float32Array = np.where(usable, ONE / or_one(scale, usable), ZERO)
    return found


def to_columns(weights: Float32Array, part_len: int) -> Float32Array:
    """(..., n) weights to (part_len, parts), cut to what could be stored at all."""
    columns = weights.reshape(-1, part_len).T.clip(-LARGEST_WEIGHT, LARGEST_WEIGHT)
    return np.ascontiguousarray(columns, np.float32)


def from_columns(columns: Float32Array, block_len: int) -> Float32Array:
    """The inverse of `to_columns`: (blocks, block_len)."""
    return np.ascontiguousarray(columns.T).reshape(-1, block_len)
