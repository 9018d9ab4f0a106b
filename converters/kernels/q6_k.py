"""Q6_K: the fast twin of `rwkv_edge.quant.Q6_K.encode`, byte for byte."""

import numpy as np

from rwkv_edge.converters.kernels.lanes import (
    BEST_SCALES,
    LANES,
    UNIT_SCALE,
    Bytes,
    Floats,
    Scratch,
)
from rwkv_edge.converters.kernels.packing import pack_nibbles, pack_quarters, put_half
from rwkv_edge.converters.kernels.scale_search import scaled_search, search_scaled_super_blocks
from rwkv_edge.jit import kernel
from rwkv_edge.quant import Q6_K
from rwkv_edge.quant.q6_k import (
    CODES,
    GROUP,
    HIGHEST_SCALE,
    LOWEST_SCALE,
    N_HALVES,
    N_PARTS,
    ZERO_CODE,
)

BLOCK_LEN = Q6_K.block_len
BLOCK_BYTES = Q6_K.block.itemsize
CODES_BYTE = Q6_K.block.fields["codes"][1]  # type: ignore[index]
UPPER_BITS_BYTE = Q6_K.block.fields["upper_bits"][1]  # type: ignore[index]
SCALES_BYTE = Q6_K.block.fields["scales"][1]  # type: ignore[index]
SCALE_BYTE = Q6_K.block.fields["scale"][1]  # type: ignore[index]
BLOCKS_AT_ONCE = LANES // N_PARTS
PART_LEN = BLOCK_LEN // N_PARTS
VALUES, SCALES = (-ZERO_CODE, ZERO_CODE - 1), (LOWEST_SCALE, HIGHEST_SCALE)
SEARCH = scaled_search(CODES, PART_LEN, N_PARTS, VALUES, SCALES)


@kernel(exact=True)
def encode_q6_k(weights: Floats, scratch: Scratch, out: Bytes) -> bool:
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
            for part in range(N_PARTS):
                out[to + SCALES_BYTE + part] = np.int32(lanes[BEST_SCALES + block * N_PARTS + part])
            for half in range(N_HALVES):
                of_half = block_codes[half * GROUP : (half + 1) * GROUP]
                at = to + CODES_BYTE + half * GROUP // 2
                pack_nibbles(of_half, out[at : at + GROUP // 2])
                at = to + UPPER_BITS_BYTE + half * GROUP // 4
                pack_quarters(of_half, 4, out[at : at + GROUP // 4])
    return True
