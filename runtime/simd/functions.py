"""Elementary functions on vectors: exp, sigmoid, tanh, to about 1e-7 of their value."""

import numpy as np

from rwkv_edge.jit import inline
from rwkv_edge.runtime.simd.arithmetic import (
    absolute,
    fma,
    maximum,
    minimum,
    power_of_two,
    round_to_even,
    splat_f32,
    to_i32,
)

LOG2_E = np.float32(1.44269504088896341)
# ln 2 in two parts: the first has few enough bits that its product with an exponent is exact.
LN2_HIGH = np.float32(0.693359375)
LN2_LOW = np.float32(-2.12194440e-4)
# Below this exp is 0 to float32 (subnormals aside); above its negative it is infinite.
EXP_MIN = np.float32(-87.33654)
EXP_MAX = np.float32(88.37626)
# Taylor's series of exp, 1/7! to 1/2!: past |r| <= ln 2 / 2 the next term is below 6e-9.
EXP_TERMS = tuple(np.float32(1 / f) for f in (5040, 720, 120, 24, 6, 2))
(E7, E6, E5, E4, E3, E2) = EXP_TERMS
ONE = np.float32(1)


@inline
def exp_f32x16(x):
    """e ** x: x = n ln 2 + r, so e**x = 2**n e**r, and e**r is a short series."""
    x = minimum(maximum(x, splat_f32(EXP_MIN)), splat_f32(EXP_MAX))
    n = round_to_even(x * splat_f32(LOG2_E))
    r = fma(n, splat_f32(-LN2_LOW), fma(n, splat_f32(-LN2_HIGH), x))
    series = fma(splat_f32(E7), r, splat_f32(E6))
    series = fma(series, r, splat_f32(E5))
    series = fma(series, r, splat_f32(E4))
    series = fma(series, r, splat_f32(E3))
    series = fma(series, r, splat_f32(E2))
    series = fma(series, r, splat_f32(ONE))
    series = fma(series, r, splat_f32(ONE))
    return series * power_of_two(to_i32(n))


@inline
def sigmoid_f32x16(x):
    """1 / (1 + e**-x)."""
    one = splat_f32(ONE)
    return one / (one + exp_f32x16(splat_f32(np.float32(0)) - x))


@inline
def tanh_f32x16(x):
    """(1 - e**-2|x|) / (1 + e**-2|x|) with the sign of x; absolute error below 2e-7."""
    one = splat_f32(ONE)
    e = exp_f32x16(splat_f32(np.float32(-2)) * absolute(x))
    # x / |x| would divide by zero at 0, where the result is 0 whatever the sign.
    sign = minimum(maximum(x * splat_f32(np.float32(1e30)), splat_f32(-ONE)), one)
    return sign * ((one - e) / (one + e))
