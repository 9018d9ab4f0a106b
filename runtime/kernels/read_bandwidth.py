"""Reading memory as fast as it comes: what bounds the decoding of one token after the other."""

import numpy as np

from rwkv_edge.jit import kernel
from rwkv_edge.runtime.simd.arithmetic import horizontal_sum, splat_f32
from rwkv_edge.runtime.simd.memory import load_f32x16

# Floats that are added in one turn: eight vectors, so that no addition waits for the one before.
TURN = 128


@kernel
def sum_of(x, first, last):
    """The sum of x[first] to x[last - 1]; their distance is a multiple of 128.

    Nothing is prefetched: one stream that is read straight on is what CPUs foresee by themselves.
    """
    zero = splat_f32(np.float32(0))
    a, b, c, d, e, f, g, h = zero, zero, zero, zero, zero, zero, zero, zero
    for j in range(first, last, TURN):
        a = a + load_f32x16(x, j)
        b = b + load_f32x16(x, j + 16)
        c = c + load_f32x16(x, j + 32)
        d = d + load_f32x16(x, j + 48)
        e = e + load_f32x16(x, j + 64)
        f = f + load_f32x16(x, j + 80)
        g = g + load_f32x16(x, j + 96)
        h = h + load_f32x16(x, j + 112)
    return horizontal_sum(((a + b) + (c + d)) + ((e + f) + (g + h)))
