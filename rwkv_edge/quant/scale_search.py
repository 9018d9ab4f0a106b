"""The search for a scale: weights are scale * value, and codes name the values."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_edge.quant.base import Float32Array
from rwkv_edge.quant.least_squares import (
    NEIGHBOURS,
    ZERO,
    Fit,
    from_columns,
    inverse,
    or_one,
    ordered_sum,
    rounded_to_half,
    to_columns,
    too_large_is_infinite,
)

# Weights in units of a scale to the nearest values that codes stand for.
Int8Array = npt.NDArray[np.int8]
Nearest = Callable[[Float32Array], Float32Array]


def whole_numbers(lowest: int, highest: int) -> Nearest:
    """The whole numbers from lowest to highest; a half goes to the even one."""

    def nearest(scaled: Float32Array) -> Float32Array:
        whole: Float32Array = np.rint(scaled).clip(np.float32(lowest), np.float32(highest))
        return whole

    return nearest


def values_of(table: npt.NDArray[np.int8]) -> Nearest:
    """Those of a table in ascending order; half way between two, the larger one."""
    values = table.astype(np.float32)
    middles = (values[1:] + values[:-1]) / np.float32(2)

    def nearest(scaled: Float32Array) -> Float32Array:
        found: Float32Array = values[middles.searchsorted(scaled, side="right")]
        return found

    return nearest


@dataclass(frozen=True)
class ScaledCodes:
    """Weights as scale * value.

    nearest: gives the values. targets: the ones that the weight of largest magnitude falls on at
    first. n_fits: how often a start is improved by least squares.
    """

    nearest: Nearest
    targets: tuple[float, ...]
    n_fits: int


@dataclass(frozen=True)
class ScaledBlocks:
    """What a search found: weights are scale * scales * values.

    scale: (blocks,), rounded to float16, infinite where a weight is too large; scales: (blocks,
    parts); values: (blocks, weights).
    """

    scale: Float32Array
    scales: Int8Array
    values: Int8Array


def try_scale(x: Float32Array, scale: Float32Array, nearest: Nearest) -> Fit:
    """The nearest values to all parts x (weights, parts) with these scales."""
    values = nearest(x * inverse(scale))
    difference = scale * values - x
    return Fit(
        values,
        ordered_sum(difference * difference),
        np.empty(0, np.float32),
        ordered_sum(values * values),
        ordered_sum(values * x),
    )


def fit_scale(fit: Fit, scale: Float32Array) -> Float32Array:
    """The scale that suits the values best; where there is none, the old one."""
    usable = fit.sum_ll > ZERO
    fitted: Float32Array = np.where(usable, fit.sum_xl / or_one(fit.sum_ll, usable), scale)
    return fitted


def of_largest_magnitude(x: Float32Array) -> Float32Array:
    """(n, parts) to (parts,): the first number of largest magnitude of each part, signed."""
    at = np.abs(x).argmax(axis=0)
    found: Float32Array = np.take_along_axis(x, at[None], axis=0)[0]
    return found


def search_scale(x: Float32Array, codes: ScaledCodes) -> Float32Array:
    """The scale of each part of x (weights, parts)."""
    largest = of_largest_magnitude(x)
    best_scale = largest / codes.targets[0]
    best_error = np.full_like(largest, np.inf)
    for target in codes.targets:
        scale = largest / target
        for step in range(codes.n_fits + 1):
            fit = try_scale(x, scale, codes.nearest)
            better = fit.error < best_error
            best_error = np.where(better, fit.error, best_error)
            best_scale = np.where(better, scale, best_scale)
            if step < codes.n_fits:
                scale = fit_scale(fit, scale)
    return best_scale


@too_large_is_infinite
def scaled_blocks(weights: Float32Array, codes: ScaledCodes, block_len: int) -> ScaledBlocks:
    """Blocks that are one part with a scale of their own."""
    x = to_columns(weights, block_len)
    # Adding zero makes of a negative zero a positive one.
    scale = rounded_to_half(search_scale(x, codes)) + ZERO
    found = try_scale(x, scale, codes.nearest).values
    one = np.ones((scale.size, 1), np.int8)
    return ScaledBlocks(scale, one, from_columns(found, block_len).astype(np.int8))


@too_large_is_infinite
def scaled_super_blocks(
    weights: Float32Array,
    codes: ScaledCodes,
    block_len: int,
    n_parts: int,
    lowest: int,
    highest: int,
) -> ScaledBlocks:
    """Blocks of parts, whose scales are `lowest` to `highest` times that of the block."""
    x = to_columns(weights, block_len // n_parts)
    part_scale = search_scale(x, codes)

    def per_part(of_block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.repeat(of_block, n_parts)

    def block_sum(of_parts: Float32Array) -> Float32Array:
        return ordered_sum(of_parts.reshape(-1, n_parts).T)

    def tried(scale: Float32Array, scales: Float32Array) -> Fit:
        return try_scale(x, per_part(scale) * scales, codes.nearest)

    scale = rounded_to_half(of_largest_magnitude(part_scale.reshape(-1, n_parts).T) / lowest)
    scale = scale + ZERO
    scales = np.rint(part_scale * inverse(per_part(scale))).clip(lowest, highest)
    best_error, best_scales = tried(scale, scales).error, scales
    for step in NEIGHBOURS:
        other = (scales + step).clip(lowest, highest)
        error = tried(scale, other).error
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_scales = np.where(better, other, best_scales)
    scales = best_scales

    found = tried(scale, scales)
    aa = block_sum(scales * scales * found.sum_ll)
    ax = block_sum(scales * found.sum_xl)
    usable = aa > ZERO
    new_scale = rounded_to_half(ax / or_one(aa, usable))
    new_scale = np.where(usable & (new_scale != ZERO), new_scale, scale)
    fitted = tried(new_scale, scales)
    better = block_sum(fitted.error) < block_sum(found.error)
    values = np.where(per_part(better), fitted.values, found.values)
    return ScaledBlocks(
        np.where(better, new_scale, scale),
        scales.reshape(-1, n_parts).astype(np.int8),
        from_columns(values, block_len).astype(np.int8),
    )
