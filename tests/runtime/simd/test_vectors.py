"""Verbs on vectors, each against numpy."""

import numpy as np
import pytest

from rwkv_edge.jit import kernel
from rwkv_edge.runtime.simd import arithmetic as verbs
from rwkv_edge.runtime.simd import dot_products as dots
from rwkv_edge.runtime.simd.functions import exp_f32x16, sigmoid_f32x16, tanh_f32x16
from rwkv_edge.runtime.simd.memory import (
    at,
    bytes_at,
    load_bf16x16,
    load_bytes_f32x16,
    load_f16x16,
    load_f32x16,
    load_i8x16,
    load_i8x64,
    load_u4x16,
    load_u8x16,
    prefetch,
    prefetch_into_l2,
    store_f32x16,
    store_i8x16,
    store_i8x64,
)
from rwkv_edge.runtime.simd.shuffles import (
    columns4,
    load_quads,
    look_up,
    rows_side_by_side,
    transpose4,
)

RANDOM = np.random.default_rng(7)


def floats(n, scale=1.0):
    return (RANDOM.standard_normal(n) * scale).astype(np.float32)


@kernel
def apply_exp(x, y):
    for i in range(0, x.size, 16):
        store_f32x16(y, i, exp_f32x16(load_f32x16(x, i)))


@kernel
def apply_sigmoid(x, y):
    for i in range(0, x.size, 16):
        store_f32x16(y, i, sigmoid_f32x16(load_f32x16(x, i)))


@kernel
def apply_tanh(x, y):
    for i in range(0, x.size, 16):
        store_f32x16(y, i, tanh_f32x16(load_f32x16(x, i)))


@pytest.mark.parametrize(
    ("function", "reference", "limit"),
    [
        (apply_exp, np.exp, 87.0),
        (apply_sigmoid, lambda x: 1 / (1 + np.exp(-x)), 80.0),
    ],
)
def test_function_is_within_two_units_in_the_last_place(function, reference, limit):
    x = np.linspace(-limit, limit, 1 << 16).astype(np.float32)
    y = np.empty_like(x)
    function(x, y)
    expected = reference(x.astype(np.float64))
    # 2 ** -23 is one unit in the last place, relative.
    assert np.max(np.abs(y / expected - 1)) < 2 * 2**-23


def test_tanh_is_exact_to_float32_in_absolute_terms():
    x = np.concatenate([np.linspace(-12, 12, 1 << 16), np.zeros(16)]).astype(np.float32)
    y = np.empty_like(x)
    apply_tanh(x, y)
    assert np.max(np.abs(y - np.tanh(x.astype(np.float64)))) < 2 * 2**-23
    assert np.all(y[-16:] == 0)


def test_functions_saturate_without_nan_at_infinity():
    x = np.full(32, np.inf, np.float32)
    x[16:] = -np.inf
    y = np.empty_like(x)
    apply_sigmoid(x, y)
    assert np.all(y[:16] == 1)
    assert np.all(y[16:] < 1e-37)
    apply_tanh(x, y)
    assert np.all(y == np.sign(x))


@kernel
def arithmetic(a, b, c, out):
    x, y, z = load_f32x16(a, 0), load_f32x16(b, 0), load_f32x16(c, 0)
    store_f32x16(out, 0, x + y)
    store_f32x16(out, 16, x - y)
    store_f32x16(out, 32, x * y)
    store_f32x16(out, 48, x / y)
    store_f32x16(out, 64, verbs.fma(x, y, z))
    store_f32x16(out, 80, verbs.maximum(x, y))
    store_f32x16(out, 96, verbs.minimum(x, y))
    store_f32x16(out, 112, verbs.absolute(x))
    store_f32x16(out, 128, verbs.round_to_even(x))
    store_f32x16(out, 144, verbs.splat_f32(verbs.horizontal_sum(x)))
    store_f32x16(out, 160, verbs.splat_f32(verbs.horizontal_max(x)))


