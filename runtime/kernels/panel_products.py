"""Panels times many tokens' activations, for every way in which codes are summed and scaled.

All quantized formats are multiplied in the form that `panel.py` states. Formats differ in the verbs
that sum products, in the code that means zero, and in what belongs to a part: scales, or scales and
least values, of a block or of half a block.
"""

from rwkv_edge.jit import inline, kernel
from rwkv_edge.quant.q3_k import ZERO_CODE as Q3_K_ZERO
from rwkv_edge.quant.q4_0 import ZERO_CODE as Q4_0_ZERO
from rwkv_edge.quant.q5_0 import ZERO_CODE as Q5_0_ZERO
from rwkv_edge.quant.q6_k import ZERO_CODE as Q6_K_ZERO
from rwkv_edge.runtime.kernels.activations import BLOCK, slot
from rwkv_edge.runtime.kernels.panel import (
    BLOCK_VECTORS,
    HALVES_CONFIG,
    PRODUCTS,
    SCALES,
    TILE_BYTES,
    TILE_PRODUCTS,
    TILE_TOKENS,
    VECTOR_BYTES,
    WHOLE_CONFIG,
    put_aside,
    scaled,
    start_of,
    taken_up,
    with_least,
)
from rwkv_edge.runtime.simd.arithmetic import splat_i32
from rwkv_edge.runtime.simd.dot_products import (
    byte_total,
    byte_zero_code,
    dot8_bytes,
    dot8_codes,
    dot8_nibbles,
    nibble_total,
    no_bytes,
    no_nibbles,
)
from rwkv_edge.runtime.simd.memory import (
    at,
    load_bytes_f32x16,
    load_bytes_i32x16,
    load_i8x64,
    store_f32x16,
)
from rwkv_edge.runtime.simd.tiles import (
    tile_configure,
    tile_dot_s8_u8,
    tile_load,
    tile_release,
    tile_store,
    tile_zero,
)


@inline
def sum_of(x, block, part, n_parts):
    """The sum of a part's activations: of a block, or of half of it."""
    return at(x.sums, block) if n_parts == 1 else at(x.half_sums, 2 * block + part)


@inline
def add_part(
    product, zero_code, n_parts, has_least, panel, p, part, x, block, total
):  # fmt: skip
    """total + the product of one part of the block at byte p of the panel, scaled. x: one token."""
    x_sum, x_scale = sum_of(x, block, part, n_parts), at(x.scales, block)
    scales = load_bytes_f32x16(panel, p + SCALES + part * VECTOR_BYTES)
    total = scaled(product, zero_code, x_sum, x_scale, scales, total)
    if has_least:
        least = load_bytes_f32x16(panel, p + SCALES + (n_parts + part) * VECTOR_BYTES)
        total = with_least(least, x_sum, x_scale, total)
    return total


@inline
def multiply_panel(
    empty, dot8, widen, zero_code, n_parts, has_least,
    panel, start, n_blocks, x, token, n_tokens, first_block, y, row,
):  # fmt: skip
    """y[token, row:row + 16] += panel times x, for tokens token to n_tokens.

    first_block: the block of x that the panel begins at; from 0 y is set. empty(), dot8 and widen
    make sums of products; start: byte of the panel. Two tokens share each reading: with 16
    registers there is no room for more, and y waits in memory.
    """
    part_vectors = BLOCK_VECTORS // n_parts
    block_bytes = SCALES + n_parts * (2 if has_least else 1) * VECTOR_BYTES
    while token + 2 <= n_tokens:
        x0, x1, y0, y1 = slot(x, token), slot(x, token + 1), y[token], y[token + 1]
        total0, total1 = start_of(y0, row, first_block), start_of(y1, row, first_block)
        put_aside(total0, y0, row)
        put_aside(total1, y1, row)
        for i in range(n_blocks):
            p, block = start + i * block_bytes, first_block + i
            for part in range(n_parts):
                s0 = s1 = empty()
                for j in range(part * part_vectors, (part + 1) * part_vectors, 2):
                    w = load_i8x64(panel, p + j * VECTOR_BYTES)
                    v = load_i8x64(panel, p + (j + 1) * VECTOR_BYTES)
                    k = block * BLOCK_VECTORS + j
                    s0 = dot8(s0, w, v, splat_i32(at(x0.quads, k)), splat_i32(at(x0.quads, k + 1)))
                    s1 = dot8(s1, w, v, splat_i32(at(x1.quads, k)), splat_i32(at(x1.quads, k + 1)))
                total0 = add_part(
                    widen(s0), zero_code, n_parts, has_least, panel, p, part, x0, block,
                    taken_up(total0, y0, row),
                )  # fmt: skip
                put_aside(total0, y0, row)
                total1 = add_part(
                    widen(s1), zero_code, n_parts, has_least, panel, p, part, x1, block,
                    taken_up(total1, y1, row),
                )  # fmt: skip
                put_aside(total1, y1, row)
        store_f32x16(y0, row, taken_up(total0, y0, row))
        store_f32x16(y1, row, taken_up(total1, y1, row))
        token += 2
    if token < n_tokens:
        x0 = slot(x, token)
        total = start_of(y[token], row, first_block)
        for i in range(n_blocks):
            p, block = start + i * block_bytes, first_block + i
            for part in range(n_parts):
                s0 = empty()
                for j in range(part * part_vectors, (part + 1) * part_vectors, 2):
                    w = load_i8x64(panel, p + j * VECTOR_BYTES)
                    v = load_i8x64(panel, p + (j + 1) * VECTOR_BYTES)
                    k = block * BLOCK_VECTORS + j
                    s0 = dot8(s0, w, v, splat_i32(at(x0.quads, k)), splat_i32(at(x0.quads, k + 1)))
                total = add_part(
                    widen(s0), zero_code, n_parts, has_least, panel, p, part, x0, block, total
                )
        store_f32x16(y[token], row, total)


