"""The fast twin of `rwkv_edge.quant.affine_search`, bit for bit."""

from typing import NamedTuple

import numpy as np

from rwkv_edge.converters.kernels.half import f16_rounded
from rwkv_edge.converters.kernels.lanes import (
    BEST_ERROR,
    BEST_LEAST,
    BEST_LEASTS,
    BEST_SCALE,
    BEST_SCALES,
    ERROR,
    FIRST_ERROR,
    FIRST_SCALES,
    FIRST_SUM_L,
    FITTED_LEAST,
    FITTED_SCALE,
    INFINITY,
    INVERSE,
    LANES,
    LEAST,
    LOWEST,
    ONE,
    SCALE,
    SPAN,
    SUM_L,
    SUM_LL,
    SUM_X,
    SUM_XL,
    TRIED_LEASTS,
    TRIED_SCALES,
    UNIT_LEAST,
    UNIT_SCALE,
    ZERO,
    Bytes,
    Floats,
    Scratch,
    copy_row,
    invert_scales,
    keep_if_better,
    load_parts,
    sum_by_block,
)
from rwkv_edge.jit import kernel
from rwkv_edge.quant.affine_search import AffineCodes
from rwkv_edge.quant.least_squares import NEIGHBOURS, SMALLEST_SCALE


class AffineSearch(NamedTuple):
    """What a search is for: codes 0 to `largest` in parts of part_len weights, n_parts a block.

    targets, n_fits: see `AffineCodes`. limit: scales and least values of parts are 0 to this.
    """

    part_len: int
    n_parts: int
    largest: np.float32
    targets: tuple[np.float32, ...]
    n_fits: int
    limit: np.float32


def affine_search(codes: AffineCodes, part_len: int, n_parts: int, limit: int) -> AffineSearch:
    """The search for a format's codes."""
    largest = np.float32(codes.largest)
    targets = tuple(np.float32(target) for target in codes.targets)
    return AffineSearch(part_len, n_parts, largest, targets, codes.n_fits, np.float32(limit))


@kernel(exact=True)
def try_affine(x: Floats, part_len: int, largest: np.float32, lanes: Floats) -> None:
    """The error of the nearest codes with each lane's SCALE and LEAST, and sums over its part."""
    invert_scales(lanes)
    for p in range(LANES):
        lanes[ERROR + p] = ZERO
        lanes[SUM_L + p] = ZERO
        lanes[SUM_LL + p] = ZERO
        lanes[SUM_XL + p] = ZERO
    for i in range(part_len):
        row = x[i * LANES : (i + 1) * LANES]
        for p in range(LANES):
            weight, least = row[p], lanes[LEAST + p]
            code = np.rint((weight - least) * lanes[INVERSE + p])
            code = min(max(code, ZERO), largest)
            difference = lanes[SCALE + p] * code + least - weight
            lanes[ERROR + p] += difference * difference
            lanes[SUM_L + p] += code
            lanes[SUM_LL + p] += code * code
            lanes[SUM_XL + p] += code * weight


@kernel(exact=True)
def write_affine_codes(
    x: Floats, part_len: int, largest: np.float32, lanes: Floats, codes: Bytes
) -> None:
    """The nearest codes with each lane's SCALE and LEAST, part after part."""
    invert_scales(lanes)
    for i in range(part_len):
        row = x[i * LANES : (i + 1) * LANES]
        for p in range(LANES):
            code = np.rint((row[p] - lanes[LEAST + p]) * lanes[INVERSE + p])
            codes[p * part_len + i] = np.uint8(min(max(code, ZERO), largest))


@kernel(exact=True)
def fit_affine(n: np.float32, has_positive_least: bool, lanes: Floats) -> None:
    """SCALE and LEAST that suit the codes tried best; where there are none, they stay."""
    for p in range(LANES):
        sum_l, sum_ll = lanes[SUM_L + p], lanes[SUM_LL + p]
        sum_x, sum_xl = lanes[SUM_X + p], lanes[SUM_XL + p]
        determinant = n * sum_ll - sum_l * sum_l
        usable = determinant > ZERO
        divisor = determinant if usable else ONE
        scale = (n * sum_xl - sum_x * sum_l) / divisor
        least = (sum_ll * sum_x - sum_l * sum_xl) / divisor
        moved = (not has_positive_least) & (least > ZERO)
        through_zero = sum_xl / max(sum_ll, ONE)
        scale = through_zero if moved else scale
        least = ZERO if moved else least
        usable &= scale > SMALLEST_SCALE
        lanes[SCALE + p] = scale if usable else lanes[SCALE + p]
        lanes[LEAST + p] = least if usable else lanes[LEAST + p]


