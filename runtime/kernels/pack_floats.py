"""Packing of plain numbers, which are interleaved as the words that they are. See `pack.py`."""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_edge.runtime.kernels.pack import pack_numbers

Bytes = npt.NDArray[np.uint8]
# What an infinite number has in common with NaN: all bits of the exponent.
F32_EXPONENT, F16_EXPONENT, BF16_EXPONENT = (
    np.uint32(0x7F800000),
    np.uint16(0x7C00),
    np.uint16(0x7F80),
)


def pack_floats(
    exponent: Any,
    group_rows: int,
    raw: Bytes,
    raw_group: int,
    weights: Bytes,
    matrix: np.void,
    first_group: int,
    last_group: int,
) -> int:
    """`PackedFormat.pack`, of the type of words that `exponent` is."""
    word = exponent.dtype
    # A view to the end of the arena: an offset is a multiple of every word's size.
    packed = weights[int(matrix["offset"]) :]
    words = packed[: packed.size // word.itemsize * word.itemsize].view(word)
    is_bad = pack_numbers(
        raw.view(word),
        raw_group,
        words,
        exponent,
        int(matrix["n_columns"]),
        group_rows,
        first_group,
        last_group,
    )
    return int(is_bad)


def packing_of(exponent: Any, group_rows: int) -> Any:
    """`pack_floats` of one type in groups of so many rows."""
    return partial(pack_floats, exponent, group_rows)