@inline
def multiply_tiles(
    zero_code, n_parts, has_least, panel, start, n_blocks, x, n_tokens, first_block, y, row
):
    """The same for tokens in groups of 16, by AMX; gives how many that were.

    A tile sums one part, whose products are then scaled: the sums are whole numbers, and so the
    same as every other tier's.
    """
    config = WHOLE_CONFIG if n_parts == 1 else HALVES_CONFIG
    tile_configure(panel[config : config + VECTOR_BYTES])
    block_bytes = SCALES + n_parts * (2 if has_least else 1) * VECTOR_BYTES
    part_bytes, part_columns = SCALES // n_parts, BLOCK // n_parts
    codes_stride, token, n = x.codes.shape[1], 0, n_blocks * n_parts
    while token + TILE_TOKENS <= n_tokens:
        for i in range(0, n, TILE_PRODUCTS):
            last = min(i + TILE_PRODUCTS, n)
            for j in range(i, last, 2):
                # Two at a time, so that one's products are stored while the other's are made.
                codes = token * codes_stride + first_block * BLOCK + j * part_columns
                p = start + j // n_parts * block_bytes + j % n_parts * part_bytes
                products = PRODUCTS + (j - i) * TILE_BYTES
                tile_zero(0)
                tile_load(2, x.codes, codes, codes_stride)
                tile_load(4, panel, p, VECTOR_BYTES)
                tile_dot_s8_u8(0, 2, 4)
                tile_store(0, panel, products, VECTOR_BYTES)
                if j + 1 < last:
                    p = start + (j + 1) // n_parts * block_bytes + (j + 1) % n_parts * part_bytes
                    tile_zero(1)
                    tile_load(3, x.codes, codes + part_columns, codes_stride)
                    tile_load(5, panel, p, VECTOR_BYTES)
                    tile_dot_s8_u8(1, 3, 5)
                    tile_store(1, panel, products + TILE_BYTES, VECTOR_BYTES)
            for t in range(TILE_TOKENS):
                x_row, y_row = slot(x, token + t), y[token + t]
                total = start_of(y_row, row, first_block + i)
                for j in range(i, last):
                    products = PRODUCTS + (j - i) * TILE_BYTES + t * VECTOR_BYTES
                    product = load_bytes_i32x16(panel, products)
                    p, block = start + j // n_parts * block_bytes, first_block + j // n_parts
                    total = add_part(
                        product, zero_code, n_parts, has_least, panel, p, j % n_parts, x_row,
                        block, total,
                    )  # fmt: skip
                store_f32x16(y_row, row, total)
        token += TILE_TOKENS
    tile_release()
    return token


