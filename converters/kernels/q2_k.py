"""Q2_K: the fast twin of `rwkv_edge.quant.Q2_K.encode`, byte for byte."""

import numpy as np

from rwkv_edge.converters.kernels.affine_search import affine_search, search_affine_super_blocks
from rwkv_edge.converters.kernels.lanes import (
    BEST_LEASTS,
    BEST_SCALES,
    LANES,
    UNIT_LEAST,
    UNIT_SCALE,
    Bytes,
    Floats,
    Scratch,
)
from rwkv_edge.converters.kernels.packing import pack_quarters, put_half
from rwkv_edge.jit import kernel
from rwkv_edge.quant import Q2_K
from rwkv_edge.quant.q2_k import CODES, GROUP, LIMIT, N_PARTS

BLOCK_LEN = Q2_K.block_len
BLOCK_BYTES = Q2_K.block.itemsize
SCALE_BYTE = Q2_K.block.fields["scale"][1]  # type: ignore[index]
LEAST_BYTE = Q2_K.block.fields["least"][1]  # type: ignore[index]
SCALES_BYTE = Q2_K.block.fields["scales"][1]  # type: ignore[index]
CODES_BYTE = Q2_K.block.fields["codes"][1]  # type: ignore[index]
BLOCKS_AT_ONCE = LANES // N_PARTS
PART_LEN = BLOCK_LEN // N_PARTS
SEARCH = affine_search(CODES, PART_LEN, N_PARTS, LIMIT)


@kernel(exact=True)
def encode_q2_k(weights: Floats, scratch: Scratch, out: Bytes) -> bool:
    """Finite weights (blocks * BLOCK_LEN,) to out (blocks * BLOCK_BYTES,).

    False if a scale became infinite: a weight is too large for the format.
    """
    lanes, codes = scratch.lanes, scratch.codes
    n_blocks = weights.size // BLOCK_LEN
    for first in range(0, n_blocks, BLOCKS_AT_ONCE):
        last = min(first + BLOCKS_AT_ONCE, n_blocks)
        piece = weights[first * BLOCK_LEN : last * BLOCK_LEN]
        if not search_affine_super_blocks(piece, SEARCH, scratch):
            return False
        for block in range(last - first):
            to = (first + block) * BLOCK_BYTES
            block_codes = codes[block * BLOCK_LEN : (block + 1) * BLOCK_LEN]
            put_half(lanes[UNIT_SCALE + block * N_PARTS], out, to + SCALE_BYTE)
            put_half(lanes[UNIT_LEAST + block * N_PARTS], out, to + LEAST_BYTE)
            for part in range(N_PARTS):
                p = block * N_PARTS + part
                scales, leasts = np.int32(lanes[BEST_SCALES + p]), np.int32(lanes[BEST_LEASTS + p])
                out[to + SCALES_BYTE + part] = scales | (leasts << 4)
            for group in range(BLOCK_LEN // GROUP):
                at = to + CODES_BYTE + group * GROUP // 4
                of_group = block_codes[group * GROUP : (group + 1) * GROUP]
                pack_quarters(of_group, 0, out[at : at + GROUP // 4])
    return True
