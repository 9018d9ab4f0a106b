import numpy as np
import pytest

from rwkv_edge.runtime.kernels.wkv4 import wkv4


def plain(k, v, w, u, aa, bb, pp):
    """The sums themselves, in float64, without any common exponent."""
    numerator, denominator = np.exp(pp) * aa, np.exp(pp) * bb
    y = np.empty_like(v)
    for t in range(len(k)):
        y[t] = (numerator + np.exp(u + k[t]) * v[t]) / (denominator + np.exp(u + k[t]))
        numerator = np.exp(w) * numerator + np.exp(k[t]) * v[t]
        denominator = np.exp(w) * denominator + np.exp(k[t])
    return y, numerator, denominator


def operands(n_tokens, n_channels, seed):
    random = np.random.default_rng(seed)
    k, v = random.standard_normal((2, n_tokens, n_channels)).astype(np.float32) * 3
    w = -np.exp(random.uniform(-5, 3, n_channels)).astype(np.float32)
    return k, v, w, random.standard_normal(n_channels).astype(np.float32)


@pytest.mark.parametrize(("n_tokens", "n_channels"), [(1, 16), (1, 48), (7, 16), (40, 64)])
def test_wkv4_follows_the_equation(n_tokens, n_channels):
    k, v, w, u = operands(n_tokens, n_channels, n_tokens)
    random = np.random.default_rng(1)
    aa, pp = random.standard_normal((2, n_channels)).astype(np.float32)
    bb = random.uniform(0.5, 2, n_channels).astype(np.float32)
    wide = (z.astype(np.float64) for z in (k, v, w, u, aa, bb, pp))
    wanted, numerator, denominator = plain(*wide)
    y = np.empty_like(v)
    wkv4(k, v, w, u, aa, bb, pp, y, 0, n_tokens, 0, n_channels)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
    # The exponent is the kernel's choice; the sums are not.
    scale = np.exp(pp.astype(np.float64))
    np.testing.assert_allclose(scale * aa, numerator, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scale * bb, denominator, rtol=1e-4)


def test_the_first_token_has_no_past():
    k, v, w, u = operands(1, 32, 3)
    aa, bb, pp = np.zeros(32, np.float32), np.zeros(32, np.float32), np.full(32, -1e30, np.float32)
    y = np.empty_like(v)
    wkv4(k, v, w, u, aa, bb, pp, y, 0, 1, 0, 32)
    np.testing.assert_allclose(y, v, rtol=1e-6)
    np.testing.assert_allclose(aa, v[0], rtol=1e-6)
    np.testing.assert_array_equal(pp, k[0])


@pytest.mark.parametrize("size", [300, -300])
def test_keys_whose_exponential_is_no_float_do_no_harm(size):
    k, v, w, u = operands(5, 16, 4)
    k += np.float32(size)
    aa, bb, pp = np.zeros(16, np.float32), np.zeros(16, np.float32), np.full(16, -1e30, np.float32)
    y = np.empty_like(v)
    wkv4(k, v, w, u, aa, bb, pp, y, 0, 5, 0, 16)
    wide = [z.astype(np.float64) for z in (k, v, w, u)]
    # Everything in reach of the sums is multiplied by the same power, which cancels.
    wide[0] -= size
    wanted, _, _ = plain(*wide, np.zeros(16), np.zeros(16), np.full(16, -1e30))
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4)


def test_only_the_tokens_and_channels_asked_for_are_touched():
    k, v, w, u = operands(6, 48, 5)
    aa, bb, pp = np.ones((3, 48), np.float32)
    y = np.full_like(v, 9)
    wkv4(k, v, w, u, aa, bb, pp, y, 2, 4, 16, 32)
    assert (y[:2] == 9).all()
    assert (y[4:] == 9).all()
    assert (y[2:4, :16] == 9).all()
    assert (y[2:4, 32:] == 9).all()
    for part in (aa, bb, pp):
        assert (part[:16] == 1).all()
        assert (part[32:] == 1).all()
        assert (part[16:32] != 1).any()


def test_a_large_key_is_forgotten_in_time():
    """Its exponent must fade with it, or all that comes later would vanish beside it."""
    k, v, _, u = operands(300, 16, 6)
    k[0] = 120
    w = np.full(16, -1, np.float32)
    aa, bb, pp = np.zeros(16, np.float32), np.zeros(16, np.float32), np.full(16, -1e30, np.float32)
    y = np.empty_like(v)
    wkv4(k, v, w, u, aa, bb, pp, y, 0, 300, 0, 16)
    wide = (z.astype(np.float64) for z in (k, v, w, u))
    wanted, _, _ = plain(*wide, np.zeros(16), np.zeros(16), np.full(16, -1e30))
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4)
    assert (pp < 20).all()