@inline
def multiply_panel_by_tiles(
    empty, dot8, widen, zero_code, n_parts, has_least,
    panel, start, n_blocks, x, n_tokens, first_block, y, row,
):  # fmt: skip
    """`multiply_panel` for all tokens: whole tiles of them by AMX, the rest without."""
    done = 0
    if n_tokens >= TILE_TOKENS:
        done = multiply_tiles(
            zero_code, n_parts, has_least,
            panel, start, n_blocks, x, n_tokens, first_block, y, row,
        )  # fmt: skip
    multiply_panel(
        empty, dot8, widen, zero_code, n_parts, has_least,
        panel, start, n_blocks, x, done, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_nibble_panel(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_panel` for codes 0..15 with a scale a block: Q4_0."""
    multiply_panel(
        no_nibbles, dot8_nibbles, nibble_total, Q4_0_ZERO, 1, False,
        panel, start, n_blocks, x, 0, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_nibble_panel_by_tiles(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_nibble_panel` on a CPU with AMX."""
    multiply_panel_by_tiles(
        no_nibbles, dot8_nibbles, nibble_total, Q4_0_ZERO, 1, False,
        panel, start, n_blocks, x, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_byte_panel(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_panel` for codes of eight bits with a scale a block: Q8_0, IQ4_NL, IQ4_XS."""
    multiply_panel(
        no_bytes, dot8_bytes, byte_total, byte_zero_code(), 1, False,
        panel, start, n_blocks, x, 0, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_byte_panel_by_tiles(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_byte_panel` on a CPU with AMX."""
    multiply_panel_by_tiles(
        no_bytes, dot8_bytes, byte_total, byte_zero_code(), 1, False,
        panel, start, n_blocks, x, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_least_nibble_panel(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_panel` for codes 0..15 with a scale and a least value a block: Q4_1, Q4_K."""
    multiply_panel(
        no_nibbles, dot8_nibbles, nibble_total, 0, 1, True,
        panel, start, n_blocks, x, 0, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_least_nibble_panel_by_tiles(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_least_nibble_panel` on a CPU with AMX."""
    multiply_panel_by_tiles(
        no_nibbles, dot8_nibbles, nibble_total, 0, 1, True,
        panel, start, n_blocks, x, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_fives_panel(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_panel` for codes 0..31 with a scale a block: Q5_0."""
    multiply_panel(
        no_bytes, dot8_codes, byte_total, Q5_0_ZERO, 1, False,
        panel, start, n_blocks, x, 0, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_fives_panel_by_tiles(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_fives_panel` on a CPU with AMX."""
    multiply_panel_by_tiles(
        no_bytes, dot8_codes, byte_total, Q5_0_ZERO, 1, False,
        panel, start, n_blocks, x, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_least_fives_panel(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_panel` for codes 0..31 with a scale and a least value a block: Q5_1, Q5_K."""
    multiply_panel(
        no_bytes, dot8_codes, byte_total, 0, 1, True,
        panel, start, n_blocks, x, 0, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_least_fives_panel_by_tiles(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_least_fives_panel` on a CPU with AMX."""
    multiply_panel_by_tiles(
        no_bytes, dot8_codes, byte_total, 0, 1, True,
        panel, start, n_blocks, x, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_sixes_panel(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_panel` for codes 0..63 with a scale for half a block: Q6_K."""
    multiply_panel(
        no_bytes, dot8_codes, byte_total, Q6_K_ZERO, 2, False,
        panel, start, n_blocks, x, 0, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_sixes_panel_by_tiles(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_sixes_panel` on a CPU with AMX."""
    multiply_panel_by_tiles(
        no_bytes, dot8_codes, byte_total, Q6_K_ZERO, 2, False,
        panel, start, n_blocks, x, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_threes_panel(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_panel` for codes 0..7 with a scale for half a block: Q3_K."""
    multiply_panel(
        no_nibbles, dot8_nibbles, nibble_total, Q3_K_ZERO, 2, False,
        panel, start, n_blocks, x, 0, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_threes_panel_by_tiles(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_threes_panel` on a CPU with AMX."""
    multiply_panel_by_tiles(
        no_nibbles, dot8_nibbles, nibble_total, Q3_K_ZERO, 2, False,
        panel, start, n_blocks, x, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_twos_panel(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_panel` for codes 0..3 with a scale and a least value for half a block: Q2_K."""
    multiply_panel(
        no_nibbles, dot8_nibbles, nibble_total, 0, 2, True,
        panel, start, n_blocks, x, 0, n_tokens, first_block, y, row,
    )  # fmt: skip


@kernel
def multiply_twos_panel_by_tiles(panel, start, n_blocks, x, n_tokens, first_block, y, row):
    """`multiply_twos_panel` on a CPU with AMX."""
    multiply_panel_by_tiles(
        no_nibbles, dot8_nibbles, nibble_total, 0, 2, True,
        panel, start, n_blocks, x, n_tokens, first_block, y, row,
    )  # fmt: skip


# Of each kind: the kernel of every tier, and that of a CPU with AMX.
NIBBLE_PANEL = (multiply_nibble_panel, multiply_nibble_panel_by_tiles)
BYTE_PANEL = (multiply_byte_panel, multiply_byte_panel_by_tiles)
LEAST_NIBBLE_PANEL = (multiply_least_nibble_panel, multiply_least_nibble_panel_by_tiles)
FIVE_BIT_PANEL = (multiply_fives_panel, multiply_fives_panel_by_tiles)
LEAST_FIVE_BIT_PANEL = (multiply_least_fives_panel, multiply_least_fives_panel_by_tiles)
SIX_BIT_PANEL = (multiply_sixes_panel, multiply_sixes_panel_by_tiles)
THREE_BIT_PANEL = (multiply_threes_panel, multiply_threes_panel_by_tiles)
TWO_BIT_PANEL = (multiply_twos_panel, multiply_twos_panel_by_tiles)
