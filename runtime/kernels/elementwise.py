"""Elementwise steps that several layers share, each on columns first to last of one row."""

import numpy as np

from rwkv_edge.jit import kernel
from rwkv_edge.runtime.simd.arithmetic import fma, horizontal_sum, maximum, splat_f32
from rwkv_edge.runtime.simd.functions import sigmoid_f32x16, tanh_f32x16
from rwkv_edge.runtime.simd.memory import load_f32x16, store_f32x16

HALF = np.float32(0.5)


@kernel
def share(n, unit, thread, n_threads):
    """The part of n things that one thread takes, in whole units: (first, last)."""
    n_units = (n + unit - 1) // unit
    first = n_units * thread // n_threads * unit
    last = n_units * (thread + 1) // n_threads * unit
    return min(first, n), min(last, n)


@kernel
def copy(x, out, first, last):
    """out = x."""
    for j in range(first, last, 16):
        store_f32x16(out, j, load_f32x16(x, j))


@kernel
def add(x, y, first, last):
    """x += y."""
    for j in range(first, last, 16):
        store_f32x16(x, j, load_f32x16(x, j) + load_f32x16(y, j))


@kernel
def halve(x, first, last):
    """x = x / 2."""
    for j in range(first, last, 16):
        store_f32x16(x, j, load_f32x16(x, j) * splat_f32(HALF))


@kernel
def add_product(x, y, z, first, last):
    """x += y * z."""
    for j in range(first, last, 16):
        store_f32x16(x, j, fma(load_f32x16(y, j), load_f32x16(z, j), load_f32x16(x, j)))


@kernel
def lerp(x, previous, mu, out, first, last):
    """out = x + (previous - x) * mu."""
    for j in range(first, last, 16):
        xj = load_f32x16(x, j)
        store_f32x16(out, j, fma(load_f32x16(previous, j) - xj, load_f32x16(mu, j), xj))


@kernel
def tanh(x, first, last):
    """x = tanh(x)."""
    for j in range(first, last, 16):
        store_f32x16(x, j, tanh_f32x16(load_f32x16(x, j)))


@kernel
def sigmoid(x, first, last):
    """x = sigmoid(x)."""
    for j in range(first, last, 16):
        store_f32x16(x, j, sigmoid_f32x16(load_f32x16(x, j)))


@kernel
def relu_squared(x, first, last):
    """x = max(x, 0) ** 2."""
    for j in range(first, last, 16):
        positive = maximum(load_f32x16(x, j), splat_f32(np.float32(0)))
        store_f32x16(x, j, positive * positive)


@kernel
def dot(x, y, first, last):
    """Sum of x * y."""
    total = splat_f32(np.float32(0))
    for j in range(first, last, 16):
        total = fma(load_f32x16(x, j), load_f32x16(y, j), total)
    return horizontal_sum(total)
