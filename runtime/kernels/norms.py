"""Layer norm and group norm."""

import numpy as np

from rwkv_edge.hyperparameters import GROUP_NORM_EPS, LAYER_NORM_EPS
from rwkv_edge.jit import kernel
from rwkv_edge.runtime.simd.arithmetic import fma, horizontal_sum, splat_f32
from rwkv_edge.runtime.simd.memory import load_f32x16, store_f32x16

LAYER_EPS = np.float32(LAYER_NORM_EPS)
GROUP_EPS = np.float32(GROUP_NORM_EPS)


@kernel
def mean_and_inverse_deviation(x, first, last, eps):
    """Mean and 1 / sqrt(variance + eps) of x[first:last], a multiple of 16 numbers; two passes."""
    n = np.float32(last - first)
    total = splat_f32(np.float32(0))
    for j in range(first, last, 16):
        total = total + load_f32x16(x, j)
    mean = horizontal_sum(total) / n
    squares = splat_f32(np.float32(0))
    for j in range(first, last, 16):
        deviation = load_f32x16(x, j) - splat_f32(mean)
        squares = fma(deviation, deviation, squares)
    variance = horizontal_sum(squares) / n
    return mean, np.float32(1) / np.sqrt(variance + eps)


@kernel
def layer_norm(x, weight, bias, out, first, last):
    """out[first:last] = that part of the layer norm of the whole of x; x and out may be the same
    array only if the part is the whole.
    """
    mean, inverse = mean_and_inverse_deviation(x, 0, weight.size, LAYER_EPS)
    for j in range(first, last, 16):
        normal = (load_f32x16(x, j) - splat_f32(mean)) * splat_f32(inverse)
        store_f32x16(out, j, fma(normal, load_f32x16(weight, j), load_f32x16(bias, j)))


@kernel
def group_norm(x, weight, bias, first, last):
    """Normalize one head, x[first:last], in place."""
    mean, inverse = mean_and_inverse_deviation(x, first, last, GROUP_EPS)
    for j in range(first, last, 16):
        normal = (load_f32x16(x, j) - splat_f32(mean)) * splat_f32(inverse)
        store_f32x16(x, j, fma(normal, load_f32x16(weight, j), load_f32x16(bias, j)))
