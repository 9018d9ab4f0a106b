"""The product kernel against numpy in float64."""

import numpy as np
import pytest

from rwkv_edge.converters.kernels.products import TILE, add_product


@pytest.mark.parametrize("k", [4, 8, 32, 36])
@pytest.mark.parametrize("n", [1, 31, TILE, TILE + 1, 2 * TILE + 13])
@pytest.mark.parametrize("m", [1, 2, 7])
def test_the_product_is_added(m: int, n: int, k: int) -> None:
    random = np.random.default_rng(k)
    x, w = random.standard_normal((m, k), np.float32), random.standard_normal((k, n), np.float32)
    out = random.standard_normal((m, n), np.float32)
    wanted = out.astype(np.float64) + x.astype(np.float64) @ w.astype(np.float64)
    add_product(x, w, out)
    # Sums of up to 37 numbers about one, each rounded to 24 bits.
    np.testing.assert_allclose(out, wanted, rtol=0, atol=1e-5)


def test_a_row_is_the_same_bits_among_any_others() -> None:
    random = np.random.default_rng(0)
    x, w = (
        random.standard_normal((9, 24), np.float32),
        random.standard_normal((24, 300), np.float32),
    )
    together = np.zeros((9, 300), np.float32)
    add_product(x, w, together)
    for i in range(9):
        alone = np.zeros((1, 300), np.float32)
        add_product(x[i : i + 1], w, alone)
        assert np.array_equal(alone[0], together[i])


def test_an_infinity_stays_one_and_zeros_add_nothing() -> None:
    out = np.array([[1.0, -2.0]], np.float32)
    add_product(np.zeros((1, 4), np.float32), np.ones((4, 2), np.float32), out)
    assert out.tolist() == [[1.0, -2.0]]
    w = np.array([[np.inf, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], np.float32)
    add_product(np.ones((1, 4), np.float32), w, out)
    assert out.tolist() == [[np.inf, -2.0]]
