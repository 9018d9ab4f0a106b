"""What `rwkv_edge.jit.kernel` makes of a function."""

from numba import types

from rwkv_edge.jit import kernel


@kernel
def times(x, n):
    return x * n


@kernel
def sum_of_products(x):
    return times(x, 2) + times(x, 3)


def test_a_constant_argument_compiles_no_kernel_of_its_own():
    assert sum_of_products(5) == 25
    for n in (2, 3):
        times.get_call_template((types.int64, types.literal(n)), {})
    assert list(times.overloads) == [(types.int64, types.int64)]
