import numpy as np

from rwkv_edge.runtime.kernels.norms import group_norm, layer_norm


def normal(x, eps):
    return (x - x.mean()) / np.sqrt(x.var() + eps)


def test_layer_norm_matches_numpy_in_parts_and_whole():
    random = np.random.default_rng(0)
    x, weight, bias = (random.standard_normal(96).astype(np.float32) for _ in range(3))
    out = np.zeros(96, np.float32)
    layer_norm(x * 5 + 3, weight, bias, out, 32, 64)
    expected = normal(x.astype(np.float64) * 5 + 3, 1e-5) * weight + bias
    np.testing.assert_allclose(out[32:64], expected[32:64], rtol=1e-5, atol=1e-6)
    assert not out[:32].any()
    assert not out[64:].any()


def test_group_norm_uses_the_larger_epsilon_and_its_own_head():
    random = np.random.default_rng(1)
    # Small numbers, so that 64e-5 under the root shows.
    x = (random.standard_normal(128) * 0.01).astype(np.float32)
    weight, bias = (random.standard_normal(128).astype(np.float32) for _ in range(2))
    out = x.copy()
    group_norm(out, weight, bias, 64, 128)
    expected = normal(x[64:].astype(np.float64), 64e-5) * weight[64:] + bias[64:]
    np.testing.assert_allclose(out[64:], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(out[:64], x[:64])
