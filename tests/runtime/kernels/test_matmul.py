"""Packed matrix products against decoded weights in numpy."""

import numpy as np
import pytest

from rwkv_edge.errors import FormatError
from rwkv_edge.quant import F16, F32, Q4_0, Q8_0, QUANT_FORMATS
from rwkv_edge.runtime.kernels.activations import Activations
from tests.runtime.kernels.packed_matrices import (
    FLOATS,
    inputs,
    pack,
    pack_rows,
    product,
    random_rows,
    shapes_of,
)

FORMATS = list(QUANT_FORMATS.values())
CASES = [(quant, shape) for quant in FORMATS for shape in shapes_of(quant)]
SCALED = [quant for quant in FORMATS if quant not in FLOATS]


def name(value):
    return value.__name__ if isinstance(value, type) else None


def largest_terms(quant_format, raw, shape):
    """(rows, columns): magnitudes of what is added up: a scale times a code, and a least value."""
    if "least" not in (quant_format.block.names or ()):
        return np.abs(quant_format.decode(raw, shape[1]).astype(np.float64))
    without_least = raw.copy()
    quant_format.blocks(without_least, shape[1])["least"] = 0
    codes = quant_format.decode(without_least, shape[1]).astype(np.float64)
    return np.abs(codes) + np.abs(quant_format.decode(raw, shape[1]) - codes)


@pytest.mark.parametrize(("quant_format", "shape"), CASES, ids=name)
def test_matmul_matches_decoded_weights(quant_format, shape):
    raw = random_rows(quant_format, shape, seed=sum(shape))
    packed = pack_rows(raw, quant_format, shape[1])
    decoded = quant_format.decode(raw, shape[1]).astype(np.float64)
    terms = largest_terms(quant_format, raw, shape)
    for n_tokens in (1, 3, 6, 9):
        values = np.random.default_rng(n_tokens).standard_normal((n_tokens, shape[1]))
        x, dequantized = inputs(values.astype(np.float32))
        y = product(packed, x, n_tokens)
        exact_inputs = x.values[:, : shape[1]] if quant_format in FLOATS else dequantized
        # Each of the float32 additions, one for a block or a column, rounds by at most 2 ** -24 of
        # the sum so far; scales are rounded products of two or three numbers.
        n_sums = shape[1] if quant_format in FLOATS else shape[1] // 16
        bound = (n_sums + 4) * 2.0**-24 * (np.abs(exact_inputs) @ terms.T)
        error = np.abs(y[:, : shape[0]] - exact_inputs @ decoded.T)
        assert np.all(error <= bound), (error / np.maximum(bound, 1e-30)).max()
        # Rows of padding are zeros, not what lay in memory.
        np.testing.assert_array_equal(y[:, shape[0] :], 0)


@pytest.mark.parametrize("quant_format", SCALED, ids=name)
@pytest.mark.parametrize("byte", [0x00, 0xFF, 0x7F, 0x80])
@pytest.mark.parametrize("activation", [-127, 127])
def test_extremes_do_not_overflow(quant_format, byte, activation):
    """All codes and small scales at once at an end of what they can be, and all inputs."""
    shape = (16, 256)
    raw = np.full((shape[0], quant_format.row_bytes(shape[1])), byte, np.uint8)
    blocks = quant_format.blocks(raw, shape[1])
    blocks["scale"] = np.float16(1).view(np.uint16)
    if "least" in quant_format.block.names:
        blocks["least"] = 0
    decoded = quant_format.decode(raw, shape[1]).astype(np.float64)
    for by_columns in (False, True):
        packed = pack_rows(raw, quant_format, shape[1], by_columns=by_columns)
        for n_tokens in (1, 5):
            x, _ = inputs(np.full((n_tokens, shape[1]), activation, np.float32))
            y = product(packed, x, n_tokens)
            # Whole numbers, whose partial sums float32 holds to one part in 2 ** 24.
            expected = np.full((n_tokens, shape[1]), activation) @ decoded.T
            np.testing.assert_allclose(y[:, : shape[0]], expected, rtol=2.0**-20)


@pytest.mark.parametrize(("quant_format", "shape"), [*CASES, (Q8_0, (300, 320))], ids=name)
def test_reading_active_columns_alone_changes_no_bit(quant_format, shape):
    raw = random_rows(quant_format, shape, seed=sum(shape))
    dense = pack_rows(raw, quant_format, shape[1])
    by_columns = pack_rows(raw, quant_format, shape[1], by_columns=True)
    for zeros in (0.0, 0.5, 0.9, 1.0):
        for n_tokens in (1, 3, 5, 6):
            random = np.random.default_rng(n_tokens)
            values = random.standard_normal((n_tokens, shape[1])).astype(np.float32)
            values[random.random(values.shape) < zeros] = 0
            x, _ = inputs(values)
            y = product(by_columns, x, n_tokens)
            wanted = product(dense, x, n_tokens)
            np.testing.assert_array_equal(y[:, : shape[0]], wanted[:, : shape[0]])
            np.testing.assert_array_equal(y[:, shape[0] :], 0)


