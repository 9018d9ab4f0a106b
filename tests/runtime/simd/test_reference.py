"""Named tuples passed by reference, against the same tuples in Python."""

from typing import NamedTuple

import numpy as np
import pytest
from numba.core.errors import TypingError

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.simd.reference import by_reference, by_value


class Inner(NamedTuple):
    """Members of one type, which numba keeps otherwise than those of several."""

    left: np.ndarray
    right: np.ndarray


class Outer(NamedTuple):
    rows: np.ndarray
    inner: Inner
    n: int
    scale: np.float32


def some_tuple():
    inner = Inner(np.arange(3.0), np.arange(10.0, 13.0))
    return Outer(np.arange(12, dtype=np.float32).reshape(3, 4), inner, 7, np.float32(0.5))


@kernel
def weigh(s, i):
    total = s.inner.left[i] + s.inner.right[i] * s.n
    return total + s.rows[i, 2] * s.scale + s.rows.shape[1]


@kernel
def weigh_by_reference(s, i):
    return weigh(by_reference(s), i)


@kernel
def weigh_by_value(s, i):
    return weigh(by_value(by_reference(s)), i) + weigh(by_value(s), i)


def test_members_are_those_of_the_tuple():
    s = some_tuple()
    for i in range(3):
        wanted = s.inner.left[i] + s.inner.right[i] * 7 + s.rows[i, 2] * 0.5 + 4
        assert weigh(s, i) == weigh_by_reference(s, i) == wanted
        assert weigh_by_value(s, i) == 2 * wanted


@kernel
def double(x, first, last):
    for j in range(first, last):
        x[j] *= 2


@kernel
def double_rows(s, n):
    for i in range(n):
        double(s.rows[i], 1, 3)


@kernel
def double_rows_by_reference(s, n):
    inner = by_reference(s)
    double_rows(inner, n)
    double(inner.inner.left, 0, 1)
    return inner.rows[1, 2]


def test_what_is_written_to_an_array_is_seen_by_all():
    s = some_tuple()
    s.inner.left[0] = 5
    wanted = s.rows.copy()
    wanted[:2, 1:3] *= 2
    assert double_rows_by_reference(s, 2) == wanted[1, 2]
    np.testing.assert_array_equal(s.rows, wanted)
    assert s.inner.left[0] == 10


@inline
def first_of(pair):
    return pair.left[0]


@kernel
def firsts(s, n):
    total = 0.0
    for _ in range(n):
        total += first_of(by_reference(s.inner))
    return total


def test_a_reference_in_a_loop_takes_room_once():
    # 112 bytes for each turn would be more than a stack has.
    s = some_tuple()
    s.inner.left[0] = 3
    assert firsts(s, 1_000_000) == 3_000_000


@kernel
def wrong_member(s):
    return by_reference(s).nothing


@kernel
def wrong_type(x):
    return by_reference(x)


def test_a_member_that_is_not_there_fails_typing():
    with pytest.raises(TypingError):
        wrong_member(some_tuple())


def test_only_named_tuples_are_passed_by_reference():
    for value in (3, (3, 4)):
        with pytest.raises(TypingError):
            wrong_type(value)
