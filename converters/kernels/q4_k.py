"""Q4_K: the fast twin of `rwkv_edge.quant.Q4_K.encode`, byte for byte."""

from rwkv_edge.converters.kernels.affine_search import affine_search, search_affine_super_blocks
from rwkv_edge.converters.kernels.lanes import (
    LANES,
    UNIT_LEAST,
    UNIT_SCALE,
    Bytes,
    Floats,
    Scratch,
)
from rwkv_edge.converters.kernels.packing import pack_nibbles, pack_scales_and_mins, put_half
from rwkv_edge.jit import kernel
from rwkv_edge.quant import Q4_K
from rwkv_edge.quant.q4_k import CODES, LIMIT, N_PARTS, PART_LEN

BLOCK_LEN = Q4_K.block_len
BLOCK_BYTES = Q4_K.block.itemsize
SCALE_BYTE = Q4_K.block.fields["scale"][1]  # type: ignore[index]
LEAST_BYTE = Q4_K.block.fields["least"][1]  # type: ignore[index]
SCALES_BYTE = Q4_K.block.fields["scales"][1]  # type: ignore[index]
CODES_BYTE = Q4_K.block.fields["codes"][1]  # type: ignore[index]
BLOCKS_AT_ONCE = LANES // N_PARTS
SEARCH = affine_search(CODES, PART_LEN, N_PARTS, LIMIT)


@kernel(exact=True)
def encode_q4_k(weights: Floats, scratch: Scratch, out: Bytes) -> bool:
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
            pack_scales_and_mins(lanes, block * N_PARTS, out, to + SCALES_BYTE)
            for pair in range(N_PARTS // 2):
                at = to + CODES_BYTE + pair * PART_LEN
                two_parts = block_codes[2 * pair * PART_LEN : 2 * (pair + 1) * PART_LEN]
                pack_nibbles(two_parts, out[at : at + PART_LEN])
    return True
