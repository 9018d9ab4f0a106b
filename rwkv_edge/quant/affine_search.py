"""The search for a scale and a least value: weights are scale * code + least."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_edge.quant.base import Float32Array
from rwkv_edge.quant.least_squares import (
    NEIGHBOURS,
    ONE,
    SMALLEST_SCALE,
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
from rwkv_edge.quant.packed_bits import Codes


@dataclass(frozen=True)
class AffineCodes:
    """Weights as scale * code + least; codes are 0 to `largest`.

    targets: the codes that the largest weight falls on at first, if the least one falls on 0.
    n_fits: how often a start is improved by least squares. has_positive_least: if not, the least
    value is at most zero.
    """

    largest: float
    targets: tuple[float, ...]
    n_fits: int
    has_positive_least: bool


@dataclass(frozen=True)
class AffineBlocks:
    """What a search found: weights are scale * scales * codes - least * leasts.

    scale, least: (blocks,), rounded to float16, infinite where a weight is too large; scales,
    leasts: (blocks, parts); codes: (blocks, weights).
    """

    scale: Float32Array
    least: Float32Array
    scales: Codes
    leasts: Codes
    codes: Codes


def try_affine(x: Float32Array, scale: Float32Array, least: Float32Array, largest: float) -> Fit:
    """The nearest codes to all parts x (weights, parts) with these scales."""
    codes = np.rint((x - least) * inverse(scale)).clip(ZERO, largest)
    difference = scale * codes + least - x
    return Fit(
        codes,
        ordered_sum(difference * difference),
        ordered_sum(codes),
        ordered_sum(codes * codes),
        ordered_sum(codes * x),
    )


def fit_affine(
    fit: Fit, sum_x: Float32Array, n: np.float32, scale: Float32Array, least: Float32Array,
    has_positive_least: bool,
) -> tuple[Float32Array, Float32Array]:  # fmt: skip
    """The scale and least value that suit the codes best; where there are none, the old ones."""
    determinant = n * fit.sum_ll - fit.sum_l * fit.sum_l
    usable = determinant > ZERO
    divisor = or_one(determinant, usable)
    fitted = (n * fit.sum_xl - sum_x * fit.sum_l) / divisor
    least_fitted = (fit.sum_ll * sum_x - fit.sum_l * fit.sum_xl) / divisor
    if not has_positive_least:
        positive = least_fitted > ZERO
        fitted = np.where(positive, fit.sum_xl / np.maximum(fit.sum_ll, ONE), fitted)
        least_fitted = np.where(positive, ZERO, least_fitted)
    usable &= fitted > SMALLEST_SCALE
    return np.where(usable, fitted, scale), np.where(usable, least_fitted, least)


def search_affine(x: Float32Array, codes: AffineCodes) -> tuple[Float32Array, Float32Array]:
    """Scale and least value of each part of x (weights, parts)."""
    lowest = x.min(axis=0)
    if not codes.has_positive_least:
        lowest = np.minimum(lowest, ZERO)
    # Adding zero makes of a negative zero a positive one.
    lowest = lowest + ZERO
    span = (x.max(axis=0) + ZERO) - lowest
    sum_x = ordered_sum(x)
    best_scale, best_least = span / codes.targets[0], lowest
    best_error = np.full_like(span, np.inf)
    for target in codes.targets:
        scale, least = span / target, lowest
        for step in range(codes.n_fits + 1):
            fit = try_affine(x, scale, least, codes.largest)
            better = fit.error < best_error
            best_error = np.where(better, fit.error, best_error)
            best_scale = np.where(better, scale, best_scale)
            best_least = np.where(better, least, best_least)
            if step < codes.n_fits:
                scale, least = fit_affine(
                    fit, sum_x, np.float32(len(x)), scale, least, codes.has_positive_least
                )
    return best_scale, best_least


@too_large_is_infinite
def affine_blocks(weights: Float32Array, codes: AffineCodes, block_len: int) -> AffineBlocks:
    """Blocks that are one part with a scale and a least value of their own.

    Both signs of the least value occur, so weights are scale * codes + least here.
    """
    x = to_columns(weights, block_len)
    scale, least = search_affine(x, codes)
    scale, least = rounded_to_half(scale), rounded_to_half(least)
    found = try_affine(x, scale, least, codes.largest).values
    one = np.ones((scale.size, 1), np.uint8)
    return AffineBlocks(scale, least, one, one, from_columns(found, block_len).astype(np.uint8))


@too_large_is_infinite
def affine_super_blocks(
    weights: Float32Array, codes: AffineCodes, block_len: int, n_parts: int, limit: int
) -> AffineBlocks:
    """Blocks of parts, whose scales and least values are 0 to `limit` times those of the block."""
    x = to_columns(weights, block_len // n_parts)
    n = np.float32(len(x))
    sum_x = ordered_sum(x)
    part_scale, part_least = search_affine(x, codes)

    def per_part(of_block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.repeat(of_block, n_parts)

    def in_units(of_parts: Float32Array, unit: Float32Array) -> Float32Array:
        found: Float32Array = np.rint(of_parts * inverse(per_part(unit))).clip(ZERO, limit)
        return found

    def block_sum(of_parts: Float32Array) -> Float32Array:
        return ordered_sum(of_parts.reshape(-1, n_parts).T)

    def tried(scale: Float32Array, least: Float32Array, scales: Float32Array, leasts: Float32Array
              ) -> Fit:  # fmt: skip
        return try_affine(x, per_part(scale) * scales, -(per_part(least) * leasts), codes.largest)

    # Adding zero makes of a negative zero a positive one.
    deepest = (-part_least).reshape(-1, n_parts).max(axis=1) + ZERO
    scale = rounded_to_half(part_scale.reshape(-1, n_parts).max(axis=1) / limit)
    least = rounded_to_half(deepest / limit)
    scales, leasts = in_units(part_scale, scale), in_units(-part_least, least)
    first = tried(scale, least, scales, leasts)
    best_error, best_scales, best_leasts = first.error, scales, leasts
    for step in (ZERO, *NEIGHBOURS):
        other = (scales + step).clip(ZERO, limit)
        # The least value that suits the codes best beside this scale.
        mean = (per_part(scale) * other * first.sum_l - sum_x) / n
        other_least = in_units(mean, least)
        error = tried(scale, least, other, other_least).error
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_scales = np.where(better, other, best_scales)
        best_leasts = np.where(better, other_least, best_leasts)
    scales, leasts = best_scales, best_leasts

    found = tried(scale, least, scales, leasts)
    aa = block_sum(scales * scales * found.sum_ll)
    ab = block_sum(scales * leasts * found.sum_l)
    bb = block_sum(leasts * leasts * n)
    ax = block_sum(scales * found.sum_xl)
    bx = block_sum(leasts * sum_x)
    determinant = aa * bb - ab * ab
    usable = determinant > ZERO
    divisor = or_one(determinant, usable)
    new_scale = rounded_to_half((bb * ax - ab * bx) / divisor)
    new_least = rounded_to_half((ab * ax - aa * bx) / divisor)
    usable &= (new_scale > ZERO) & (new_least > ZERO)
    new_scale, new_least = np.where(usable, new_scale, scale), np.where(usable, new_least, least)
    fitted = tried(new_scale, new_least, scales, leasts)
    better = block_sum(fitted.error) < block_sum(found.error)
    codes_found = np.where(per_part(better), fitted.values, found.values)
    return AffineBlocks(
        np.where(better, new_scale, scale),
        np.where(better, new_least, least),
        scales.reshape(-1, n_parts).astype(np.uint8),
        leasts.reshape(-1, n_parts).astype(np.uint8),
        from_columns(codes_found, block_len).astype(np.uint8),
    )
