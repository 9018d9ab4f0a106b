"""IQ4_XS: the fast twin of `rwkv_edge.quant.IQ4_XS.encode`, byte for byte."""

import numpy as np

from rwkv_edge.converters.kernels.lanes import (
    BEST_SCALES,
    LANES,
    UNIT_SCALE,
    Bytes,
    Floats,
    Scratch,
)
from rwkv_edge.converters.kernels.packing import pack_nibbles, put_half
from rwkv_edge.converters.kernels.scale_search import IQ4, scaled_search, search_scaled_super_blocks
from rwkv_edge.jit import kernel
from rwkv_edge.quant import IQ4_XS
from rwkv_edge.quant.iq4_nl import CODES
from rwkv_edge.quant.iq4_xs import HIGHEST_SCALE, LOWEST_SCALE, N_PARTS, ZERO_SCALE

BLOCK_LEN = IQ4_XS.block_len
BLOCK_BYTES = IQ4_XS.block.itemsize
SCALE_BYTE = IQ4_XS.block.fields["scale"][1]  # type: ignore[index]
SCALES_HIGH_BYTE = IQ4_XS.block.fields["scales_high"][1]  # type: ignore[index]
SCALES_LOW_BYTE = IQ4_XS.block.fields["scales_low"][1]  # type: ignore[index]
CODES_BYTE = IQ4_XS.block.fields["codes"][1]  # type: ignore[index]
BLOCKS_AT_ONCE = LANES // N_PARTS
PART_LEN = BLOCK_LEN // N_PARTS
SEARCH = scaled_search(CODES, PART_LEN, N_PARTS, IQ4, (LOWEST_SCALE, HIGHEST_SCALE))


@kernel(exact=True)
def encode_iq4_xs(weights: Floats, scratch: Scratch, out: Bytes) -> bool:
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
            high = np.int32(0)
            for pair in range(N_PARTS // 2):
                p = block * N_PARTS + 2 * pair
                even = np.int32(lanes[BEST_SCALES + p]) + ZERO_SCALE
                odd = np.int32(lanes[BEST_SCALES + p + 1]) + ZERO_SCALE
                out[to + SCALES_LOW_BYTE + pair] = (even & 15) | ((odd & 15) << 4)
                high |= (even >> 4) << (4 * pair) | (odd >> 4) << (4 * pair + 2)
            out[to + SCALES_HIGH_BYTE] = high & 0xFF
            out[to + SCALES_HIGH_BYTE + 1] = high >> 8
            for part in range(N_PARTS):
                at = to + CODES_BYTE + part * PART_LEN // 2
                of_part = block_codes[part * PART_LEN : (part + 1) * PART_LEN]
                pack_nibbles(of_part, out[at : at + PART_LEN // 2])
    return True
