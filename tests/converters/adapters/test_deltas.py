"""What is added to rows is what the adapted model computed in training, in float64."""

import numpy as np
import pytest

from rwkv_edge.converters.adapters import deltas
from rwkv_edge.converters.adapters.deltas import Blockwise, Delta, LowRank, Tiled
from rwkv_edge.converters.kernels import products
from tests.converters.adapters.adapter_files import Float64Array, numbers

# float32 sums of a few dozen products of numbers below one.
CLOSE = 1e-5


def merged(weights: Float64Array, delta: Delta, step: int = 1000) -> Float64Array:
    """All rows of a matrix, `step` at a time."""
    rows = weights.astype(np.float32)
    for start in range(0, len(rows), step):
        delta.add_to(rows[start : start + step], start)
    return rows.astype(np.float64)


def wide(array: np.ndarray) -> Float64Array:
    return array.astype(np.float64)


def test_factors_are_padded_to_what_the_kernel_adds_at_a_time() -> None:
    assert deltas.TERMS == products.TERMS


def test_low_rank_gives_what_the_two_paths_give() -> None:
    """In training x went through W, and beside it through A and then B."""
    w, a, b, x = numbers(0, 48, 40), numbers(1, 6, 40), numbers(2, 48, 6), numbers(3, 9, 40)
    wanted = wide(x) @ wide(w).T + (wide(x) @ wide(a).T) @ wide(b).T
    assert np.abs(x @ merged(wide(w), LowRank(b, a)).T - wanted).max() < CLOSE


@pytest.mark.parametrize("r", [1, 3, 8, 16, 40])
@pytest.mark.parametrize("n_inputs", [40, 48, 41])
def test_tiles_give_what_the_summed_inputs_give(n_inputs: int, r: int) -> None:
    """In training every r-th input was summed, the inputs padded by zeros, and went through D."""
    w, d, x = numbers(0, 24, n_inputs), numbers(1, r, 24), numbers(2, 5, n_inputs)
    padded = np.pad(wide(x), ((0, 0), (0, -n_inputs % r)))
    summed = padded.reshape(5, -1, r).sum(axis=1)
    wanted = wide(x) @ wide(w).T + summed @ wide(d)
    found = merged(wide(w), Tiled(d))
    assert np.abs(x @ found.T - wanted).max() < CLOSE


@pytest.mark.parametrize(
    ("n_outputs", "n_inputs", "r"), [(24, 40, 8), (40, 24, 8), (16, 16, 16), (30, 20, 5)]
)
def test_blocks_are_multiplied_by_those_of_their_columns(
    n_outputs: int, n_inputs: int, r: int
) -> None:
    w, d = numbers(0, n_outputs, n_inputs), numbers(1, n_inputs // r, r, r)
    wanted = wide(w)
    for i in range(n_outputs):
        for j in range(n_inputs):
            block = wide(d[j // r])
            first = j // r * r
            wanted[i, j] += wide(w)[i, first : first + r] @ block[:, j % r] + block[i % r, j % r]
    assert np.abs(merged(wide(w), Blockwise(d)) - wanted).max() < CLOSE


@pytest.mark.parametrize("step", [1, 5, 7, 16, 23])
@pytest.mark.parametrize(
    "delta",
    [
        LowRank(numbers(1, 24, 4), numbers(2, 4, 40)),
        Tiled(numbers(1, 7, 24)),
        Blockwise(numbers(1, 5, 8, 8)),
    ],
)
def test_blocks_of_rows_give_what_all_rows_give(delta: Delta, step: int) -> None:
    w = wide(numbers(0, 24, 40))
    assert np.array_equal(merged(w, delta, step), merged(w, delta))