def test_arithmetic_matches_numpy():
    a, b, c = floats(16, 3), floats(16), floats(16)
    a[:2] = [2.5, -0.5]
    out = np.empty(176, np.float32)
    arithmetic(a, b, c, out)
    wide = (a.astype(np.float64) * b + c).astype(np.float32)
    expected = [a + b, a - b, a * b, a / b, wide, np.maximum(a, b), np.minimum(a, b), np.abs(a)]
    expected += [np.rint(a), np.full(16, a.sum(dtype=np.float64)), np.full(16, a.max())]
    np.testing.assert_allclose(out.reshape(11, 16), expected, rtol=3e-7, atol=1e-6)


@kernel
def numbers_at(floats, integers, i, out):
    out[0] = at(floats, i)
    out[1] = at(integers, i)


def test_numbers_are_read_as_they_lie():
    values = RANDOM.integers(-9, 9, (3, 4)).astype(np.float32)
    out = np.empty(2)
    for i in range(12):
        numbers_at(values, -values.astype(np.int32), i, out)
        assert out.tolist() == [values.flat[i], -values.flat[i]]


@kernel
def widen(raw16, raw32, out):
    store_f32x16(out, 0, load_f16x16(raw16, 0))
    store_f32x16(out, 16, load_bf16x16(raw16, 0))
    store_f32x16(out, 32, load_bytes_f32x16(raw32, 0))
    out[48] = verbs.f16_to_f32(np.uint16(raw16[0] | raw16[1] << 8))
    prefetch(raw16, 1 << 20)
    prefetch_into_l2(raw16, 1 << 20)


