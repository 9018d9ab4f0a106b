"""IQ4_NL: the fast twin of `rwkv_edge.quant.IQ4_NL.encode`, byte for byte."""

from rwkv_edge.converters.kernels.lanes import (
    LANES,
    SCALE,
    Bytes,
    Floats,
    Scratch,
)
from rwkv_edge.converters.kernels.packing import pack_nibbles, put_half
from rwkv_edge.converters.kernels.scale_search import IQ4, scaled_search, search_scaled_blocks
from rwkv_edge.jit import kernel
from rwkv_edge.quant import IQ4_NL
from rwkv_edge.quant.iq4_nl import CODES

BLOCK_LEN = IQ4_NL.block_len
BLOCK_BYTES = IQ4_NL.block.itemsize
SCALE_BYTE = IQ4_NL.block.fields["scale"][1]  # type: ignore[index]
CODES_BYTE = IQ4_NL.block.fields["codes"][1]  # type: ignore[index]
BLOCKS_AT_ONCE = LANES
SEARCH = scaled_search(CODES, BLOCK_LEN, 1, IQ4, (1, 1))


@kernel(exact=True)
def encode_iq4_nl(weights: Floats, scratch: Scratch, out: Bytes) -> bool:
    """Finite weights (blocks * BLOCK_LEN,) to out (blocks * BLOCK_BYTES,).

    False if a scale became infinite: a weight is too large for the format.
    """
    lanes, codes = scratch.lanes, scratch.codes
    n_blocks = weights.size // BLOCK_LEN
    for first in range(0, n_blocks, BLOCKS_AT_ONCE):
        last = min(first + BLOCKS_AT_ONCE, n_blocks)
        piece = weights[first * BLOCK_LEN : last * BLOCK_LEN]
        if not search_scaled_blocks(piece, SEARCH, scratch):
            return False
        for block in range(last - first):
            to = (first + block) * BLOCK_BYTES
            block_codes = codes[block * BLOCK_LEN : (block + 1) * BLOCK_LEN]
            put_half(lanes[SCALE + block], out, to + SCALE_BYTE)
            pack_nibbles(block_codes, out[to + CODES_BYTE : to + BLOCK_BYTES])
    return True
