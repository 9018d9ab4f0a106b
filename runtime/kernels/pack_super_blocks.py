"""Packing of the formats whose blocks are super-blocks of 256 weights. See `pack.py`.

A tile of 16 rows is the codes of eight blocks of 32 columns, then scales: a byte for each part and
row, and the halves that all parts share. Scales of six bits become bytes here. Least values are
subtracted in files, and added in memory: their halves change sign.
"""

from rwkv_edge.jit import inline, kernel
from rwkv_edge.quant import IQ4_XS, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K
from rwkv_edge.quant.q3_k import ZERO_SCALE
from rwkv_edge.runtime.kernels.block_scales import (
    HALF_PARTS_BYTES,
    K_SCALES_BYTES,
    PAIRS_BYTES,
    PART_PAIR,
    PARTS_BYTES,
    whole_lines,
)
from rwkv_edge.runtime.kernels.codes import (
    FIVE_BITS,
    FOUR_BITS,
    SIX_BITS,
    THREE_BITS,
    TWO_BITS,
    pack_five_bits,
    pack_nibbles,
    pack_six_bits,
    pack_three_bits,
    pack_two_bits,
)
from rwkv_edge.runtime.kernels.pack import (
    HALVES_BYTES,
    SIGN,
    SUPER_BLOCKS,
    load_eight,
    pack_bytes,
    pack_halves,
    pack_tiles,
    store_quads,
)
from rwkv_edge.runtime.kernels.pack_blocks import offset_of
from rwkv_edge.runtime.kernels.packed_format import ROWS
from rwkv_edge.runtime.simd.arithmetic import bits_from, bits_to, high_nibbles, low_nibbles
from rwkv_edge.runtime.simd.shuffles import load_quads

# Bytes that hold codes of one of the 32 weights of a part: a nibble for two, bits for more.
PART_BYTES = 32
Q4_K_BYTES, Q4_K_CODES = Q4_K.block.itemsize, offset_of(Q4_K, "codes")
Q5_K_BYTES, Q5_K_CODES = Q5_K.block.itemsize, offset_of(Q5_K, "codes")
Q6_K_BYTES, Q6_K_CODES = Q6_K.block.itemsize, offset_of(Q6_K, "codes")
Q3_K_BYTES, Q3_K_CODES = Q3_K.block.itemsize, offset_of(Q3_K, "codes")
Q2_K_BYTES, Q2_K_CODES = Q2_K.block.itemsize, offset_of(Q2_K, "codes")
IQ4_XS_BYTES, IQ4_XS_CODES = IQ4_XS.block.itemsize, offset_of(IQ4_XS, "codes")
Q5_K_FIFTH, Q6_K_UPPER = offset_of(Q5_K, "fifth_bits"), offset_of(Q6_K, "upper_bits")
Q3_K_THIRD = offset_of(Q3_K, "third_bits")
# Q4_K and Q5_K begin alike.
K_SCALE, K_LEAST, K_SCALES = (offset_of(Q4_K, name) for name in ("scale", "least", "scales"))
Q6_K_SCALE, Q6_K_SCALES = offset_of(Q6_K, "scale"), offset_of(Q6_K, "scales")
Q3_K_SCALE, Q3_K_SCALES = offset_of(Q3_K, "scale"), offset_of(Q3_K, "scales")
Q2_K_SCALE, Q2_K_LEAST = offset_of(Q2_K, "scale"), offset_of(Q2_K, "least")
Q2_K_SCALES = offset_of(Q2_K, "scales")
IQ4_XS_HIGH, IQ4_XS_LOW = offset_of(IQ4_XS, "scales_high"), offset_of(IQ4_XS, "scales_low")
# Bytes of tiles.
Q4_K_TILE, Q5_K_TILE = (SUPER_BLOCKS * bits + K_SCALES_BYTES for bits in (FOUR_BITS, FIVE_BITS))
Q6_K_TILE, Q3_K_TILE = (
    whole_lines(SUPER_BLOCKS * bits + HALF_PARTS_BYTES + HALVES_BYTES)
    for bits in (SIX_BITS, THREE_BITS)
)
Q2_K_TILE = SUPER_BLOCKS * TWO_BITS + HALF_PARTS_BYTES + 2 * HALVES_BYTES
IQ4_XS_TILE = whole_lines(SUPER_BLOCKS * FOUR_BITS + PARTS_BYTES + HALVES_BYTES)
# Codes of four blocks of Q6_K, Q3_K and Q2_K share bytes: half a super-block.
HALF_BLOCKS = SUPER_BLOCKS // 2


