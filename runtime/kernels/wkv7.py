"""The recurrence of RWKV-7. Source: arXiv 2503.14456, section 4."""

import numpy as np

from rwkv_edge.jit import kernel
from rwkv_edge.runtime.simd.arithmetic import fma, splat_f32
from rwkv_edge.runtime.simd.memory import load_f32x16, store_f32x16


@kernel
def wkv7_step(r, w, k, v, a, b, state, y):
    """One head, one token: S = S diag(w) + (S a) b^T + v k^T; y = S r.

    Vectors: (head_size,) float32; w is the decay itself, in (0, 1).
    state: (head_size, head_size), rows KEY, columns VALUE, so that a vector holds 16 values of one
    key and nothing is summed across lanes; the canonical state is its transpose. Overwritten, as y.
    """
    n = state.shape[0]
    zero = splat_f32(np.float32(0))
    for j in range(0, n, 16):
        # Four sums side by side: one chain of fused multiply-adds would wait for itself.
        s0 = s1 = s2 = s3 = zero
        for i in range(0, n, 4):
            s0 = fma(load_f32x16(state[i], j), splat_f32(a[i]), s0)
            s1 = fma(load_f32x16(state[i + 1], j), splat_f32(a[i + 1]), s1)
            s2 = fma(load_f32x16(state[i + 2], j), splat_f32(a[i + 2]), s2)
            s3 = fma(load_f32x16(state[i + 3], j), splat_f32(a[i + 3]), s3)
        sa = (s0 + s1) + (s2 + s3)
        vj = load_f32x16(v, j)
        y0 = y1 = zero
        for i in range(0, n, 2):
            s0 = load_f32x16(state[i], j) * splat_f32(w[i])
            s0 = fma(sa, splat_f32(b[i]), fma(vj, splat_f32(k[i]), s0))
            s1 = load_f32x16(state[i + 1], j) * splat_f32(w[i + 1])
            s1 = fma(sa, splat_f32(b[i + 1]), fma(vj, splat_f32(k[i + 1]), s1))
            store_f32x16(state[i], j, s0)
            store_f32x16(state[i + 1], j, s1)
            y0 = fma(s0, splat_f32(r[i]), y0)
            y1 = fma(s1, splat_f32(r[i + 1]), y1)
        store_f32x16(y, j, y0 + y1)