@pytest.mark.parametrize("quant_format", FORMATS, ids=name)
@pytest.mark.parametrize("half", [0, 1])
def test_columns_may_be_active_in_one_half_of_a_block_alone(quant_format, half):
    raw = random_rows(quant_format, (20, 256))
    values = np.zeros((1, 8, 2, 16), np.float32)
    values[:, ::2, half, 3:10:3] = [1, -2, 3]
    x, _ = inputs(values.reshape(1, 256))
    dense, by_columns = (pack_rows(raw, quant_format, 256, by_columns=b) for b in (False, True))
    wanted = product(dense, x, 1)[:, :20]
    assert np.abs(wanted).max() > 0
    np.testing.assert_array_equal(product(by_columns, x, 1)[:, :20], wanted)


def test_columns_of_halves_that_are_not_active_are_not_read():
    packed = pack(np.ones((64, 50), np.float32), F16, by_columns=True)
    # Groups of 32 rows, in which a column is 64 bytes.
    packed.weights.view(np.float16).reshape(2, 64, 32)[:, 5] = np.nan
    values = np.ones((1, 50), np.float32)
    values[0, 5] = 0
    x, _ = inputs(values)
    np.testing.assert_array_equal(product(packed, x, 1), 49)


def test_columns_that_are_not_active_are_not_read():
    packed = pack(np.ones((128, 64), np.float32), Q8_0, by_columns=True)
    values = np.ones((1, 64), np.float32)
    values[0, 5] = 0
    x, _ = inputs(values)
    column = packed.weights[256 + 5 * 128 :][:128]
    column[:] = 99
    np.testing.assert_allclose(product(packed, x, 1), 63, rtol=1e-2)


@pytest.mark.parametrize("quant_format", FORMATS, ids=name)
def test_many_tokens_and_one_give_the_same_bits(quant_format):
    # More blocks than a panel has room for, and an odd number of them where that may be.
    n_columns = 1184 if quant_format.block_len <= 32 else 1280
    packed = pack_rows(random_rows(quant_format, (64, n_columns)), quant_format, n_columns)
    values = np.random.default_rng(11).standard_normal((37, n_columns))
    x, _ = inputs(values.astype(np.float32))
    many = product(packed, x, 37)
    for t in range(37):
        one = Activations(*(array[t : t + 1] for array in x))
        np.testing.assert_array_equal(product(packed, one, 1)[0], many[t])


@pytest.mark.parametrize("quant_format", FORMATS, ids=name)
def test_rows_may_be_packed_and_shared_out_in_any_way(quant_format):
    raw = random_rows(quant_format, (90, 512))
    packed = pack_rows(raw, quant_format, 512, n_threads=3)
    x, _ = inputs(np.random.default_rng(1).standard_normal((2, 512)).astype(np.float32))
    whole = product(pack_rows(raw, quant_format, 512), x, 2)
    parts = np.full_like(whole, np.nan)
    for first, last in [(0, 16), (16, 80), (80, 96)]:
        product(packed, x, 2, first, last, parts)
    np.testing.assert_array_equal(whole, parts)


@pytest.mark.parametrize("quant_format", SCALED, ids=name)
@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7E00, 0xFFFF])
@pytest.mark.parametrize("by_columns", [False, True])
def test_a_scale_that_is_no_number_is_refused(quant_format, bits, by_columns):
    for field in ("scale", "least"):
        if field in quant_format.block.names:
            # Also in the last row, which is padded to a group.
            for row in (0, 16):
                raw = random_rows(quant_format, (17, 512))
                quant_format.blocks(raw, 512)[field][row, -1] = bits
                with pytest.raises(FormatError, match=f"tensor w .{quant_format.__name__}.*NaN"):
                    pack_rows(raw, quant_format, 512, n_threads=2, by_columns=by_columns)


@pytest.mark.parametrize("quant_format", FLOATS, ids=name)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_refused(quant_format, number):
    weights = np.ones((17, 40), np.float32)
    weights[16, 39] = number
    for by_columns in (False, True):
        with pytest.raises(FormatError, match="NaN or infinite"):
            pack(weights, quant_format, by_columns=by_columns)


def test_the_largest_numbers_are_not_refused():
    pack(np.full((16, 32), 65504, np.float32), F16)
    pack(np.full((16, 32), np.finfo(np.float32).max, np.float32), F32)
    pack(np.full((16, 32), -65504, np.float32), Q4_0)


def test_activations_of_zeros_have_no_scale():
    x, dequantized = inputs(np.zeros((1, 64), np.float32))
    assert not x.scales.any()
    assert not x.codes.any()
    assert not dequantized.any()


def test_quantized_activations_are_within_half_a_step():
    values = np.random.default_rng(3).standard_normal((2, 96)).astype(np.float32)
    values[0, :32] *= 1e4
    _, dequantized = inputs(values)
    step = np.abs(values.reshape(2, 3, 32)).max(axis=2) / 127
    error = np.abs(dequantized - values).reshape(2, 3, 32).max(axis=2)
    assert np.all(error <= step * 0.5001)


def test_sums_of_activations_are_those_of_their_codes():
    x, _ = inputs(np.random.default_rng(3).standard_normal((2, 96)).astype(np.float32))
    codes = x.codes.astype(int)
    np.testing.assert_array_equal(x.sums, codes.reshape(2, -1, 32).sum(axis=2))
    np.testing.assert_array_equal(x.half_sums, codes.reshape(2, -1, 16).sum(axis=2))
