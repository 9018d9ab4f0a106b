"""The codes of 16 rows by 32 columns in memory, for each number of bits, and as eight vectors.

Vector j of the eight holds columns 4j to 4j + 3 of each row as bytes, as the dot products take
them. In memory, 64 bytes hold some bits of several of these vectors: byte by byte, so that they are
parted by shifts alone.
"""

import numpy as np

from rwkv_edge.jit import inline
from rwkv_edge.quant.packed_bits import IQ4_VALUES
from rwkv_edge.runtime.simd.arithmetic import (
    bits_from,
    bits_to,
    high_nibbles,
    low_nibbles,
    nibbles_to_high,
    splat_i8,
)
from rwkv_edge.runtime.simd.dot_products import byte_zero_code
from rwkv_edge.runtime.simd.memory import load_i8x64, store_i8x64
from rwkv_edge.runtime.simd.shuffles import look_up

# The values of the IQ4 formats, as often as `look_up` wants them.
IQ4_TABLE = np.tile(IQ4_VALUES.view(np.uint8), 4)
# Bytes of 16 rows by 32 columns.
TWO_BITS, THREE_BITS, FOUR_BITS, FIVE_BITS, SIX_BITS, EIGHT_BITS = (
    bits * 64 for bits in (2, 3, 4, 5, 6, 8)
)


@inline
def unpack_nibbles(weights, p):
    """Four bits: 64 bytes hold vector j in the low halves, and vector 4 + j in the high ones."""
    a, b = load_i8x64(weights, p), load_i8x64(weights, p + 64)
    c, d = load_i8x64(weights, p + 128), load_i8x64(weights, p + 192)
    return (
        low_nibbles(a), low_nibbles(b), low_nibbles(c), low_nibbles(d),
        high_nibbles(a), high_nibbles(b), high_nibbles(c), high_nibbles(d),
    )  # fmt: skip


@inline
def pack_nibbles(packed, p, w):
    """The inverse of `unpack_nibbles`; higher bits are left out."""
    store_i8x64(packed, p, low_nibbles(w[0]) | nibbles_to_high(low_nibbles(w[4])))
    store_i8x64(packed, p + 64, low_nibbles(w[1]) | nibbles_to_high(low_nibbles(w[5])))
    store_i8x64(packed, p + 128, low_nibbles(w[2]) | nibbles_to_high(low_nibbles(w[6])))
    store_i8x64(packed, p + 192, low_nibbles(w[3]) | nibbles_to_high(low_nibbles(w[7])))


@inline
def unpack_iq4(weights, p):
    """Four bits, as the bytes that `dot4` takes for what they stand for."""
    w = unpack_nibbles(weights, p)
    values = load_i8x64(IQ4_TABLE, 0) ^ splat_i8(np.uint8(byte_zero_code()))
    return (
        look_up(values, w[0]), look_up(values, w[1]), look_up(values, w[2]), look_up(values, w[3]),
        look_up(values, w[4]), look_up(values, w[5]), look_up(values, w[6]), look_up(values, w[7]),
    )  # fmt: skip


@inline
def bit_of(ones, j, place):
    """Bit j of each byte, moved to bit `place`."""
    return bits_to(bits_from(ones, j, 1), place)


@inline
def unpack_five_bits(weights, p):
    """Nibbles, then 64 bytes whose bit j is the fifth of vector j."""
    w, fifth = unpack_nibbles(weights, p), load_i8x64(weights, p + FOUR_BITS)
    return (
        w[0] | bit_of(fifth, 0, 4), w[1] | bit_of(fifth, 1, 4),
        w[2] | bit_of(fifth, 2, 4), w[3] | bit_of(fifth, 3, 4),
        w[4] | bit_of(fifth, 4, 4), w[5] | bit_of(fifth, 5, 4),
        w[6] | bit_of(fifth, 6, 4), w[7] | bit_of(fifth, 7, 4),
    )  # fmt: skip


@inline
def bits_of_all(w, bit):
    """A bit of each of eight vectors: that of vector j as bit j."""
    low = bits_from(w[0], bit, 1) | bit_of(w[1], bit, 1)
    low = low | bit_of(w[2], bit, 2) | bit_of(w[3], bit, 3)
    high = bit_of(w[4], bit, 4) | bit_of(w[5], bit, 5)
    return low | high | bit_of(w[6], bit, 6) | bit_of(w[7], bit, 7)


