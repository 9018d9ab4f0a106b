"""What `rwkv_edge.jit` makes of kernels, and of pieces of them."""

import gc

import numpy as np
import pytest
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.simd.cpu import has


@kernel
def times(x, n):
    return x * n


@kernel
def sum_of_products(x):
    return times(x, 2) + times(x, 3)


def test_a_constant_argument_compiles_no_kernel_of_its_own():
    assert sum_of_products(5) == 25
    for n in (2, 3):
        template, _, _, _ = times.get_call_template((types.int64, types.literal(n)), {})
        assert [case.args for case in template.cases] == [(types.int64, types.int64)]


@kernel
def product(x, y):
    return x * y


@kernel
def product_of_three(x, y, z):
    return product(product(x, y), z)


def files_of(function):
    """How many signatures of a kernel are on disk."""
    index = function._cache._cache._cache_file
    return len(index._load_index())


def test_a_kernel_that_another_calls_is_compiled_for_python_when_python_calls_it():
    assert product_of_three(2, 3, 4) == 24
    assert files_of(product_of_three) > 0
    assert not product.overloads
    assert product(6, 7) == 42
    assert list(product.overloads) == [(types.int64, types.int64)]


@inline
def multiply_add(x, y, z):
    return x * y + z


@inline
def twice(x, y, z):
    return multiply_add(x, y, z) + multiply_add(x, y, z)


@kernel
def rounded_once(x, y, z):
    return twice(x, y, z)


@kernel(exact=True)
def rounded_twice(x, y, z):
    return twice(x, y, z)


def test_a_piece_of_a_kernel_rounds_as_the_kernel_does():
    # x * x = 1 + 2**-11 + 2**-24, whose last term is lost if the product is rounded by itself.
    x, z = np.float32(1 + 2**-12), np.float32(-(1 + 2**-11))
    for _ in range(2):
        assert rounded_once(x, x, z) == (2 * 2**-24 if has("fma") else 0)
        assert rounded_twice(x, x, z) == 0


COLLECTS = []


@intrinsic
def note_collecting(typing_context, x):
    COLLECTS.append(gc.isenabled())
    return x(x), lambda context, builder, sig, args: args[0]


@kernel
def failing(x):
    return note_collecting(x).nothing


def test_garbage_is_collected_again_after_compiling():
    with pytest.raises(TypingError):
        failing(1)
    assert COLLECTS
    assert not any(COLLECTS)
    assert gc.isenabled()
