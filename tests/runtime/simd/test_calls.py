"""Calls through addresses: to the kernel that was compiled for these types, and compiled once."""

import numpy as np
from numba import types

from rwkv_edge.jit import kernel
from rwkv_edge.runtime.simd.calls import address_of, array_of, call_through_address

FLOATS = (array_of(types.float32, 1), types.int64)
INTEGERS = (array_of(types.int32, 1), types.int64)
call_floats, call_integers = call_through_address(FLOATS), call_through_address(INTEGERS)


@kernel
def halve(x, i):
    x[i] = x[i] / 2


@kernel
def double(x, i):
    x[i] = x[i] * 2


@kernel
def call_each(addresses, floats, integers):
    call_floats(addresses[0], (floats, 1))
    call_floats(addresses[1], (floats, 2))
    call_integers(addresses[2], (integers, 0))


def test_each_address_is_of_one_kernel_for_its_types():
    addresses = [
        address_of(halve, FLOATS),
        address_of(double, FLOATS),
        address_of(double, INTEGERS),
    ]
    assert len(set(addresses)) == 3
    floats, integers = np.ones(3, np.float32), np.ones(3, np.int32)
    call_each(np.array(addresses), floats, integers)
    assert floats.tolist() == [1, 0.5, 2]
    assert integers.tolist() == [2, 1, 1]


def test_an_address_holds_as_long_as_the_process():
    assert address_of(halve, FLOATS) == address_of(halve, FLOATS)
    n_compiled = len(halve.overloads)
    address_of(halve, FLOATS)
    assert len(halve.overloads) == n_compiled
