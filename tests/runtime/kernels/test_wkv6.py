import numpy as np
import pytest

from rwkv_edge.runtime.kernels.wkv6 import wkv6_step


@pytest.mark.parametrize("head_size", [16, 32, 48, 64, 128])
def test_wkv6_step_follows_the_equation(head_size):
    random = np.random.default_rng(head_size)
    r, k, v, u = (random.standard_normal(head_size).astype(np.float32) for _ in range(4))
    w = random.uniform(0.5, 1, head_size).astype(np.float32)
    before = random.standard_normal((head_size, head_size)).astype(np.float32)
    state, y = before.copy(), np.empty(head_size, np.float32)
    wkv6_step(r, w, k, v, u, state, y)

    S = before.astype(np.float64)
    kv = np.outer(k.astype(np.float64), v)
    # float32 sums of up to 128 products, whose size is about 1.
    np.testing.assert_allclose(y, r @ (S + u[:, None] * kv), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(state, w[:, None] * S + kv, rtol=1e-5, atol=1e-5)