@kernel(exact=True)
def search_parts(x: Floats, search: AffineSearch, has_positive_least: bool, lanes: Floats) -> None:
    """BEST_SCALE and BEST_LEAST of each lane; also SUM_X."""
    part_len, n = search.part_len, np.float32(search.part_len)
    for p in range(LANES):
        lanes[LOWEST + p] = x[p] if has_positive_least else min(x[p], ZERO)
        lanes[SPAN + p] = x[p]
        lanes[SUM_X + p] = ZERO
    for i in range(part_len):
        row = x[i * LANES : (i + 1) * LANES]
        for p in range(LANES):
            weight, lowest, highest = row[p], lanes[LOWEST + p], lanes[SPAN + p]
            lanes[LOWEST + p] = weight if weight < lowest else lowest
            lanes[SPAN + p] = weight if weight > highest else highest
            lanes[SUM_X + p] += weight
    for p in range(LANES):
        # Adding zero makes of a negative zero a positive one.
        lanes[LOWEST + p] += ZERO
        lanes[SPAN + p] = (lanes[SPAN + p] + ZERO) - lanes[LOWEST + p]
        lanes[BEST_SCALE + p] = lanes[SPAN + p] / search.targets[0]
        lanes[BEST_LEAST + p] = lanes[LOWEST + p]
        lanes[BEST_ERROR + p] = INFINITY
    for target in search.targets:
        for p in range(LANES):
            lanes[SCALE + p] = lanes[SPAN + p] / target
            lanes[LEAST + p] = lanes[LOWEST + p]
        for step in range(search.n_fits + 1):
            try_affine(x, part_len, search.largest, lanes)
            keep_if_better(SCALE, BEST_SCALE, lanes)
            keep_if_better(LEAST, BEST_LEAST, lanes)
            keep_if_better(ERROR, BEST_ERROR, lanes)
            if step < search.n_fits:
                fit_affine(n, has_positive_least, lanes)


@kernel(exact=True)
def search_affine_blocks(weights: Floats, search: AffineSearch, scratch: Scratch) -> bool:
    """Up to LANES blocks of one part: SCALE, LEAST and codes, ready to be stored.

    False if a scale or least value became infinite: a weight is too large for the format.
    """
    x, lanes, codes = scratch.x, scratch.lanes, scratch.codes
    if not load_parts(weights, search.part_len, x):
        return False
    search_parts(x, search, True, lanes)
    fits = True
    for p in range(LANES):
        lanes[SCALE + p] = f16_rounded(lanes[BEST_SCALE + p])
        lanes[LEAST + p] = f16_rounded(lanes[BEST_LEAST + p])
        fits &= max(abs(lanes[SCALE + p]), abs(lanes[LEAST + p])) < INFINITY
    if fits:
        write_affine_codes(x, search.part_len, search.largest, lanes, codes)
    return fits


