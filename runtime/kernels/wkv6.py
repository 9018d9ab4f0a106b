"""The recurrence of RWKV-5 and 6. Source: arXiv 2404.05892, sections 3 and 4."""

import numpy as np

from rwkv_edge.jit import kernel
from rwkv_edge.runtime.simd.arithmetic import fma, horizontal_sum, splat_f32
from rwkv_edge.runtime.simd.memory import load_f32x16, store_f32x16


@kernel
def wkv6_step(r, w, k, v, u, state, y):
    """One head, one token: y = r (S + diag(u) k v^T); S = diag(w) S + k v^T.

    Vectors: (head_size,) float32; w is the decay itself, in (0, 1); u weighs the present token.
    state: (head_size, head_size), rows key, columns value; overwritten, as y.
    """
    n = state.shape[0]
    bonus = splat_f32(np.float32(0))
    for i in range(0, n, 16):
        bonus = fma(load_f32x16(r, i) * load_f32x16(u, i), load_f32x16(k, i), bonus)
    # r diag(u) k v^T is a multiple of v.
    ruk = splat_f32(horizontal_sum(bonus))
    for j in range(0, n, 16):
        vj = load_f32x16(v, j)
        # Two sums side by side: one chain of fused multiply-adds would wait for itself.
        y0, y1 = ruk * vj, splat_f32(np.float32(0))
        for i in range(0, n, 2):
            s0, s1 = load_f32x16(state[i], j), load_f32x16(state[i + 1], j)
            y0 = fma(s0, splat_f32(r[i]), y0)
            y1 = fma(s1, splat_f32(r[i + 1]), y1)
            store_f32x16(state[i], j, fma(vj, splat_f32(k[i]), s0 * splat_f32(w[i])))
            store_f32x16(state[i + 1], j, fma(vj, splat_f32(k[i + 1]), s1 * splat_f32(w[i + 1])))
        store_f32x16(y, j, y0 + y1)
