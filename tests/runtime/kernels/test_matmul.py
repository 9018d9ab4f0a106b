"""Packed matrix products against decoded weights in numpy."""

from types import SimpleNamespace

import numpy as np
import pytest

from rwkv_edge.gguf_reader import GgufTensor
from rwkv_edge.quant import BF16, F16, F32, Q4_0, Q8_0
from rwkv_edge.runtime.arena import Arena
from rwkv_edge.runtime.kernels.activations import (
    Activations,
    new_activations,
    padded,
    quantize_rows,
)
from rwkv_edge.runtime.kernels.columns import list_active, list_active_values, new_active_columns
from rwkv_edge.runtime.kernels.matmul import MATRIX, matmul
from rwkv_edge.runtime.kernels.panel import new_panels
from rwkv_edge.runtime.team import ThreadTeam

FORMATS = [F32, F16, BF16, Q8_0, Q4_0]
# Rows and columns: one row, ragged rows, one block, an odd number of blocks, larger.
SHAPES = [(1, 32), (15, 64), (33, 96), (64, 32), (129, 160), (256, 1024)]


def pack(weights, quant_format, n_threads=1, by_columns=False):
    raw = quant_format.encode(weights)
    tensor = GgufTensor("w", weights.shape, quant_format, raw)
    arena = Arena([tensor], sparse_inputs={"w"} if by_columns else ())
    team = ThreadTeam(n_threads)
    arena.pack(team, release_pages=lambda: None)
    team.close()
    matrix = np.array([arena.matrices["w"]], MATRIX)
    return SimpleNamespace(weights=arena.weights, matrix=matrix, raw=raw)


def new_panel():
    return new_panels(1)[0]


def inputs(values):
    """Activations, and the numbers that the codes stand for."""
    n_tokens, n_columns = values.shape
    x = new_activations(1, n_tokens, n_columns)
    x.values[0, :, :n_columns] = values
    x = Activations(*(array[0] for array in x))
    quantize_rows(x, n_tokens, 0, padded(n_columns))
    blocks = x.codes.reshape(n_tokens, -1, 32) * x.scales[:, :, None]
    return x, blocks.reshape(n_tokens, -1)[:, :n_columns]


@pytest.mark.parametrize("quant_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_tokens", [1, 3, 4, 9])
def test_matmul_matches_decoded_weights(quant_format, shape, n_tokens):
    random = np.random.default_rng(sum(shape) + n_tokens)
    weights = random.standard_normal(shape).astype(np.float32)
    weights[0] = 0
    packed = pack(weights, quant_format)
    x, dequantized = inputs(random.standard_normal((n_tokens, shape[1])).astype(np.float32))
    n_rows = int(packed.matrix[0]["n_rows"])
    y = np.full((n_tokens, n_rows), np.nan, np.float32)
    matmul(
        packed.weights,
        packed.matrix[0],
        x,
        new_active_columns(1, 32),
        n_tokens,
        y,
        0,
        n_rows,
        new_panel(),
    )

    takes_codes = quant_format in (Q8_0, Q4_0)
    exact_inputs = dequantized if takes_codes else x.values[:, : shape[1]]
    decoded = quant_format.decode(packed.raw, shape[1]).astype(np.float64)
    expected = exact_inputs @ decoded.T
    # float32 sums of n terms: 2 ** -24 each, of terms of about 1.
    np.testing.assert_allclose(y[:, : shape[0]], expected, rtol=1e-5, atol=1e-6 * shape[1])
    # Rows of padding are zeros, not what lay in memory.
    np.testing.assert_array_equal(y[:, shape[0] :], 0)


