"""The emulator itself, in a process whose functions it runs: `test_foreign_tiers.py` starts it.

Named so that pytest does not collect it elsewhere, where functions run on the CPU here.
"""

import ctypes
import mmap
from typing import NamedTuple

import numba
import numpy as np
import pytest

from tests.emulator.bochs import EmulatorError

RECORD = np.dtype([("offset", "i8"), ("scale", "f4")])


class Pair(NamedTuple):
    left: np.ndarray
    right: np.ndarray


@numba.njit
def many(a, x, b, y, pair, n, c, record):
    a[0] = x * y
    a[1] = pair.left[1] + pair.right[0, 1]
    a[2] = b + n + c
    a[3] = record.offset * record.scale
    return b + n


def test_arguments_of_all_kinds_arrive():
    a = np.zeros(4)
    pair = Pair(np.arange(3.0), np.arange(4.0).reshape(2, 2))
    record = np.array([(3, 0.5)], RECORD)[0]
    found = many(a, np.float32(1.5), 7, 2.0, pair, np.int32(-9), True, record)
    assert found == -2
    assert a.tolist() == [3.0, 2.0, -1.0, 1.5]


@numba.njit
def halves(x):
    return x / 2, x / 4


@numba.njit
def half(x):
    return x / 2


def test_results_are_numbers_tuples_and_none():
    assert half(np.float32(3)) == 1.5
    assert halves(3.0) == (1.5, 0.75)


@numba.njit
def transpose(a, out):
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            out[j, i] = a[i, j]


def test_strides_are_those_of_the_array():
    a = np.arange(20).reshape(4, 5)[::2, ::2]
    out = np.zeros((3, 2), int)
    transpose(a, out)
    np.testing.assert_array_equal(out, a.T)


@numba.njit
def touch(a, i):
    a[i] = 1


@pytest.mark.parametrize("distance", [1 << 50, 1 << 34, -(1 << 40)])
def test_what_no_one_owns_is_refused(distance):
    with pytest.raises(EmulatorError, match=r"nobody's memory|exception 1[34]"):
        touch(np.zeros(1), distance)
    # And the next call is none the worse.
    a = np.zeros(3)
    touch(a, 2)
    assert a.tolist() == [0, 0, 1]


def test_what_was_out_of_reach_may_come_into_reach():
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    a = np.frombuffer(memory, np.int64)
    protect = ctypes.CDLL(None).mprotect
    page = (ctypes.c_void_p(a.ctypes.data), ctypes.c_size_t(mmap.PAGESIZE))
    protect(*page, 0)
    with pytest.raises(EmulatorError, match="nobody's memory"):
        touch(a, 0)
    protect(*page, mmap.PROT_READ | mmap.PROT_WRITE)
    touch(a, 0)
    assert a[0] == 1


@numba.njit
def refuse(x):
    if x > 0:
        raise ValueError("positive")


def test_an_exception_of_the_function_is_reported():
    refuse(0)
    with pytest.raises(EmulatorError, match="refuse raised"):
        refuse(1)
