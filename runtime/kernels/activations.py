"""Inputs of a matrix product: float32, and the int8 copy that quantized weights multiply."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.simd.arithmetic import (
    absolute,
    horizontal_max,
    horizontal_sum_i32,
    maximum,
    round_to_even,
    splat_f32,
    to_i32,
)
from rwkv_edge.runtime.simd.memory import load_f32x16, store_i8x16

BLOCK = 32
# Columns that share a scale in the formats whose parts are of 16.
HALF = 16
# A tile of packed quantized weights spans two blocks: rows are padded to whole tiles.
COLUMN_PADDING = 2 * BLOCK


class Activations(NamedTuple):
    """T rows of inputs, padded with zeros to a multiple of 64 columns; or slots of such rows.

    values: (T, columns) float32. codes: (T, columns) int8; quads: the same bytes as
    (T, columns / 4) int32; scales: (T, columns / 32) float32; sums: of the codes of each block,
    int32; half_sums: of each half of a block, (T, columns / 16). values ~ codes * scales. Slots,
    where there are several, come first.
    """

    values: npt.NDArray[np.float32]
    codes: npt.NDArray[np.int8]
    quads: npt.NDArray[np.int32]
    scales: npt.NDArray[np.float32]
    sums: npt.NDArray[np.int32]
    half_sums: npt.NDArray[np.int32]


def padded(n_columns: int) -> int:
    """Columns including padding."""
    return -(-n_columns // COLUMN_PADDING) * COLUMN_PADDING


def new_activations(n_slots: int, n_tokens: int, n_columns: int) -> Activations:
    """Room for `n_tokens` rows in each slot; the padding is zero and stays so."""
    n_padded = padded(n_columns)
    codes = np.zeros((n_slots, n_tokens, n_padded), np.int8)
    return Activations(
        values=np.zeros((n_slots, n_tokens, n_padded), np.float32),
        codes=codes,
        quads=codes.view(np.int32),
        scales=np.zeros((n_slots, n_tokens, n_padded // BLOCK), np.float32),
        sums=np.zeros((n_slots, n_tokens, n_padded // BLOCK), np.int32),
        half_sums=np.zeros((n_slots, n_tokens, n_padded // HALF), np.int32),
    )


@inline
def slot(x, i):
    """The T rows of one slot."""
    return Activations(x.values[i], x.codes[i], x.quads[i], x.scales[i], x.sums[i], x.half_sums[i])


@kernel
def quantize(values, codes, scales, sums, half_sums, first, last):
    """Columns first to last of one row: code = round(value / scale), scale = max |value| / 127.

    first is a multiple of 32. codes, scales and both sums of the blocks are overwritten.
    """
    for column in range(first, last, BLOCK):
        low, high = load_f32x16(values, column), load_f32x16(values, column + 16)
        scale = horizontal_max(maximum(absolute(low), absolute(high))) / np.float32(127)
        inverse = splat_f32(np.float32(1) / scale if scale > 0 else np.float32(0))
        low_codes = to_i32(round_to_even(low * inverse))
        high_codes = to_i32(round_to_even(high * inverse))
        store_i8x16(codes, column, low_codes)
        store_i8x16(codes, column + 16, high_codes)
        scales[column // BLOCK] = scale
        low_sum, high_sum = horizontal_sum_i32(low_codes), horizontal_sum_i32(high_codes)
        half_sums[column // HALF] = low_sum
        half_sums[column // HALF + 1] = high_sum
        sums[column // BLOCK] = low_sum + high_sum


@kernel
def quantize_rows(x, n_tokens, first, last):
    """Columns first to last of every row."""
    for t in range(n_tokens):
        quantize(x.values[t], x.codes[t], x.scales[t], x.sums[t], x.half_sums[t], first, last)