@pytest.mark.parametrize("quant_format", FORMATS)
@pytest.mark.parametrize("shape", [*SHAPES, (300, 320)])
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("n_tokens", [1, 3, 6])
def test_reading_active_columns_alone_changes_no_bit(quant_format, shape, zeros, n_tokens):
    random = np.random.default_rng(sum(shape) + n_tokens)
    weights = random.standard_normal(shape).astype(np.float32)
    values = random.standard_normal((n_tokens, shape[1])).astype(np.float32)
    values[random.random(values.shape) < zeros] = 0
    x, _ = inputs(values)
    active = new_active_columns(3, shape[1])
    for t in range(min(n_tokens, 3)):
        if quant_format in (Q8_0, Q4_0):
            list_active(x.codes[t], active, t, 0, shape[1])
        else:
            list_active_values(x.values[t], active, t, 0, shape[1])
    products = []
    for by_columns in (False, True):
        packed = pack(weights, quant_format, by_columns=by_columns)
        n_rows = int(packed.matrix[0]["n_rows"])
        y = np.full((n_tokens, n_rows), np.nan, np.float32)
        matmul(packed.weights, packed.matrix[0], x, active, n_tokens, y, 0, n_rows, new_panel())
        products.append(y)
        np.testing.assert_array_equal(y[:, shape[0] :], 0)
    np.testing.assert_array_equal(*(y[:, : shape[0]] for y in products))


def test_columns_of_halves_that_are_not_active_are_not_read():
    weights = np.ones((64, 50), np.float32)
    weights[:, 5] = np.nan
    packed = pack(weights, F16, by_columns=True)
    values = np.ones((1, 50), np.float32)
    values[0, 5] = 0
    x, _ = inputs(values)
    active = new_active_columns(1, 50)
    list_active_values(x.values[0], active, 0, 0, 50)
    y = np.zeros((1, 64), np.float32)
    matmul(packed.weights, packed.matrix[0], x, active, 1, y, 0, 64, new_panel())
    np.testing.assert_array_equal(y, 49)


def test_columns_that_are_not_active_are_not_read():
    packed = pack(np.ones((128, 64), np.float32), Q8_0, by_columns=True)
    values = np.ones((1, 64), np.float32)
    values[0, 5] = 0
    x, _ = inputs(values)
    active = new_active_columns(1, 64)
    list_active(x.codes[0], active, 0, 0, 64)
    y = np.zeros((1, 128), np.float32)
    column = packed.weights[256 + 5 * 128 :][:128]
    column[:] = 99
    matmul(packed.weights, packed.matrix[0], x, active, 1, y, 0, 128, new_panel())
    np.testing.assert_allclose(y, 63, rtol=1e-2)


def test_many_tokens_and_one_give_the_same_bits():
    random = np.random.default_rng(11)
    for quant_format in FORMATS:
        packed = pack(random.standard_normal((64, 1184)).astype(np.float32), quant_format)
        x, _ = inputs(random.standard_normal((37, 1184)).astype(np.float32))
        active = new_active_columns(1, 32)
        many, single = np.empty((37, 64), np.float32), np.empty((1, 64), np.float32)
        operands = packed.weights, packed.matrix[0]
        matmul(*operands, x, active, 37, many, 0, 64, new_panel())
        for t in range(37):
            one = Activations(*(array[t : t + 1] for array in x))
            matmul(*operands, one, active, 1, single, 0, 64, new_panel())
            np.testing.assert_array_equal(single[0], many[t])


@pytest.mark.parametrize("quant_format", [F32, Q8_0, Q4_0])
def test_rows_may_be_shared_out_in_any_way(quant_format):
    random = np.random.default_rng(1)
    packed = pack(random.standard_normal((96, 64)).astype(np.float32), quant_format, n_threads=3)
    x, _ = inputs(random.standard_normal((2, 64)).astype(np.float32))
    whole, parts = np.empty((2, 96), np.float32), np.empty((2, 96), np.float32)
    matmul(
        packed.weights, packed.matrix[0], x, new_active_columns(1, 32), 2, whole, 0, 96, new_panel()
    )
    for first, last in [(0, 16), (16, 80), (80, 96)]:
        matmul(
            packed.weights,
            packed.matrix[0],
            x,
            new_active_columns(1, 32),
            2,
            parts,
            first,
            last,
            new_panel(),
        )
    np.testing.assert_array_equal(whole, parts)


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
