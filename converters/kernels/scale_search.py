"""The fast twin of `rwkv_edge.quant.scale_search`, bit for bit."""

from typing import NamedTuple

import numpy as np

from rwkv_edge.converters.kernels.half import f16_rounded
from rwkv_edge.converters.kernels.lanes import (
    BEST_ERROR,
    BEST_SCALE,
    BEST_SCALES,
    ERROR,
    FIRST_ERROR,
    FIRST_SCALES,
    FITTED_SCALE,
    INFINITY,
    INVERSE,
    LANES,
    LOWEST,
    ONE,
    SCALE,
    SCALED,
    SPAN,
    SUM_LL,
    SUM_XL,
    TRIED_SCALES,
    UNIT_SCALE,
    VALUE,
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
from rwkv_edge.quant.least_squares import NEIGHBOURS
from rwkv_edge.quant.packed_bits import IQ4_VALUES
from rwkv_edge.quant.scale_search import ScaledCodes

Range = tuple[int, int]


class ScaledSearch(NamedTuple):
    """What a search is for: parts of part_len weights, n_parts a block.

    lowest, highest: codes stand for the whole numbers between; if they are the same, for
    IQ4_VALUES. targets, n_fits: see `ScaledCodes`. lowest_scale, highest_scale: of a part's scale.
    """

    part_len: int
    n_parts: int
    lowest: np.float32
    highest: np.float32
    targets: tuple[np.float32, ...]
    n_fits: int
    lowest_scale: np.float32
    highest_scale: np.float32


def scaled_search(
    codes: ScaledCodes, part_len: int, n_parts: int, values: Range, scales: Range
) -> ScaledSearch:
    """The search for a format's codes. values, scales: the lowest and the highest."""
    lowest, highest = values
    lowest_scale, highest_scale = scales
    return ScaledSearch(
        part_len,
        n_parts,
        np.float32(lowest),
        np.float32(highest),
        tuple(np.float32(target) for target in codes.targets),
        codes.n_fits,
        np.float32(lowest_scale),
        np.float32(highest_scale),
    )


# In place of the lowest and the highest value.
IQ4 = (0, 0)
# Half way between the values that codes stand for, and from each value to the next.
MIDDLES = tuple((IQ4_VALUES[1:].astype(np.float32) + IQ4_VALUES[:-1]) / np.float32(2))
STEPS = tuple(np.diff(IQ4_VALUES.astype(np.float32)))
ONES = (np.float32(1),) * len(MIDDLES)
FIRST_VALUE = np.float32(IQ4_VALUES[0])


@kernel(exact=True)
def count_steps(first: np.float32, steps: tuple[np.float32, ...], lanes: Floats) -> None:
    """VALUE: `first` and the steps up to the nearest of IQ4_VALUES to each VALUE.

    Counting takes no table, in which a vector could not look up fast. Half way between two values,
    the larger one.
    """
    for p in range(LANES):
        lanes[SCALED + p] = lanes[VALUE + p]
        lanes[VALUE + p] = first
    for i in range(len(MIDDLES)):
        middle, step = MIDDLES[i], steps[i]
        for p in range(LANES):
            lanes[VALUE + p] += step if lanes[SCALED + p] >= middle else ZERO


@kernel(exact=True)
def try_scale(x: Floats, search: ScaledSearch, lanes: Floats) -> None:
    """The error of the nearest values with each lane's SCALE, and sums over its part."""
    lowest, highest = search.lowest, search.highest
    invert_scales(lanes)
    for p in range(LANES):
        lanes[ERROR + p] = ZERO
        lanes[SUM_LL + p] = ZERO
        lanes[SUM_XL + p] = ZERO
    for i in range(search.part_len):
        row = x[i * LANES : (i + 1) * LANES]
        if lowest == highest:
            for p in range(LANES):
                lanes[VALUE + p] = row[p] * lanes[INVERSE + p]
            count_steps(FIRST_VALUE, STEPS, lanes)
        else:
            for p in range(LANES):
                value = np.rint(row[p] * lanes[INVERSE + p])
                lanes[VALUE + p] = min(max(value, lowest), highest)
        for p in range(LANES):
            weight, value = row[p], lanes[VALUE + p]
            difference = lanes[SCALE + p] * value - weight
            lanes[ERROR + p] += difference * difference
            lanes[SUM_LL + p] += value * value
            lanes[SUM_XL + p] += value * weight


@kernel(exact=True)
def write_scaled_codes(x: Floats, search: ScaledSearch, lanes: Floats, codes: Bytes) -> None:
    """The codes of the nearest values with each lane's SCALE, counted from 0, part after part."""
    part_len, lowest, highest = search.part_len, search.lowest, search.highest
    invert_scales(lanes)
    for i in range(search.part_len):
        row = x[i * LANES : (i + 1) * LANES]
        if lowest == highest:
            for p in range(LANES):
                lanes[VALUE + p] = row[p] * lanes[INVERSE + p]
            count_steps(ZERO, ONES, lanes)
        else:
            for p in range(LANES):
                value = np.rint(row[p] * lanes[INVERSE + p])
                lanes[VALUE + p] = min(max(value, lowest), highest) - lowest
        for p in range(LANES):
            codes[p * part_len + i] = np.uint8(lanes[VALUE + p])


@kernel(exact=True)
def search_parts(x: Floats, search: ScaledSearch, lanes: Floats) -> None:
    """BEST_SCALE of each lane."""
    # SPAN: the first weight of largest magnitude; LOWEST: that magnitude.
    for p in range(LANES):
        lanes[SPAN + p] = x[p]
        lanes[LOWEST + p] = abs(x[p])
    for i in range(1, search.part_len):
        row = x[i * LANES : (i + 1) * LANES]
        for p in range(LANES):
            weight = row[p]
            larger = abs(weight) > lanes[LOWEST + p]
            lanes[SPAN + p] = weight if larger else lanes[SPAN + p]
            lanes[LOWEST + p] = abs(weight) if larger else lanes[LOWEST + p]
    for p in range(LANES):
        lanes[BEST_SCALE + p] = lanes[SPAN + p] / search.targets[0]
        lanes[BEST_ERROR + p] = INFINITY
    for target in search.targets:
        for p in range(LANES):
            lanes[SCALE + p] = lanes[SPAN + p] / target
        for step in range(search.n_fits + 1):
            try_scale(x, search, lanes)
            keep_if_better(SCALE, BEST_SCALE, lanes)
            keep_if_better(ERROR, BEST_ERROR, lanes)
            if step < search.n_fits:
                for p in range(LANES):
                    usable = lanes[SUM_LL + p] > ZERO
                    fitted = lanes[SUM_XL + p] / (lanes[SUM_LL + p] if usable else ONE)
                    lanes[SCALE + p] = fitted if usable else lanes[SCALE + p]


@kernel(exact=True)
def search_scaled_blocks(weights: Floats, search: ScaledSearch, scratch: Scratch) -> bool:
    """Up to LANES blocks of one part: SCALE and codes, ready to be stored.

    False if a scale became infinite: a weight is too large for the format.
    """
    x, lanes, codes = scratch.x, scratch.lanes, scratch.codes
    if not load_parts(weights, search.part_len, x):
        return False
    search_parts(x, search, lanes)
    fits = True
    for p in range(LANES):
        # Adding zero makes of a negative zero a positive one.
        lanes[SCALE + p] = f16_rounded(lanes[BEST_SCALE + p]) + ZERO
        fits &= abs(lanes[SCALE + p]) < INFINITY
    if fits:
        write_scaled_codes(x, search, lanes, codes)
    return fits


@kernel(exact=True)
def units_of_blocks(n_parts: int, lowest: np.float32, lanes: Floats) -> bool:
    """UNIT_SCALE of each block: the scale of largest magnitude becomes `lowest` times that.

    False if one became infinite.
    """
    fits = True
    for block in range(LANES // n_parts):
        first = block * n_parts
        largest = lanes[BEST_SCALE + first]
        for p in range(first + 1, first + n_parts):
            scale = lanes[BEST_SCALE + p]
            largest = scale if abs(scale) > abs(largest) else largest
        scale = f16_rounded(largest / lowest) + ZERO
        fits &= abs(scale) < INFINITY
        for p in range(first, first + n_parts):
            lanes[UNIT_SCALE + p] = scale
    return fits


@kernel(exact=True)
def multiply_rows(first: int, second: int, lanes: Floats) -> None:
    """SCALE: the product of two rows."""
    for p in range(LANES):
        lanes[SCALE + p] = lanes[first + p] * lanes[second + p]


@kernel(exact=True)
def search_scaled_super_blocks(weights: Floats, search: ScaledSearch, scratch: Scratch) -> bool:
    """Up to LANES / n_parts blocks: UNIT_SCALE, BEST_SCALES and codes.

    False if a scale became infinite: a weight is too large for the format.
    """
    x, lanes, codes = scratch.x, scratch.lanes, scratch.codes
    n_parts, lowest_scale, highest_scale = (
        search.n_parts, search.lowest_scale, search.highest_scale
    )  # fmt: skip
    n_parts, lowest_scale, highest_scale = (
        search.n_parts, search.lowest_scale, search.highest_scale
    )  # fmt: skip
    n_parts, lowest_scale, highest_scale = (
        search.n_parts, search.lowest_scale, search.highest_scale
    )  # fmt: skip
    if not load_parts(weights, search.part_len, x):
        return False
    search_parts(x, search, lanes)
    if not units_of_blocks(n_parts, lowest_scale, lanes):
        return False
    copy_row(lanes, UNIT_SCALE, SCALE)
    invert_scales(lanes)
    for p in range(LANES):
        rounded = np.rint(lanes[BEST_SCALE + p] * lanes[INVERSE + p])
        lanes[FIRST_SCALES + p] = min(max(rounded, lowest_scale), highest_scale)

    multiply_rows(UNIT_SCALE, FIRST_SCALES, lanes)
    try_scale(x, search, lanes)
    copy_row(lanes, ERROR, BEST_ERROR)
    copy_row(lanes, FIRST_SCALES, BEST_SCALES)
    for step in NEIGHBOURS:
        for p in range(LANES):
            scales = lanes[FIRST_SCALES + p] + step
            lanes[TRIED_SCALES + p] = min(max(scales, lowest_scale), highest_scale)
        multiply_rows(UNIT_SCALE, TRIED_SCALES, lanes)
        try_scale(x, search, lanes)
        keep_if_better(TRIED_SCALES, BEST_SCALES, lanes)
        keep_if_better(ERROR, BEST_ERROR, lanes)

    multiply_rows(UNIT_SCALE, BEST_SCALES, lanes)
    try_scale(x, search, lanes)
    copy_row(lanes, ERROR, FIRST_ERROR)
    for block in range(LANES // n_parts):
        aa, ax = ZERO, ZERO
        for p in range(block * n_parts, (block + 1) * n_parts):
            aa += lanes[BEST_SCALES + p] * lanes[BEST_SCALES + p] * lanes[SUM_LL + p]
            ax += lanes[BEST_SCALES + p] * lanes[SUM_XL + p]
        usable = aa > ZERO
        scale = f16_rounded(ax / (aa if usable else ONE))
        usable &= scale != ZERO
        for p in range(block * n_parts, (block + 1) * n_parts):
            lanes[FITTED_SCALE + p] = scale if usable else lanes[UNIT_SCALE + p]
    multiply_rows(FITTED_SCALE, BEST_SCALES, lanes)
    try_scale(x, search, lanes)
    for block in range(LANES // n_parts):
        error = sum_by_block(lanes, ERROR, n_parts, block)
        if error < sum_by_block(lanes, FIRST_ERROR, n_parts, block):
            for p in range(block * n_parts, (block + 1) * n_parts):
                lanes[UNIT_SCALE + p] = lanes[FITTED_SCALE + p]
    multiply_rows(UNIT_SCALE, BEST_SCALES, lanes)
    write_scaled_codes(x, search, lanes, codes)
    return True
