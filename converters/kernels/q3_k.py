"""Q3_K: the fast twin of `rwkv_edge.quant.Q3_K.encode`, byte for byte."""

import numpy as np

from rwkv_edge.converters.kernels.lanes import (
    BEST_SCALES,
    LANES,
    UNIT_SCALE,
    Bytes,
    Floats,
    Scratch,
)
from rwkv_edge.converters.kernels.packing import pack_quarters, put_half
from rwkv_edge.converters.kernels.scale_search import scaled_search, search_scaled_super_blocks
from rwkv_edge.jit import kernel
from rwkv_edge.quant import Q3_K
from rwkv_edge.quant.q3_k import (
    CODES,
    GROUP,
    HIGHEST_SCALE,
    LOWEST_SCALE,
    N_PARTS,
    ZERO_CODE,
    ZERO_SCALE,
)

BLOCK_LEN = Q3_K.block_len
BLOCK_BYTES = Q3_K.block.itemsize
THIRD_BITS_BYTE = Q3_K.block.fields["third_bits"][1]  # type: ignore[index]
CODES_BYTE = Q3_K.block.fields["codes"][1]  # type: ignore[index]
SCALES_BYTE = Q3_K.block.fields["scales"][1]  # type: ignore[index]
SCALE_BYTE = Q3_K.block.fields["scale"][1]  # type: ignore[index]
BLOCKS_AT_ONCE = LANES // N_PARTS
PART_LEN = BLOCK_LEN // N_PARTS
VALUES, SCALES = (-ZERO_CODE, ZERO_CODE - 1), (LOWEST_SCALE, HIGHEST_SCALE)
SEARCH = scaled_search(CODES, PART_LEN, N_PARTS, VALUES, SCALES)
N_EIGHTHS = 8
EIGHTH = BLOCK_LEN // N_EIGHTHS
# Bytes of the low four bits of parts' scales; after them come those of the upper two.
LOW_BYTES, UPPER_BYTES = N_PARTS // 2, N_PARTS // 4


@kernel(exact=True)
def encode_q3_k(weights: Floats, scratch: Scratch, out: Bytes) -> bool:
    """Finite weights (blocks * BLOCK_LEN,) to out (blocks * BLOCK_BYTES,).

    False if a scale became infinite: a weight is too large for the format.
    """
    lanes, codes = scratch.lanes, scratch.codes
    n_blocks = weights.size // BLOCK_LEN
    for first in range(0, n_blocks, BLOCKS_AT_ONCE):
        last = min(first + BLOCKS_AT_ONCE, n_blocks)
        piece = weights[first * BLOCK_LEN : last * BLOCK_LEN]
        if not search_scaled_super_blocks(piece, SEARCH, scratch):
            return False
        for block in range(last - first):
            to = (first + block) * BLOCK_BYTES
            block_codes = codes[block * BLOCK_LEN : (block + 1) * BLOCK_LEN]
            put_half(lanes[UNIT_SCALE + block * N_PARTS], out, to + SCALE_BYTE)
            scales = out[to + SCALES_BYTE : to + SCALE_BYTE]
            scales[:] = 0
            for part in range(N_PARTS):
                scale = np.int32(lanes[BEST_SCALES + block * N_PARTS + part]) + ZERO_SCALE
                scales[part % LOW_BYTES] |= (scale & 15) << (part // LOW_BYTES * 4)
                scales[LOW_BYTES + part % UPPER_BYTES] |= (scale >> 4) << (part // UPPER_BYTES * 2)
            third_bits = out[to + THIRD_BITS_BYTE : to + CODES_BYTE]
            third_bits[:] = 0
            for eighth in range(N_EIGHTHS):
                for i in range(EIGHTH):
                    third_bits[i] |= (block_codes[eighth * EIGHTH + i] >> 2) << eighth
            for group in range(BLOCK_LEN // GROUP):
                at = to + CODES_BYTE + group * GROUP // 4
                of_group = block_codes[group * GROUP : (group + 1) * GROUP]
                pack_quarters(of_group, 0, out[at : at + GROUP // 4])
    return True
