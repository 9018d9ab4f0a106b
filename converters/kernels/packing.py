"""Small numbers into bytes, as several encoders share them. See `rwkv_edge.quant.packed_bits`."""

import numpy as np

from rwkv_edge.converters.kernels.half import f16_bits
from rwkv_edge.converters.kernels.lanes import BEST_LEASTS, BEST_SCALES, Bytes, Floats
from rwkv_edge.jit import kernel

# Parts of a block of Q4_K or Q5_K whose scales have a byte of their own.
N_FIRST = 4


@kernel(exact=True)
def put_half(value: np.float32, out: Bytes, at: int) -> None:
    """A float32 as the two bytes of a float16."""
    half = f16_bits(value)
    out[at] = half & 0xFF
    out[at + 1] = half >> 8


@kernel(exact=True)
def pack_scales_and_mins(lanes: Floats, first: int, out: Bytes, at: int) -> None:
    """BEST_SCALES and BEST_LEASTS of the eight parts from lane `first` on, six bits each."""
    for i in range(N_FIRST):
        scale = np.int32(lanes[BEST_SCALES + first + i])
        least = np.int32(lanes[BEST_LEASTS + first + i])
        high_scale = np.int32(lanes[BEST_SCALES + first + N_FIRST + i])
        high_least = np.int32(lanes[BEST_LEASTS + first + N_FIRST + i])
        out[at + i] = scale | (high_scale >> 4 << 6)
        out[at + N_FIRST + i] = least | (high_least >> 4 << 6)
        out[at + 2 * N_FIRST + i] = (high_scale & 15) | ((high_least & 15) << 4)


@kernel(exact=True)
def pack_nibbles(codes: Bytes, out: Bytes) -> None:
    """The low four bits of (2n,) codes to (n,): those of the first half, then of the second."""
    half = out.size
    low, high = codes[:half], codes[half:]
    for i in range(half):
        out[i] = (low[i] & 15) | (high[i] << 4)


@kernel(exact=True)
def pack_quarters(codes: Bytes, shift: int, out: Bytes) -> None:
    """Two bits of (4n,) codes, `shift` up, to (n,): each quarter has its place in every byte."""
    n = out.size
    for i in range(n):
        first, second = codes[i] >> shift, codes[n + i] >> shift
        third, fourth = codes[2 * n + i] >> shift, codes[3 * n + i] >> shift
        out[i] = (first & 3) | (second & 3) << 2 | (third & 3) << 4 | (fourth & 3) << 6


@kernel(exact=True)
def pack_bits(codes: Bytes, shift: int, out: Bytes) -> None:
    """One bit of (8n,) codes, `shift` up, to (n,): the first code's is the lowest."""
    for byte in range(out.size):
        packed = 0
        for i in range(8):
            packed |= ((codes[8 * byte + i] >> shift) & 1) << i
        out[byte] = packed
