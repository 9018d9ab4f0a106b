"""IEEE half precision by its bits: numba on the CPU knows no float16."""

import numpy as np

from rwkv_edge.jit import inline

# float32: a sign, 8 bits of exponent with bias 127, 23 of fraction. float16: 1, 5 with bias 15, 10.
F32_MAGNITUDE = np.uint32(0x7FFFFFFF)
F32_INFINITY = np.uint32(0x7F800000)
F32_SIGN = np.uint32(0x80000000)
F16_SIGN = np.uint32(0x8000)
F16_INFINITY = np.uint32(0x7C00)
SIGN_SHIFT = np.uint32(16)
FRACTION_SHIFT = np.uint32(13)
HALF_ULP = np.uint32(0xFFF)
F16_FRACTION_KEPT = np.uint32(0xFFFFE000)
EXPONENT_REBIAS = np.uint32((127 - 15) << 23)
# 2^-14, the smallest normal float16, as float32 bits; below it a float16 has no leading one.
F16_SMALLEST_NORMAL = np.uint32(0x38800000)
# 65520, half way from the largest float16 to the next step, as float32 bits: rounds to infinity.
F16_OVERFLOW = np.uint32(0x477FF000)
# Added to a number below 2^-14, it leaves a denormal float16 in the lowest bits, rounded to even.
DENORMAL_MAGIC = np.float32(0.5)
DENORMAL_MAGIC_BITS = np.uint32(0x3F000000)


@inline
def f16_bits(x: np.float32) -> np.uint16:
    """A finite float32 to float16 bits, rounded to nearest even; infinity where it is too large."""
    bits = np.float32(x).view(np.uint32)
    magnitude = bits & F32_MAGNITUDE
    sign = (bits >> SIGN_SHIFT) & F16_SIGN
    if magnitude >= F16_OVERFLOW:
        half = F16_INFINITY
    elif magnitude < F16_SMALLEST_NORMAL:
        shifted = np.uint32(magnitude).view(np.float32) + DENORMAL_MAGIC
        half = np.float32(shifted).view(np.uint32) - DENORMAL_MAGIC_BITS
    else:
        odd = (magnitude >> FRACTION_SHIFT) & np.uint32(1)
        half = (magnitude - EXPONENT_REBIAS + HALF_ULP + odd) >> FRACTION_SHIFT
    bits16: np.uint16 = np.uint16(half | sign)
    return bits16


@inline
def f16_rounded(x: np.float32) -> np.float32:
    """A float32 to the nearest float16, still as float32; infinity where it is too large."""
    bits = np.float32(x).view(np.uint32)
    magnitude = bits & F32_MAGNITUDE
    if magnitude >= F16_OVERFLOW:
        rounded = F32_INFINITY
    elif magnitude < F16_SMALLEST_NORMAL:
        shifted = np.uint32(magnitude).view(np.float32) + DENORMAL_MAGIC
        rounded = np.float32(shifted - DENORMAL_MAGIC).view(np.uint32)
    else:
        odd = (magnitude >> FRACTION_SHIFT) & np.uint32(1)
        rounded = (magnitude + HALF_ULP + odd) & F16_FRACTION_KEPT
    value: np.float32 = np.uint32(rounded | (bits & F32_SIGN)).view(np.float32)
    return value