@kernel(exact=True)
def round_to_units(n_parts: int, limit: np.float32, lanes: Floats) -> bool:
    """UNIT_SCALE and UNIT_LEAST of each block; FIRST_SCALES and TRIED_LEASTS in these units.

    False if one became infinite.
    """
    fits = True
    for block in range(LANES // n_parts):
        first = block * n_parts
        largest, deepest = lanes[BEST_SCALE + first], -lanes[BEST_LEAST + first]
        for p in range(first, first + n_parts):
            largest = max(largest, lanes[BEST_SCALE + p])
            deepest = max(deepest, -lanes[BEST_LEAST + p])
        scale, least = f16_rounded(largest / limit), f16_rounded((deepest + ZERO) / limit)
        fits &= max(scale, least) < INFINITY
        for p in range(first, first + n_parts):
            lanes[UNIT_SCALE + p] = scale
            lanes[UNIT_LEAST + p] = least
    copy_row(lanes, UNIT_SCALE, SCALE)
    invert_scales(lanes)
    for p in range(LANES):
        rounded = np.rint(lanes[BEST_SCALE + p] * lanes[INVERSE + p])
        lanes[FIRST_SCALES + p] = min(max(rounded, ZERO), limit)
        lanes[SUM_L + p] = -lanes[BEST_LEAST + p]
    leasts_in_units(SUM_L, limit, lanes)
    return fits


@kernel(exact=True)
def leasts_in_units(row: int, limit: np.float32, lanes: Floats) -> None:
    """TRIED_LEASTS: what is in a row, in units of UNIT_LEAST."""
    copy_row(lanes, UNIT_LEAST, SCALE)
    invert_scales(lanes)
    for p in range(LANES):
        rounded = np.rint(lanes[row + p] * lanes[INVERSE + p])
        lanes[TRIED_LEASTS + p] = min(max(rounded, ZERO), limit)


@kernel(exact=True)
def scales_in_units(unit_scale: int, unit_least: int, scales: int, leasts: int,
                    lanes: Floats) -> None:  # fmt: skip
    """SCALE and LEAST out of four rows: units, and how many of them."""
    for p in range(LANES):
        lanes[SCALE + p] = lanes[unit_scale + p] * lanes[scales + p]
        lanes[LEAST + p] = -(lanes[unit_least + p] * lanes[leasts + p])


@kernel(exact=True)
def search_affine_super_blocks(weights: Floats, search: AffineSearch, scratch: Scratch) -> bool:
    """Up to LANES / n_parts blocks: UNIT_SCALE, UNIT_LEAST, BEST_SCALES, BEST_LEASTS and codes.

    False if a scale or least value became infinite: a weight is too large for the format.
    """
    x, lanes, codes = scratch.x, scratch.lanes, scratch.codes
    part_len, n_parts, largest, limit = (
        search.part_len, search.n_parts, search.largest, search.limit
    )  # fmt: skip
    n = np.float32(part_len)
    if not load_parts(weights, part_len, x):
        return False
    search_parts(x, search, False, lanes)
    if not round_to_units(n_parts, limit, lanes):
        return False

    scales_in_units(UNIT_SCALE, UNIT_LEAST, FIRST_SCALES, TRIED_LEASTS, lanes)
    try_affine(x, part_len, largest, lanes)
    copy_row(lanes, ERROR, BEST_ERROR)
    copy_row(lanes, FIRST_SCALES, BEST_SCALES)
    copy_row(lanes, TRIED_LEASTS, BEST_LEASTS)
    copy_row(lanes, SUM_L, FIRST_SUM_L)
    for step in (ZERO, NEIGHBOURS[0], NEIGHBOURS[1]):
        for p in range(LANES):
            scales = min(max(lanes[FIRST_SCALES + p] + step, ZERO), limit)
            lanes[TRIED_SCALES + p] = scales
            scaled = lanes[UNIT_SCALE + p] * scales * lanes[FIRST_SUM_L + p]
            # The least value that suits the codes best beside this scale.
            lanes[SUM_L + p] = (scaled - lanes[SUM_X + p]) / n
        leasts_in_units(SUM_L, limit, lanes)
        scales_in_units(UNIT_SCALE, UNIT_LEAST, TRIED_SCALES, TRIED_LEASTS, lanes)
        try_affine(x, part_len, largest, lanes)
        keep_if_better(TRIED_SCALES, BEST_SCALES, lanes)
        keep_if_better(TRIED_LEASTS, BEST_LEASTS, lanes)
        keep_if_better(ERROR, BEST_ERROR, lanes)

    scales_in_units(UNIT_SCALE, UNIT_LEAST, BEST_SCALES, BEST_LEASTS, lanes)
    try_affine(x, part_len, largest, lanes)
    copy_row(lanes, ERROR, FIRST_ERROR)
    fit_units(n, n_parts, lanes)
    scales_in_units(FITTED_SCALE, FITTED_LEAST, BEST_SCALES, BEST_LEASTS, lanes)
    try_affine(x, part_len, largest, lanes)
    for block in range(LANES // n_parts):
        error = sum_by_block(lanes, ERROR, n_parts, block)
        if error < sum_by_block(lanes, FIRST_ERROR, n_parts, block):
            for p in range(block * n_parts, (block + 1) * n_parts):
                lanes[UNIT_SCALE + p] = lanes[FITTED_SCALE + p]
                lanes[UNIT_LEAST + p] = lanes[FITTED_LEAST + p]
    scales_in_units(UNIT_SCALE, UNIT_LEAST, BEST_SCALES, BEST_LEASTS, lanes)
    write_affine_codes(x, part_len, largest, lanes, codes)
    return True


@kernel(exact=True)
def fit_units(n: np.float32, n_parts: int, lanes: Floats) -> None:
    """FITTED_SCALE and FITTED_LEAST: the blocks' own that suit the codes tried best."""
    for block in range(LANES // n_parts):
        aa, ab, bb, ax, bx = ZERO, ZERO, ZERO, ZERO, ZERO
        first = block * n_parts
        for p in range(first, first + n_parts):
            scales, leasts = lanes[BEST_SCALES + p], lanes[BEST_LEASTS + p]
            aa += scales * scales * lanes[SUM_LL + p]
            ab += scales * leasts * lanes[SUM_L + p]
            bb += leasts * leasts * n
            ax += scales * lanes[SUM_XL + p]
            bx += leasts * lanes[SUM_X + p]
        determinant = aa * bb - ab * ab
        usable = determinant > ZERO
        divisor = determinant if usable else ONE
        scale = f16_rounded((bb * ax - ab * bx) / divisor)
        least = f16_rounded((ab * ax - aa * bx) / divisor)
        usable &= (scale > ZERO) & (least > ZERO)
        for p in range(first, first + n_parts):
            lanes[FITTED_SCALE + p] = scale if usable else lanes[UNIT_SCALE + p]
            lanes[FITTED_LEAST + p] = least if usable else lanes[UNIT_LEAST + p]
