import numpy as np

from rwkv_edge.runtime.kernels.read_bandwidth import TURN, sum_of


def test_sum_of_a_part_is_numpys():
    # Whole numbers, so that the order of the additions does not matter.
    x = np.random.default_rng(0).integers(-9, 9, 8 * TURN).astype(np.float32)
    assert sum_of(x, 0, x.size) == x.sum()
    assert sum_of(x, TURN, 3 * TURN) == x[TURN : 3 * TURN].sum()
    assert sum_of(x, TURN, TURN) == 0
