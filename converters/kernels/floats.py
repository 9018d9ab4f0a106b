"""Plain numbers: float16 and bfloat16 to float32, and back."""

from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_edge.converters.kernels.half import (
    F16_INFINITY,
    F16_OVERFLOW,
    F16_SIGN,
    F32_INFINITY,
    F32_MAGNITUDE,
    FRACTION_SHIFT,
    SIGN_SHIFT,
    f16_bits,
)
from rwkv_edge.jit import kernel

Float32Array = npt.NDArray[np.float32]
Halves = npt.NDArray[np.uint16]

# The fraction of a float16 moved under a float32's exponent reads 2^-112 times too small; the
# product is exact, denormals included.
WIDENING = np.float32(2.0**112)
F16_MAGNITUDE = np.uint32(0x7FFF)
BF16_HALF_ULP = np.uint32(0x7FFF)


@kernel(exact=True)
def widen_f16(halves: Halves, out: Float32Array) -> None:
    """float16 bits to float32; both (n,). Infinity and NaN stay what they are."""
    bits = out.view(np.uint32)
    for i in range(halves.size):
        half = np.uint32(halves[i])
        magnitude = half & F16_MAGNITUDE
        scaled = np.uint32(magnitude << FRACTION_SHIFT).view(np.float32) * WIDENING
        widened = np.float32(scaled).view(np.uint32)
        if magnitude >= F16_INFINITY:
            widened |= F32_INFINITY
        bits[i] = widened | ((half & F16_SIGN) << SIGN_SHIFT)


@kernel(exact=True)
def widen_bf16(halves: Halves, out: Float32Array) -> None:
    """bfloat16 bits to float32; both (n,)."""
    bits = out.view(np.uint32)
    for i in range(halves.size):
        bits[i] = np.uint32(halves[i]) << SIGN_SHIFT


@kernel(exact=True)
def largest_magnitude_bits(weights: Float32Array) -> Any:
    """The largest |w| of (n,), as bits; these order like the numbers, then infinity, then NaN."""
    bits = weights.view(np.uint32)
    largest = np.uint32(0)
    for i in range(bits.size):
        largest = max(largest, bits[i] & F32_MAGNITUDE)
    return largest


@kernel(exact=True)
def encode_f16(weights: Float32Array, out: Halves) -> bool:
    """Finite float32 to float16 bits, nearest even; both (n,). False if one became infinite."""
    largest = np.uint32(0)
    for i in range(weights.size):
        out[i] = f16_bits(weights[i])
        largest = max(largest, np.float32(weights[i]).view(np.uint32) & F32_MAGNITUDE)
    return bool(largest < F16_OVERFLOW)


@kernel(exact=True)
def encode_bf16(weights: Float32Array, out: Halves) -> bool:
    """Finite float32 to bfloat16 bits, nearest even; both (n,). False if one became infinite."""
    bits = weights.view(np.uint32)
    largest = np.uint32(0)
    for i in range(bits.size):
        rounded = bits[i] + BF16_HALF_ULP + ((bits[i] >> SIGN_SHIFT) & np.uint32(1))
        out[i] = np.uint16(rounded >> SIGN_SHIFT)
        largest = max(largest, rounded & F32_MAGNITUDE)
    return bool(largest < F32_INFINITY)
