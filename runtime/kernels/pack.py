"""Weights of a file interleaved into the order in which the matrix products read them.

A kernel that packs takes whole groups of rows: the arena fills up the last one with rows of zeros.
It looks at every scale on the way and counts those that are NaN or infinite.
"""

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.kernels.activations import BLOCK
from rwkv_edge.runtime.kernels.packed_format import ROWS
from rwkv_edge.runtime.simd.memory import store_i8x64
from rwkv_edge.runtime.simd.shuffles import columns4, load_quads

# Blocks of 32 columns in a tile of the formats that have no super-blocks: whole cache lines.
PAIR = 2
# And in one of the formats that have.
SUPER_BLOCKS = 8
# Bytes of the halves, or of other words of two bytes, of 16 rows.
HALVES_BYTES = 2 * ROWS
# Bits of the upper byte of a half: a number whose exponent is all ones is no number.
EXPONENT, SIGN = 0x7C, 0x80
# Columns of plain numbers that are interleaved before the next ones.
COLUMN_PART = 128


@inline
def pack_halves(raw, first_row, source, packed, target, n_rows, sign):
    """The half at byte `source` of each of n_rows, one row after the other; sign is XORed to each.

    Gives how many are NaN or infinite.
    """
    n_bad = 0
    for i in range(n_rows):
        low, high = raw[first_row + i, source], raw[first_row + i, source + 1]
        packed[target + 2 * i] = low
        packed[target + 2 * i + 1] = high ^ sign
        n_bad += (high & EXPONENT) == EXPONENT
    return n_bad


@inline
def pack_bytes(raw, first_row, source, packed, target, n_rows):
    """The byte `source` of each of n_rows, one row after the other."""
    for i in range(n_rows):
        packed[target + i] = raw[first_row + i, source]


@inline
def load_eight(raw, first, stride):
    """32 bytes of each of 16 rows: eight vectors of four bytes of each."""
    a, b = load_quads(raw, first, stride), load_quads(raw, first + 16, stride)
    return a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]


@inline
def store_quads(packed, p, w):
    """Four vectors."""
    store_i8x64(packed, p, w[0])
    store_i8x64(packed, p + 64, w[1])
    store_i8x64(packed, p + 128, w[2])
    store_i8x64(packed, p + 192, w[3])


@inline
def pack_pairs(
    pack_codes, pack_scales, block_bytes, code_bytes, scale_bytes,
    raw, raw_group, weights, matrix, first_group, last_group,
):  # fmt: skip
    """Interleave groups of 16 rows of a file's blocks of 32 into tiles of two blocks.

    A tile is the codes of its first block, those of its second, and the scales of both. raw: (rows,
    bytes of a row) uint8, of which group raw_group is the first. weights: the arena, in which the
    matrix is overwritten. Where rows have an odd number of blocks, the last tile gets scales of
    zero. Gives how many scales are NaN or infinite.
    """
    n_bytes, n_blocks = raw.shape[1], matrix.n_columns // BLOCK
    n_bad = 0
    for group in range(first_group, last_group):
        row = (group - raw_group) * ROWS
        for block in range(n_blocks):
            pair = (group * n_blocks + block) // PAIR
            tile = matrix.offset + pair * PAIR * (code_bytes + scale_bytes)
            codes = tile + block % PAIR * code_bytes
            scales = tile + PAIR * code_bytes + block % PAIR * scale_bytes
            source = block * block_bytes
            if source < n_bytes:
                n_bad += pack_scales(raw, row, source, weights, scales)
                pack_codes(raw, row, source, weights, codes)
            else:
                for i in range(scale_bytes):
                    weights[scales + i] = 0
    return n_bad


@inline
def pack_tiles(
    pack_tile, block_bytes, tile_bytes, raw, raw_group, weights, matrix, first_group, last_group
):
    """Interleave groups of 16 rows of a file's blocks, each of which becomes a tile.

    pack_tile(raw, row, source, packed, target) writes a tile out of the blocks at byte `source` of
    all rows of a group, and gives how many of their scales are NaN or infinite.
    """
    n_blocks = raw.shape[1] // block_bytes
    n_bad = 0
    for group in range(first_group, last_group):
        row = (group - raw_group) * ROWS
        for block in range(n_blocks):
            target = matrix.offset + (group * n_blocks + block) * tile_bytes
            n_bad += pack_tile(raw, row, block * block_bytes, weights, target)
    return n_bad


@inline
def load_group(raw, first, stride):
    """16 bytes of each of 64 rows: four times the vectors of `load_quads`."""
    return (
        load_quads(raw, first, stride),
        load_quads(raw, first + 16 * stride, stride),
        load_quads(raw, first + 32 * stride, stride),
        load_quads(raw, first + 48 * stride, stride),
    )


@inline
def columns_of(group, quad):
    """Four columns of 64 rows, of those that `load_group` read."""
    return columns4(group[0][quad], group[1][quad], group[2][quad], group[3][quad])


@kernel
def pack_numbers(
    raw, raw_group, packed, exponent, n_columns_padded, group_rows, first_group, last_group
):
    """Interleave groups of rows of plain numbers: column by column, `group_rows` rows each.

    raw: (rows, columns) of any integer type as wide as the numbers, of which group raw_group is the
    first; packed: 1-d of the same type, overwritten. exponent: bits that are all set in what is NaN
    or infinite; gives whether any is. Columns that the matrix does not have become zero.
    """
    n_columns = raw.shape[1]
    is_bad = False
    for group in range(first_group, last_group):
        start = group * n_columns_padded * group_rows
        # By parts of the columns, so that what is written stays in the nearest cache.
        for part in range(0, n_columns_padded, COLUMN_PART):
            last = min(part + COLUMN_PART, n_columns_padded)
            for lane in range(group_rows):
                row = (group - raw_group) * group_rows + lane
                for column in range(part, min(last, n_columns)):
                    number = raw[row, column]
                    packed[start + column * group_rows + lane] = number
                    is_bad |= (number & exponent) == exponent
                for column in range(max(part, n_columns), last):
                    packed[start + column * group_rows + lane] = 0
    return is_bad
