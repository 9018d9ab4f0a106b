"""Small numbers packed into bytes, as several weight formats share them."""

from typing import Any

import numpy as np
import numpy.typing as npt

# Weights of a super-block, which K-quants give scales of their own beside those of its parts.
SUPER_BLOCK = 256
# The values that codes 0 to 15 of the IQ4 formats stand for: finer near zero. Source: ggml.
IQ4_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8
)

Codes = npt.NDArray[np.uint8]


def nibbles(packed: Codes) -> Codes:
    """(..., n) bytes to (..., 2n): the low halves of all, then the high halves."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def pack_nibbles(codes: npt.NDArray[Any]) -> Codes:
    """The inverse of `nibbles`."""
    half = codes.shape[-1] // 2
    packed: Codes = (codes[..., :half] | (codes[..., half:] << 4)).astype(np.uint8, copy=False)
    return packed


def bits(packed: Codes) -> Codes:
    """(..., 4) bytes to (..., 32) numbers 0 or 1, the lowest bit of the first byte first."""
    return np.unpackbits(packed, axis=-1, bitorder="little")


def pack_bits(ones: npt.NDArray[Any]) -> Codes:
    """The inverse of `bits`."""
    return np.packbits(ones, axis=-1, bitorder="little")


def halves(packed: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """float16 bits to float32."""
    return packed.view(np.float16).astype(np.float32)


def scales_and_mins(packed: Codes) -> tuple[Codes, Codes]:
    """(..., 12) bytes of Q4_K and Q5_K to eight scales and eight mins of six bits.

    The first four of each have a byte, whose upper two bits belong to the last four.
    """
    first, second, third = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=-1)
    mins = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=-1)
    return scales, mins


def pack_scales_and_mins(scales: Codes, mins: Codes) -> Codes:
    """The inverse of `scales_and_mins`."""
    low, high = scales[..., :4], scales[..., 4:]
    low_min, high_min = mins[..., :4], mins[..., 4:]
    parts = [
        low | (high >> 4 << 6),
        low_min | (high_min >> 4 << 6),
        (high & 15) | ((high_min & 15) << 4),
    ]
    return np.concatenate(parts, axis=-1)
