"""Q5_1: the fast twin of `rwkv_edge.quant.Q5_1.encode`, byte for byte."""

from rwkv_edge.converters.kernels.affine_search import affine_search, search_affine_blocks
from rwkv_edge.converters.kernels.lanes import (
    LANES,
    LEAST,
    SCALE,
    Bytes,
    Floats,
    Scratch,
)
from rwkv_edge.converters.kernels.packing import pack_bits, pack_nibbles, put_half
from rwkv_edge.jit import kernel
from rwkv_edge.quant import Q5_1
from rwkv_edge.quant.q5_1 import CODES

BLOCK_LEN = Q5_1.block_len
BLOCK_BYTES = Q5_1.block.itemsize
SCALE_BYTE = Q5_1.block.fields["scale"][1]  # type: ignore[index]
LEAST_BYTE = Q5_1.block.fields["least"][1]  # type: ignore[index]
FIFTH_BITS_BYTE = Q5_1.block.fields["fifth_bits"][1]  # type: ignore[index]
CODES_BYTE = Q5_1.block.fields["codes"][1]  # type: ignore[index]
BLOCKS_AT_ONCE = LANES
SEARCH = affine_search(CODES, BLOCK_LEN, 1, 0)


@kernel(exact=True)
def encode_q5_1(weights: Floats, scratch: Scratch, out: Bytes) -> bool:
    """Finite weights (blocks * BLOCK_LEN,) to out (blocks * BLOCK_BYTES,).

    False if a scale became infinite: a weight is too large for the format.
    """
    lanes, codes = scratch.lanes, scratch.codes
    n_blocks = weights.size // BLOCK_LEN
    for first in range(0, n_blocks, BLOCKS_AT_ONCE):
        last = min(first + BLOCKS_AT_ONCE, n_blocks)
        piece = weights[first * BLOCK_LEN : last * BLOCK_LEN]
        if not search_affine_blocks(piece, SEARCH, scratch):
            return False
        for block in range(last - first):
            to = (first + block) * BLOCK_BYTES
            block_codes = codes[block * BLOCK_LEN : (block + 1) * BLOCK_LEN]
            put_half(lanes[SCALE + block], out, to + SCALE_BYTE)
            put_half(lanes[LEAST + block], out, to + LEAST_BYTE)
            pack_bits(block_codes, 4, out[to + FIFTH_BITS_BYTE : to + CODES_BYTE])
            pack_nibbles(block_codes, out[to + CODES_BYTE : to + BLOCK_BYTES])
    return True
