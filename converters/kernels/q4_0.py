"""Q4_0: the fast twin of `rwkv_edge.quant.Q4_0.encode`, byte for byte."""

import numpy as np
import numpy.typing as npt

from rwkv_edge.converters.kernels.half import F16_OVERFLOW, F32_INFINITY, F32_MAGNITUDE, f16_bits
from rwkv_edge.jit import kernel
from rwkv_edge.quant import Q4_0
from rwkv_edge.quant.q4_0 import ZERO_CODE

BLOCK_LEN = Q4_0.block_len
HALF_BLOCK = BLOCK_LEN // 2
BLOCK_BYTES = Q4_0.block.itemsize
SCALE_BYTE = Q4_0.block.fields["scale"][1]  # type: ignore[index]
CODES_BYTE = Q4_0.block.fields["codes"][1]  # type: ignore[index]
LARGEST_CODE = np.int32(15)
ROUNDING = np.float32(ZERO_CODE + 0.5)


@kernel(exact=True)
def encode_q4_0(weights: npt.NDArray[np.float32], out: npt.NDArray[np.uint8]) -> bool:
    """Finite weights (blocks * BLOCK_LEN,) to out (blocks * BLOCK_BYTES,).

    False if a scale became infinite: a weight is too large for the format.
    """
    bits = weights.view(np.uint32)
    fits = True
    for block in range(weights.size // BLOCK_LEN):
        first = block * BLOCK_LEN
        largest = np.uint32(0)
        for i in range(first, first + BLOCK_LEN):
            largest = max(largest, bits[i] & F32_MAGNITUDE)
        at = first
        while bits[at] & F32_MAGNITUDE != largest:
            at += 1
        scale = weights[at] / np.float32(-ZERO_CODE)
        inverse = np.float32(1) / scale
        # A scale of zero, or so small that its inverse overflows: every code is then zero.
        if np.float32(inverse).view(np.uint32) & F32_MAGNITUDE >= F32_INFINITY:
            inverse = np.float32(0)
        to = block * BLOCK_BYTES
        half = f16_bits(scale)
        out[to + SCALE_BYTE] = half & 0xFF
        out[to + SCALE_BYTE + 1] = half >> 8
        fits &= np.float32(scale).view(np.uint32) & F32_MAGNITUDE < F16_OVERFLOW
        for i in range(HALF_BLOCK):
            low = np.int32(weights[first + i] * inverse + ROUNDING)
            high = np.int32(weights[first + i + HALF_BLOCK] * inverse + ROUNDING)
            codes = min(low, LARGEST_CODE) | (min(high, LARGEST_CODE) << np.int32(4))
            out[to + CODES_BYTE + i] = np.uint8(codes)
    return fits
