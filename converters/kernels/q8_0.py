"""Q8_0: the fast twin of `rwkv_edge.quant.Q8_0.encode`, byte for byte."""

import numpy as np
import numpy.typing as npt

from rwkv_edge.converters.kernels.half import F16_OVERFLOW, F32_INFINITY, F32_MAGNITUDE, f16_bits
from rwkv_edge.jit import kernel
from rwkv_edge.quant import Q8_0
from rwkv_edge.quant.q8_0 import LARGEST_CODE

BLOCK_LEN = Q8_0.block_len
BLOCK_BYTES = Q8_0.block.itemsize
SCALE_BYTE = Q8_0.block.fields["scale"][1]  # type: ignore[index]
CODES_BYTE = Q8_0.block.fields["codes"][1]  # type: ignore[index]


@kernel(exact=True)
def encode_q8_0(weights: npt.NDArray[np.float32], out: npt.NDArray[np.uint8]) -> bool:
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
        scale = np.uint32(largest).view(np.float32) / np.float32(LARGEST_CODE)
        inverse = np.float32(1) / scale
        # A scale of zero, or so small that its inverse overflows: every code is then zero.
        if np.float32(inverse).view(np.uint32) >= F32_INFINITY:
            inverse = np.float32(0)
        to = block * BLOCK_BYTES
        half = f16_bits(scale)
        out[to + SCALE_BYTE] = half & 0xFF
        out[to + SCALE_BYTE + 1] = half >> 8
        fits &= np.float32(scale).view(np.uint32) < F16_OVERFLOW
        for i in range(BLOCK_LEN):
            scaled = weights[first + i] * inverse
            code = np.int32(scaled)
            # Halves round away from zero. The subtraction is exact, so no tie is invented.
            rest = scaled - np.float32(code)
            code += np.int32(rest >= np.float32(0.5)) - np.int32(rest <= np.float32(-0.5))
            out[to + CODES_BYTE + i] = np.uint8(code)
    return fits