@inline
def pack_five_bits(packed, p, w):
    """The inverse of `unpack_five_bits`."""
    pack_nibbles(packed, p, w)
    store_i8x64(packed, p + FOUR_BITS, bits_of_all(w, 4))


@inline
def pairs_of_four(a, b, c, d, bit):
    """Two bits of each of four vectors, from `bit` on: side by side in one."""
    low = bits_from(a, bit, 2) | bits_to(bits_from(b, bit, 2), 2)
    return low | bits_to(bits_from(c, bit, 2), 4) | bits_to(bits_from(d, bit, 2), 6)


@inline
def pair_of(pairs, j, place):
    """The inverse: the two bits of vector j, moved to `place`."""
    return bits_to(bits_from(pairs, 2 * j, 2), place)


@inline
def unpack_six_bits(weights, p):
    """Nibbles, then twice 64 bytes that hold the upper two bits of four vectors."""
    w = unpack_nibbles(weights, p)
    a = load_i8x64(weights, p + FOUR_BITS)
    b = load_i8x64(weights, p + FOUR_BITS + 64)
    return (
        w[0] | pair_of(a, 0, 4), w[1] | pair_of(a, 1, 4),
        w[2] | pair_of(a, 2, 4), w[3] | pair_of(a, 3, 4),
        w[4] | pair_of(b, 0, 4), w[5] | pair_of(b, 1, 4),
        w[6] | pair_of(b, 2, 4), w[7] | pair_of(b, 3, 4),
    )  # fmt: skip


@inline
def pack_six_bits(packed, p, w):
    """The inverse of `unpack_six_bits`."""
    pack_nibbles(packed, p, w)
    store_i8x64(packed, p + FOUR_BITS, pairs_of_four(w[0], w[1], w[2], w[3], 4))
    store_i8x64(packed, p + FOUR_BITS + 64, pairs_of_four(w[4], w[5], w[6], w[7], 4))


@inline
def unpack_two_bits(weights, p):
    """Twice 64 bytes that hold four vectors."""
    a, b = load_i8x64(weights, p), load_i8x64(weights, p + 64)
    return (
        pair_of(a, 0, 0), pair_of(a, 1, 0), pair_of(a, 2, 0), pair_of(a, 3, 0),
        pair_of(b, 0, 0), pair_of(b, 1, 0), pair_of(b, 2, 0), pair_of(b, 3, 0),
    )  # fmt: skip


@inline
def pack_two_bits(packed, p, w):
    """The inverse of `unpack_two_bits`."""
    store_i8x64(packed, p, pairs_of_four(w[0], w[1], w[2], w[3], 0))
    store_i8x64(packed, p + 64, pairs_of_four(w[4], w[5], w[6], w[7], 0))


@inline
def unpack_three_bits(weights, p):
    """Two bits, then 64 bytes whose bit j is the third of vector j."""
    w, third = unpack_two_bits(weights, p), load_i8x64(weights, p + TWO_BITS)
    return (
        w[0] | bit_of(third, 0, 2), w[1] | bit_of(third, 1, 2),
        w[2] | bit_of(third, 2, 2), w[3] | bit_of(third, 3, 2),
        w[4] | bit_of(third, 4, 2), w[5] | bit_of(third, 5, 2),
        w[6] | bit_of(third, 6, 2), w[7] | bit_of(third, 7, 2),
    )  # fmt: skip


@inline
def pack_three_bits(packed, p, w):
    """The inverse of `unpack_three_bits`."""
    pack_two_bits(packed, p, w)
    store_i8x64(packed, p + TWO_BITS, bits_of_all(w, 2))


@inline
def unpack_bytes(weights, p):
    """Eight bits: the vectors as they are."""
    return (
        load_i8x64(weights, p),
        load_i8x64(weights, p + 64),
        load_i8x64(weights, p + 128),
        load_i8x64(weights, p + 192),
        load_i8x64(weights, p + 256),
        load_i8x64(weights, p + 320),
        load_i8x64(weights, p + 384),
        load_i8x64(weights, p + 448),
    )
