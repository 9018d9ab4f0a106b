import numpy as np
import pytest

from rwkv_edge.runtime.kernels.wkv7 import wkv7_step


@pytest.mark.parametrize("head_size", [16, 32, 64, 128])
def test_wkv7_step_follows_the_equation(head_size):
    random = np.random.default_rng(head_size)
    r, k, v, a, b = (random.standard_normal(head_size).astype(np.float32) for _ in range(5))
    w = random.uniform(0.5, 1, head_size).astype(np.float32)
    before = random.standard_normal((head_size, head_size)).astype(np.float32)
    state, y = before.copy(), np.empty(head_size, np.float32)
    wkv7_step(r, w, k, v, a, b, state, y)

    # The kernel's rows are keys; the paper's S has rows of values.
    S = before.T.astype(np.float64)
    S = S * w + np.outer(S @ a.astype(np.float64), b) + np.outer(v, k)
    np.testing.assert_allclose(state.T, S, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(y, S @ r.astype(np.float64), rtol=1e-4, atol=1e-3)