def test_storage_formats_widen_exactly():
    halves = floats(16).astype(np.float16)
    singles = floats(16)
    out = np.empty(49, np.float32)
    widen(halves.view(np.uint8), singles.view(np.uint8), out)
    np.testing.assert_array_equal(out[:16], halves.astype(np.float32))
    as_bfloat = (halves.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(out[16:32], as_bfloat)
    np.testing.assert_array_equal(out[32:48], singles)
    assert out[48] == halves[0]


@kernel
def widen_bytes(raw, out):
    store_f32x16(out, 0, load_u8x16(raw, 3))
    store_f32x16(out, 16, load_i8x16(raw, 3))
    store_f32x16(out, 32, load_u4x16(raw, 3, 0))
    store_f32x16(out, 48, load_u4x16(raw, 3, 4))


def test_bytes_widen_to_floats_signed_unsigned_or_by_nibbles():
    raw = np.array([9, 9, 9, 0, 1, 127, 128, 255, *range(30, 250, 20)], np.uint8)
    out = np.empty(64, np.float32)
    widen_bytes(raw, out)
    read = raw[3:19]
    expected = [read, read.view(np.int8), read & 15, read >> 4]
    np.testing.assert_array_equal(out.reshape(4, 16), expected)


@kernel
def widen_halves(raw, out):
    for i in range(0, out.size, 16):
        store_f32x16(out, i, load_f16x16(raw, 2 * i))


def test_every_half_widens_exactly():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    out = np.empty(1 << 16, np.float32)
    widen_halves(halves.view(np.uint8), out)
    with np.errstate(invalid="ignore"):  # some CPUs complain of the signalling ones among the NaNs
        expected = halves.astype(np.float32)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(np.signbit(out), np.signbit(halves))


@kernel
def narrow(x, out):
    store_i8x16(out, 0, verbs.to_i32(verbs.round_to_even(load_f32x16(x, 0))))


def test_int8_store_rounds_to_even():
    x = np.array([-127, 127, 0.5, 1.5, -0.5, -1.5, 2.4, 2.6] * 2, np.float32)
    out = np.empty(16, np.int8)
    narrow(x, out)
    np.testing.assert_array_equal(out, np.rint(x).astype(np.int8))


@kernel
def dot_bytes(weights, activations, out):
    total = dots.no_bytes()
    for quad in range(activations.size):
        x = verbs.splat_i32(activations[quad])
        total = dots.dot4(total, load_i8x64(weights, 64 * quad), x)
    store_f32x16(out, 0, verbs.to_f32(dots.byte_total(total)))


@kernel
def dot_nibbles(codes, activations, out):
    total = dots.no_nibbles()
    for quad in range(activations.size):
        x = verbs.splat_i32(activations[quad])
        total = dots.dot4_nibbles(total, load_i8x64(codes, 64 * quad), x)
    store_f32x16(out, 0, verbs.to_f32(dots.nibble_total(total)))


@kernel
def dot_codes(codes, activations, out):
    one = two = dots.no_bytes()
    for quad in range(0, activations.size, 2):
        w, v = load_i8x64(codes, 64 * quad), load_i8x64(codes, 64 * quad + 64)
        x, y = verbs.splat_i32(activations[quad]), verbs.splat_i32(activations[quad + 1])
        one = dots.dot4_codes(dots.dot4_codes(one, w, x), v, y)
        two = dots.dot8_codes(two, w, v, x, y)
    store_f32x16(out, 0, verbs.to_f32(one))
    store_f32x16(out, 16, verbs.to_f32(two))


def sums_of_products(weights, activations):
    """(quads, 16 rows, 4 columns) times (quads, 4), summed for each row."""
    wide = weights.reshape(-1, 16, 4).astype(int)
    return (wide * activations.reshape(-1, 1, 4).astype(int)).sum(axis=(0, 2))


# The ends of what weights and activations may be: where 16 bits would saturate or overflow.
@pytest.mark.parametrize("weight", [None, -128, 127])
@pytest.mark.parametrize("activation", [None, -127, 127])
def test_dot4_is_exact_at_the_extremes(weight, activation):
    weights = RANDOM.integers(-128, 128, 3 * 64) if weight is None else np.full(3 * 64, weight)
    activations = RANDOM.integers(-127, 128, 12).astype(np.int8)
    if activation is not None:
        activations[:] = activation
    zero_code = 128 if dots.multiplies_unsigned() else 0
    out = np.empty(16, np.float32)
    codes = (weights + zero_code).astype(np.uint8)
    dot_bytes(codes, activations.view(np.int32), out)
    np.testing.assert_array_equal(out, sums_of_products(weights + zero_code, activations))


@pytest.mark.parametrize("activation", [None, -127, 127])
def test_eight_dot4_of_nibbles_are_exact_at_the_extremes(activation):
    codes = RANDOM.integers(0, 16, 8 * 64).astype(np.uint8)
    activations = RANDOM.integers(-127, 128, 32).astype(np.int8)
    if activation is not None:
        codes[:], activations[:] = 15, activation
    out = np.empty(16, np.float32)
    dot_nibbles(codes, activations.view(np.int32), out)
    np.testing.assert_array_equal(out, sums_of_products(codes, activations))


@pytest.mark.parametrize("activation", [None, -127, 127])
@pytest.mark.parametrize(("largest", "n_exact"), [(63, 2), (127, 1)])
def test_dot_products_of_codes_are_exact_at_the_extremes(largest, n_exact, activation):
    codes = RANDOM.integers(0, largest + 1, 8 * 64).astype(np.uint8)
    activations = RANDOM.integers(-127, 128, 32).astype(np.int8)
    if activation is not None:
        codes[:], activations[:] = largest, activation
    out = np.empty(32, np.float32)
    dot_codes(codes, activations.view(np.int32), out)
    # Pairs of vectors are for codes up to 63 alone.
    for found in out.reshape(2, 16)[:n_exact]:
        np.testing.assert_array_equal(found, sums_of_products(codes, activations))


@kernel
def split_nibbles(bytes_in, out):
    w = load_i8x64(bytes_in, 0)
    store_i8x64(out, 0, verbs.low_nibbles(w))
    store_i8x64(out, 64, verbs.high_nibbles(w))
    store_i8x64(out, 128, verbs.nibbles_from(w, np.int32(0)))
    store_i8x64(out, 192, verbs.nibbles_from(w, np.int32(4)))


def test_nibbles_split_by_byte():
    weights = RANDOM.integers(0, 256, 64).astype(np.uint8)
    out = np.empty(256, np.uint8)
    split_nibbles(weights, out)
    low, high = weights & 15, weights >> 4
    np.testing.assert_array_equal(out.reshape(4, 64), [low, high, low, high])


@kernel
def move_bits(bytes_in, out):
    w = load_i8x64(bytes_in, 0)
    store_i8x64(out, 0, verbs.bits_from(w, 5, 1))
    store_i8x64(out, 64, verbs.bits_from(w, 6, 2))
    store_i8x64(out, 128, verbs.bits_from(w, 0, 8))
    store_i8x64(out, 192, verbs.bits_to(verbs.bits_from(w, 3, 2), 4))


def test_bits_of_bytes_stay_in_their_bytes():
    w = RANDOM.integers(0, 256, 64).astype(np.uint8)
    out = np.empty(256, np.uint8)
    move_bits(w, out)
    np.testing.assert_array_equal(out.reshape(4, 64), [w >> 5 & 1, w >> 6, w, (w >> 3 & 3) << 4])


@kernel
def look_all_up(table, codes, out):
    store_i8x64(out, 0, look_up(load_i8x64(table, 0), load_i8x64(codes, 0)))


def test_look_up_gives_the_table_s_entries():
    table = RANDOM.integers(0, 256, 16).astype(np.uint8)
    codes = np.concatenate([np.arange(16), RANDOM.integers(0, 16, 48)]).astype(np.uint8)
    out = np.empty(64, np.uint8)
    look_all_up(np.tile(table, 4), codes, out)
    np.testing.assert_array_equal(out, table[codes])


@kernel
def transpose(columns, out):
    w = transpose4(
        load_i8x64(columns, 0),
        load_i8x64(columns, 64),
        load_i8x64(columns, 128),
        load_i8x64(columns, 192),
    )
    store_i8x64(out, 0, w[0])
    store_i8x64(out, 64, w[1])
    store_i8x64(out, 128, w[2])
    store_i8x64(out, 192, w[3])


@kernel
def columns_of(rows, out):
    a, b = load_i8x64(rows, 0), load_i8x64(rows, 64)
    w = columns4(a, b, load_i8x64(rows, 128), load_i8x64(rows, 192))
    store_i8x64(out, 0, w[0])
    store_i8x64(out, 64, w[1])
    store_i8x64(out, 128, w[2])
    store_i8x64(out, 192, w[3])


@kernel
def quads_of(matrix, index, stride, out):
    w = load_quads(matrix, index, stride)
    store_i8x64(out, 0, w[0])
    store_i8x64(out, 64, w[1])
    store_i8x64(out, 128, w[2])
    store_i8x64(out, 192, w[3])


def test_quads_of_rows_come_side_by_side():
    matrix = RANDOM.integers(0, 256, (16, 30)).astype(np.uint8)
    out = np.empty(256, np.uint8)
    quads_of(matrix, 7, 30, out)
    expected = matrix[:, 7:23].reshape(16, 4, 4).transpose(1, 0, 2)
    np.testing.assert_array_equal(out.reshape(4, 16, 4), expected)


def test_columns4_undoes_transpose4():
    columns = RANDOM.integers(0, 256, 256).astype(np.uint8)
    rows, back = np.empty(256, np.uint8), np.empty(256, np.uint8)
    transpose(columns, rows)
    columns_of(rows, back)
    np.testing.assert_array_equal(back, columns)


def test_columns_in_the_order_of_rows_side_by_side_become_rows_in_order():
    matrix = RANDOM.integers(0, 256, (64, 4)).astype(np.uint8)
    columns = matrix[rows_side_by_side()].T.copy()
    out = np.empty(256, np.uint8)
    transpose(columns.reshape(-1), out)
    np.testing.assert_array_equal(out.reshape(64, 4), matrix)


@kernel
def sum_of_bytes(address, n_rows, n_columns):
    view = bytes_at(address, (n_rows, n_columns))
    total = 0
    for row in range(n_rows):
        for column in range(n_columns):
            total += row * view[row, column]
    return total


def test_bytes_at_an_address_are_rows():
    data = RANDOM.integers(0, 256, (5, 7)).astype(np.uint8)
    wanted = (np.arange(5)[:, None] * data.astype(np.int64)).sum()
    assert sum_of_bytes(data.ctypes.data, 5, 7) == wanted