@inline
def six_bits_of(raw, p, i):
    """Scale and least value of part i, out of 12 bytes at p of a row. See `scales_and_mins`."""
    if i < 4:
        return raw[p + i] & 63, raw[p + 4 + i] & 63
    third = raw[p + 4 + i]
    scale = (third & 15) | raw[p + i - 4] >> 6 << 4
    return scale, third >> 4 | raw[p + i] >> 6 << 4


@inline
def q3_k_scale(raw, p, i):
    """The scale of part i, out of the 12 bytes at p."""
    low = raw[p + i % 8] >> (4 * (i // 8)) & 15
    return (low | (raw[p + 8 + i % 4] >> (2 * (i // 4)) & 3) << 4) - ZERO_SCALE


@inline
def iq4_xs_scale(raw, p, i):
    """The scale of part i of the block at p."""
    low = raw[p + IQ4_XS_LOW + i // 2] >> (4 * (i % 2)) & 15
    high = raw[p + IQ4_XS_HIGH + i // 4] >> (2 * (i % 4)) & 3
    return (low | high << 4) - ZERO_SCALE


@inline
def low_of(v):
    """The low nibbles of eight vectors."""
    return (
        low_nibbles(v[0]), low_nibbles(v[1]), low_nibbles(v[2]), low_nibbles(v[3]),
        low_nibbles(v[4]), low_nibbles(v[5]), low_nibbles(v[6]), low_nibbles(v[7]),
    )  # fmt: skip


@inline
def high_of(v):
    """The high nibbles of eight vectors."""
    return (
        high_nibbles(v[0]), high_nibbles(v[1]), high_nibbles(v[2]), high_nibbles(v[3]),
        high_nibbles(v[4]), high_nibbles(v[5]), high_nibbles(v[6]), high_nibbles(v[7]),
    )  # fmt: skip


@inline
def moved(v, bit, n_bits, place):
    """n_bits of each of eight vectors, from `bit` on, moved to `place`."""
    return (
        bits_to(bits_from(v[0], bit, n_bits), place), bits_to(bits_from(v[1], bit, n_bits), place),
        bits_to(bits_from(v[2], bit, n_bits), place), bits_to(bits_from(v[3], bit, n_bits), place),
        bits_to(bits_from(v[4], bit, n_bits), place), bits_to(bits_from(v[5], bit, n_bits), place),
        bits_to(bits_from(v[6], bit, n_bits), place), bits_to(bits_from(v[7], bit, n_bits), place),
    )  # fmt: skip


@inline
def both(a, b):
    """Eight vectors with the bits of both."""
    return (
        a[0] | b[0], a[1] | b[1], a[2] | b[2], a[3] | b[3],
        a[4] | b[4], a[5] | b[5], a[6] | b[6], a[7] | b[7],
    )  # fmt: skip


@inline
def pack_k_scales(raw, row, source, packed, target):
    """Scales and least values of Q4_K and Q5_K, as `k_scale` and `k_least` read them."""
    for lane in range(ROWS):
        for i in range(SUPER_BLOCKS):
            scale, least = six_bits_of(raw[row + lane], source + K_SCALES, i)
            packed[target + i * PART_PAIR + lane] = scale
            packed[target + i * PART_PAIR + ROWS + lane] = least
    halves = target + PAIRS_BYTES
    n_bad = pack_halves(raw, row, source + K_SCALE, packed, halves, ROWS, 0)
    halves += HALVES_BYTES
    return n_bad + pack_halves(raw, row, source + K_LEAST, packed, halves, ROWS, SIGN)


@inline
def pack_q4_k_tile(raw, row, source, packed, target):
    """See `pack_tiles`."""
    n_bytes = raw.shape[1]
    for pair in range(SUPER_BLOCKS // 2):
        first = row * n_bytes + source + Q4_K_CODES + pair * PART_BYTES
        v = load_eight(raw, first, n_bytes)
        pack_nibbles(packed, target + 2 * pair * FOUR_BITS, low_of(v))
        pack_nibbles(packed, target + (2 * pair + 1) * FOUR_BITS, high_of(v))
    return pack_k_scales(raw, row, source, packed, target + SUPER_BLOCKS * FOUR_BITS)


@inline
def pack_q5_k_tile(raw, row, source, packed, target):
    """See `pack_tiles`."""
    n_bytes = raw.shape[1]
    start = row * n_bytes + source
    fifth = load_eight(raw, start + Q5_K_FIFTH, n_bytes)
    for pair in range(SUPER_BLOCKS // 2):
        v = load_eight(raw, start + Q5_K_CODES + pair * PART_BYTES, n_bytes)
        i = 2 * pair
        low = both(low_of(v), moved(fifth, i, 1, 4))
        high = both(high_of(v), moved(fifth, i + 1, 1, 4))
        pack_five_bits(packed, target + i * FIVE_BITS, low)
        pack_five_bits(packed, target + (i + 1) * FIVE_BITS, high)
    return pack_k_scales(raw, row, source, packed, target + SUPER_BLOCKS * FIVE_BITS)


@inline
def pack_q6_k_tile(raw, row, source, packed, target):
    """See `pack_tiles`."""
    n_bytes = raw.shape[1]
    start = row * n_bytes + source
    for half in range(2):
        upper = load_eight(raw, start + Q6_K_UPPER + half * PART_BYTES, n_bytes)
        for i in range(2):
            # The low nibbles of 32 bytes are of one part, the high ones of that two further on.
            v = load_eight(raw, start + Q6_K_CODES + (2 * half + i) * PART_BYTES, n_bytes)
            p = target + (HALF_BLOCKS * half + i) * SIX_BITS
            pack_six_bits(packed, p, both(low_of(v), moved(upper, 2 * i, 2, 4)))
            high = both(high_of(v), moved(upper, 2 * i + 4, 2, 4))
            pack_six_bits(packed, p + 2 * SIX_BITS, high)
    scales = target + SUPER_BLOCKS * SIX_BITS
    for part in range(2 * SUPER_BLOCKS):
        pack_bytes(raw, row, source + Q6_K_SCALES + part, packed, scales + part * ROWS, ROWS)
    scales += HALF_PARTS_BYTES
    return pack_halves(raw, row, source + Q6_K_SCALE, packed, scales, ROWS, 0)


@inline
def pack_q3_k_tile(raw, row, source, packed, target):
    """See `pack_tiles`."""
    n_bytes = raw.shape[1]
    start = row * n_bytes + source
    third = load_eight(raw, start + Q3_K_THIRD, n_bytes)
    for half in range(2):
        v = load_eight(raw, start + Q3_K_CODES + half * PART_BYTES, n_bytes)
        for i in range(HALF_BLOCKS):
            block = HALF_BLOCKS * half + i
            w = both(moved(v, 2 * i, 2, 0), moved(third, block, 1, 2))
            pack_three_bits(packed, target + block * THREE_BITS, w)
    scales = target + SUPER_BLOCKS * THREE_BITS
    for lane in range(ROWS):
        for part in range(2 * SUPER_BLOCKS):
            scale = q3_k_scale(raw[row + lane], source + Q3_K_SCALES, part)
            packed[scales + part * ROWS + lane] = scale
    scales += HALF_PARTS_BYTES
    return pack_halves(raw, row, source + Q3_K_SCALE, packed, scales, ROWS, 0)


@inline
def pack_q2_k_tile(raw, row, source, packed, target):
    """See `pack_tiles`. A scale and a least value stay in one byte."""
    n_bytes = raw.shape[1]
    for half in range(2):
        first = row * n_bytes + source + Q2_K_CODES + half * PART_BYTES
        v = load_eight(raw, first, n_bytes)
        for i in range(HALF_BLOCKS):
            p = target + (HALF_BLOCKS * half + i) * TWO_BITS
            pack_two_bits(packed, p, moved(v, 2 * i, 2, 0))
    scales = target + SUPER_BLOCKS * TWO_BITS
    for part in range(2 * SUPER_BLOCKS):
        pack_bytes(raw, row, source + Q2_K_SCALES + part, packed, scales + part * ROWS, ROWS)
    scales += HALF_PARTS_BYTES
    n_bad = pack_halves(raw, row, source + Q2_K_SCALE, packed, scales, ROWS, 0)
    scales += HALVES_BYTES
    return n_bad + pack_halves(raw, row, source + Q2_K_LEAST, packed, scales, ROWS, SIGN)


@inline
def pack_iq4_xs_tile(raw, row, source, packed, target):
    """See `pack_tiles`. The codes of a part lie as those of Q4_0 do."""
    n_bytes = raw.shape[1]
    scales = target + SUPER_BLOCKS * FOUR_BITS
    for i in range(SUPER_BLOCKS):
        first = row * n_bytes + source + IQ4_XS_CODES + i * PART_BYTES // 2
        store_quads(packed, target + i * FOUR_BITS, load_quads(raw, first, n_bytes))
        for lane in range(ROWS):
            packed[scales + i * ROWS + lane] = iq4_xs_scale(raw[row + lane], source, i)
    return pack_halves(raw, row, source, packed, scales + PARTS_BYTES, ROWS, 0)


@kernel
def pack_q4_k(raw, raw_group, weights, matrix, first_group, last_group):
    """See `pack_tiles`."""
    return pack_tiles(
        pack_q4_k_tile, Q4_K_BYTES, Q4_K_TILE,
        raw, raw_group, weights, matrix, first_group, last_group,
    )  # fmt: skip


@kernel
def pack_q5_k(raw, raw_group, weights, matrix, first_group, last_group):
    """See `pack_tiles`."""
    return pack_tiles(
        pack_q5_k_tile, Q5_K_BYTES, Q5_K_TILE,
        raw, raw_group, weights, matrix, first_group, last_group,
    )  # fmt: skip


@kernel
def pack_q6_k(raw, raw_group, weights, matrix, first_group, last_group):
    """See `pack_tiles`."""
    return pack_tiles(
        pack_q6_k_tile, Q6_K_BYTES, Q6_K_TILE,
        raw, raw_group, weights, matrix, first_group, last_group,
    )  # fmt: skip


@kernel
def pack_q3_k(raw, raw_group, weights, matrix, first_group, last_group):
    """See `pack_tiles`."""
    return pack_tiles(
        pack_q3_k_tile, Q3_K_BYTES, Q3_K_TILE,
        raw, raw_group, weights, matrix, first_group, last_group,
    )  # fmt: skip


@kernel
def pack_q2_k(raw, raw_group, weights, matrix, first_group, last_group):
    """See `pack_tiles`."""
    return pack_tiles(
        pack_q2_k_tile, Q2_K_BYTES, Q2_K_TILE,
        raw, raw_group, weights, matrix, first_group, last_group,
    )  # fmt: skip


@kernel
def pack_iq4_xs(raw, raw_group, weights, matrix, first_group, last_group):
    """See `pack_tiles`."""
    return pack_tiles(
        pack_iq4_xs_tile, IQ4_XS_BYTES, IQ4_XS_TILE,
        raw, raw_group, weights, matrix, first_group, last_group,
    )  # fmt: skip
