"""WKV-7 as a torch autograd function around two numba kernels, float32, state starting at zero.

One head, one token, as in the RWKV-7 paper (arXiv 2503.14456):

    S = S diag(w) + (S a) b^T + v k^T;   y = S r

Inside the kernels the state is stored transposed (rows key, columns value), so that every inner
loop runs over the value channels, contiguously. The forward pass keeps the state of every
CHUNK-th token; the backward pass recomputes the states in between, so gradients are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

HEAD_SIZE = 64
CHUNK = 16  # 16 states of 16 KiB fit the L2 cache

# Reassociation lets the sums become vectors; NaN and infinity keep their meaning.
kernel = njit(parallel=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
inlined = njit(inline="always", fastmath={"contract", "reassoc", "nsz"})


@inlined
def _step(state, r, w, k, v, a, b, sa, y, next_state):  # type: ignore[no-untyped-def]
    """next_state from state (may be the same array); sa = S a and y = S r are overwritten."""
    for i in range(HEAD_SIZE):
        sa[i] = np.float32(0.0)
        y[i] = np.float32(0.0)
    for j in range(0, HEAD_SIZE, 4):
        a0, a1, a2, a3 = a[j], a[j + 1], a[j + 2], a[j + 3]
        for i in range(HEAD_SIZE):
            sa[i] += (state[j, i] * a0 + state[j + 1, i] * a1) + (
                state[j + 2, i] * a2 + state[j + 3, i] * a3
            )
    for j in range(0, HEAD_SIZE, 2):
        w0, k0, b0, r0 = w[j], k[j], b[j], r[j]
        w1, k1, b1, r1 = w[j + 1], k[j + 1], b[j + 1], r[j + 1]
        for i in range(HEAD_SIZE):
            s0 = state[j, i] * w0 + sa[i] * b0 + v[i] * k0
            s1 = state[j + 1, i] * w1 + sa[i] * b1 + v[i] * k1
            next_state[j, i] = s0
            next_state[j + 1, i] = s1
            y[i] += s0 * r0 + s1 * r1


@kernel
def wkv7_forward(r, w, k, v, a, b, y, kept):  # type: ignore[no-untyped-def]
    """All inputs and y: (batch, tokens, heads, HEAD_SIZE); y and kept are overwritten.

    kept: (batch, heads, tokens / CHUNK, HEAD_SIZE, HEAD_SIZE), the state before each chunk.
    """
    n_batch, n_tokens, n_head = r.shape[0], r.shape[1], r.shape[2]
    for lane in prange(n_batch * n_head):
        n, h = lane // n_head, lane % n_head
        state = np.zeros((HEAD_SIZE, HEAD_SIZE), np.float32)
        sa = np.empty(HEAD_SIZE, np.float32)
        for t in range(n_tokens):
            if t % CHUNK == 0:
                kept[n, h, t // CHUNK] = state
            _step(
                state,
                r[n, t, h],
                w[n, t, h],
                k[n, t, h],
                v[n, t, h],
                a[n, t, h],
                b[n, t, h],
                sa,
                y[n, t, h],
                state,
            )


@kernel
def wkv7_backward(r, w, k, v, a, b, kept, dy, dr, dw, dk, dv, da, db):  # type: ignore[no-untyped-def]
    """Gradients of all six inputs from dy; shapes as in wkv7_forward."""
    n_batch, n_tokens, n_head = r.shape[0], r.shape[1], r.shape[2]
    for lane in prange(n_batch * n_head):
        n, h = lane // n_head, lane % n_head
        states = np.empty((CHUNK + 1, HEAD_SIZE, HEAD_SIZE), np.float32)
        sas = np.empty((CHUNK, HEAD_SIZE), np.float32)
        unused_y = np.empty(HEAD_SIZE, np.float32)
        grad = np.zeros((HEAD_SIZE, HEAD_SIZE), np.float32)  # of the state after token t
        dsa = np.empty(HEAD_SIZE, np.float32)
        dvt = np.empty(HEAD_SIZE, np.float32)
        for chunk in range(n_tokens // CHUNK - 1, -1, -1):
            states[0] = kept[n, h, chunk]
            for c in range(CHUNK):
                t = chunk * CHUNK + c
                _step(
                    states[c],
                    r[n, t, h],
                    w[n, t, h],
                    k[n, t, h],
                    v[n, t, h],
                    a[n, t, h],
                    b[n, t, h],
                    sas[c],
                    unused_y,
                    states[c + 1],
                )
            for c in range(CHUNK - 1, -1, -1):
                t = chunk * CHUNK + c
                before, after, sa = states[c], states[c + 1], sas[c]
                vt, dyt = v[n, t, h], dy[n, t, h]
                for i in range(HEAD_SIZE):
                    dsa[i] = np.float32(0.0)
                    dvt[i] = np.float32(0.0)
                for j in range(HEAD_SIZE):
                    rj, kj, bj = r[n, t, h, j], k[n, t, h, j], b[n, t, h, j]
                    drj = np.float32(0.0)
                    dwj = np.float32(0.0)
                    dkj = np.float32(0.0)
                    dbj = np.float32(0.0)
                    for i in range(HEAD_SIZE):
                        g = grad[j, i] + dyt[i] * rj
                        grad[j, i] = g
                        dsa[i] += g * bj
                        dvt[i] += g * kj
                        drj += after[j, i] * dyt[i]
                        dwj += g * before[j, i]
                        dkj += g * vt[i]
                        dbj += g * sa[i]
                    dr[n, t, h, j] = drj
                    dw[n, t, h, j] = dwj
                    dk[n, t, h, j] = dkj
                    db[n, t, h, j] = dbj
                dv[n, t, h] = dvt
                for j in range(HEAD_SIZE):
                    aj, wj = a[n, t, h, j], w[n, t, h, j]
                    daj = np.float32(0.0)
                    for i in range(HEAD_SIZE):
                        daj += before[j, i] * dsa[i]
                        grad[j, i] = grad[j, i] * wj + dsa[i] * aj
                    da[n, t, h, j] = daj


class WKV7(torch.autograd.Function):
    """y (batch, tokens, heads, HEAD_SIZE) from r, w, k, v, a, b of that shape, float32.

    w is the decay itself, in (0, 1). The number of tokens must be a multiple of CHUNK.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        n_batch, n_tokens, n_head, head_size = inputs[0].shape
        if n_tokens % CHUNK or head_size != HEAD_SIZE:
            found = f"{n_tokens} tokens, head size {head_size}"
            raise ValueError(f"{found}: wanted a multiple of {CHUNK}, {HEAD_SIZE}")
        inputs = tuple(tensor.float().contiguous() for tensor in inputs)
        y = torch.empty_like(inputs[0])
        kept = torch.empty(n_batch, n_head, n_tokens // CHUNK, HEAD_SIZE, HEAD_SIZE)
        wkv7_forward(*(tensor.detach().numpy() for tensor in (*inputs, y, kept)))
        ctx.save_for_backward(*inputs, kept)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        saved = ctx.saved_tensors
        grads = tuple(torch.empty_like(saved[0]) for _ in range(6))
        arrays = (*saved, dy.float().contiguous(), *grads)
        wkv7_backward(*(tensor.detach().numpy() for tensor in arrays))
        return grads


@torch.compiler.disable  # numba is opaque to torch.compile: break the graph here
def wkv7(r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """WKV7.apply, with named arguments."""
    return WKV7.apply(r, w, k, v, a, b)
