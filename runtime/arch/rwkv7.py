"""RWKV-7: how tokens pass through the weights. Source: arXiv 2503.14456.

One call of `forward` takes a block of tokens of one or more sequences through the whole model. It
is run by every thread of a team at once; each thread takes its share of rows or heads, and they
meet where one needs what another computed. One token and many follow the same lines.
"""

import numpy as np

from rwkv_edge.jit import kernel
from rwkv_edge.runtime.arch.layers import (
    channel_mix,
    embed,
    head,
    multiply_rows,
    multiply_share,
    quantize_for,
    shift_and_lerp,
    wkv_state,
)
from rwkv_edge.runtime.arch.rwkv7_weights import (
    A0,
    A1,
    A2,
    G1,
    G2,
    HIDDEN_A,
    HIDDEN_G,
    HIDDEN_V,
    HIDDEN_W,
    IN_A,
    IN_G,
    IN_K,
    IN_R,
    IN_V,
    IN_W,
    K_A,
    K_K,
    KEY,
    KK_A,
    LN_X_B,
    LN_X_W,
    MINUS_KK,
    OUTPUT,
    R_K,
    RECEPTANCE,
    V0,
    V1,
    V2,
    V_FIRST,
    V_MIX,
    VALUE,
    W0,
    W1,
    W2,
    X_G,
    X_R,
    A,
    G,
    W,
    Y,
)
from rwkv_edge.runtime.arch.weights import LN1_B, LN1_W, NORMED, OUT, K, R, V, X
from rwkv_edge.runtime.kernels.barrier import meet
from rwkv_edge.runtime.kernels.elementwise import add, copy, dot, share, sigmoid, tanh
from rwkv_edge.runtime.kernels.norms import group_norm, layer_norm
from rwkv_edge.runtime.kernels.wkv7 import wkv7_step
from rwkv_edge.runtime.simd.arithmetic import fma, horizontal_sum, splat_f32
from rwkv_edge.runtime.simd.functions import exp_f32x16, sigmoid_f32x16
from rwkv_edge.runtime.simd.memory import load_f32x16, store_f32x16
from rwkv_edge.runtime.simd.reference import by_reference

# decay = exp(-exp(-0.5) * sigmoid(...)), between 0.545 and 1.
MINUS_EXP_HALF = np.float32(-np.exp(-0.5))
# The L2 norm of kk is divided by no less than this.
MIN_NORM = np.float32(1e-12)
ONE = np.float32(1)


@kernel
def decay(w, w0, first, last):
    """w = exp(-exp(-0.5) sigmoid(w0 + w)), in place."""
    for j in range(first, last, 16):
        rate = sigmoid_f32x16(load_f32x16(w0, j) + load_f32x16(w, j))
        store_f32x16(w, j, exp_f32x16(splat_f32(MINUS_EXP_HALF) * rate))


@kernel
def learning_rate(a, a0, first, last):
    """a = sigmoid(a0 + a), in place."""
    for j in range(first, last, 16):
        store_f32x16(a, j, sigmoid_f32x16(load_f32x16(a0, j) + load_f32x16(a, j)))


@kernel
def mix_in_first_value(v, v_first, v_mix, v0, first, last):
    """v = v + (v_first - v) sigmoid(v0 + v_mix), in place."""
    for j in range(first, last, 16):
        vj = load_f32x16(v, j)
        mix = sigmoid_f32x16(load_f32x16(v0, j) + load_f32x16(v_mix, j))
        store_f32x16(v, j, fma(load_f32x16(v_first, j) - vj, mix, vj))


@kernel
def keys_of_head(k, a, k_k, k_a, minus_kk, kk_a, first, last):
    """kk = k k_k, of length 1 within the head; k = k (1 + (a - 1) k_a), in place.

    minus_kk = -kk and kk_a = kk a are overwritten.
    """
    for j in range(first, last, 16):
        store_f32x16(minus_kk, j, load_f32x16(k, j) * load_f32x16(k_k, j))
    norm = max(np.sqrt(dot(minus_kk, minus_kk, first, last)), MIN_NORM)
    one = splat_f32(ONE)
    for j in range(first, last, 16):
        aj = load_f32x16(a, j)
        kk = load_f32x16(minus_kk, j) * splat_f32(ONE / norm)
        store_f32x16(minus_kk, j, splat_f32(-ONE) * kk)
        store_f32x16(kk_a, j, kk * aj)
        store_f32x16(k, j, load_f32x16(k, j) * fma(aj - one, load_f32x16(k_a, j), one))


@kernel
def head_output(y, r, k, v, g, r_k, ln_x_w, ln_x_b, first, last):
    """y = (group_norm(y) + (r . (k r_k)) v) g, in place."""
    group_norm(y, ln_x_w, ln_x_b, first, last)
    bonus = splat_f32(np.float32(0))
    for j in range(first, last, 16):
        bonus = fma(load_f32x16(r, j) * load_f32x16(k, j), load_f32x16(r_k, j), bonus)
    rkr = splat_f32(horizontal_sum(bonus))
    for j in range(first, last, 16):
        with_bonus = fma(rkr, load_f32x16(v, j), load_f32x16(y, j))
        store_f32x16(y, j, with_bonus * load_f32x16(g, j))


@kernel
def wkv_of_head(rows, y, p, state, start, stop, first, last):
    """One head over the tokens of one sequence: keys, recurrence, output."""
    for t in range(start, stop):
        r, k, v = rows[R, t], rows[K, t], rows[V, t]
        kk_a, minus_kk = rows[KK_A, t], rows[MINUS_KK, t]
        keys_of_head(k, rows[A, t], p[K_K], p[K_A], minus_kk, kk_a, first, last)
        wkv7_step(
            r[first:last],
            rows[W, t, first:last],
            k[first:last],
            v[first:last],
            minus_kk[first:last],
            kk_a[first:last],
            state,
            y[t, first:last],
        )
        head_output(y[t], r, k, v, rows[G, t], p[R_K], p[LN_X_W], p[LN_X_B], first, last)


@kernel
def low_rank_hidden(weights, s, layer, n_tokens, thread, n_threads):
    """Inside the four low-rank MLPs: tanh(x_w w1), x_a a1, x_v v1, sigmoid(x_g g1)."""
    m, mixed, hidden = weights.matrices[layer], s.mixed, s.hidden
    y = hidden.values[HIDDEN_W]
    first, last = multiply_share(weights, m[W1], mixed, IN_W, n_tokens, y, s, thread, n_threads)
    for t in range(n_tokens):
        tanh(y[t], first, last)
    quantize_for(m[W2], hidden, HIDDEN_W, n_tokens, first, last)
    y = hidden.values[HIDDEN_A]
    first, last = multiply_share(weights, m[A1], mixed, IN_A, n_tokens, y, s, thread, n_threads)
    quantize_for(m[A2], hidden, HIDDEN_A, n_tokens, first, last)
    if layer > 0:  # layer 0 defines v_first; what its file holds as v0, v1, v2 is padding
        y = hidden.values[HIDDEN_V]
        first, last = multiply_share(weights, m[V1], mixed, IN_V, n_tokens, y, s, thread, n_threads)
        quantize_for(m[V2], hidden, HIDDEN_V, n_tokens, first, last)
    y = hidden.values[HIDDEN_G]
    first, last = multiply_share(weights, m[G1], mixed, IN_G, n_tokens, y, s, thread, n_threads)
    for t in range(n_tokens):
        sigmoid(y[t], first, last)
    quantize_for(m[G2], hidden, HIDDEN_G, n_tokens, first, last)


@kernel
def time_mix(weights, s, batch, layer, sync, thread, n_threads):
    """x += time_mix(layer_norm(x)); advances att_x and wkv of every sequence's state."""
    m, p = weights.matrices[layer], weights.vectors[layer]
    n_layer, head_size = weights.vectors.shape[0], weights.head_size
    n_tokens, n_embd = batch.tokens.size, p.shape[1]
    n_head = n_embd // head_size
    rows, mixed, hidden = s.rows, s.mixed, s.hidden
    first, last = share(n_embd, weights.head_unit, thread, n_threads)

    for t in range(n_tokens):
        layer_norm(rows[X, t], p[LN1_W], p[LN1_B], rows[NORMED, t], first, last)
    lerps = p[X_R : X_G + 1]
    for q in range(batch.states.size):
        att_x, _ = wkv_state(batch.states[q], n_layer, n_head, head_size)
        start, stop = batch.starts[q], batch.starts[q + 1]
        shift_and_lerp(rows[NORMED], att_x[layer], lerps, mixed.values, start, stop, first, last)
    quantize_for(m[RECEPTANCE], mixed, IN_R, n_tokens, first, last)
    quantize_for(m[KEY], mixed, IN_K, n_tokens, first, last)
    quantize_for(m[VALUE], mixed, IN_V, n_tokens, first, last)
    quantize_for(m[W1], mixed, IN_W, n_tokens, first, last)
    quantize_for(m[V1], mixed, IN_V, n_tokens, first, last)
    quantize_for(m[A1], mixed, IN_A, n_tokens, first, last)
    quantize_for(m[G1], mixed, IN_G, n_tokens, first, last)
    meet(sync, n_threads)

    multiply_share(weights, m[RECEPTANCE], mixed, IN_R, n_tokens, rows[R], s, thread, n_threads)
    multiply_share(weights, m[KEY], mixed, IN_K, n_tokens, rows[K], s, thread, n_threads)
    multiply_share(weights, m[VALUE], mixed, IN_V, n_tokens, rows[V], s, thread, n_threads)
    low_rank_hidden(weights, s, layer, n_tokens, thread, n_threads)
    meet(sync, n_threads)

    multiply_rows(weights, m[W2], hidden, HIDDEN_W, n_tokens, rows[W], s, thread, first, last)
    multiply_rows(weights, m[A2], hidden, HIDDEN_A, n_tokens, rows[A], s, thread, first, last)
    if layer > 0:
        multiply_rows(
            weights, m[V2], hidden, HIDDEN_V, n_tokens, rows[V_MIX], s, thread, first, last
        )
    multiply_rows(weights, m[G2], hidden, HIDDEN_G, n_tokens, rows[G], s, thread, first, last)
    for t in range(n_tokens):
        decay(rows[W, t], p[W0], first, last)
        learning_rate(rows[A, t], p[A0], first, last)
        if layer == 0:
            copy(rows[V, t], rows[V_FIRST, t], first, last)
        else:
            v_first, v_mix = rows[V_FIRST, t], rows[V_MIX, t]
            mix_in_first_value(rows[V, t], v_first, v_mix, p[V0], first, last)
    for q in range(batch.states.size):
        _, wkv = wkv_state(batch.states[q], n_layer, n_head, head_size)
        start, stop = batch.starts[q], batch.starts[q + 1]
        for h in range(first // head_size, last // head_size):
            j = h * head_size
            wkv_of_head(rows, mixed.values[Y], p, wkv[layer, h], start, stop, j, j + head_size)
    quantize_for(m[OUTPUT], mixed, Y, n_tokens, first, last)
    meet(sync, n_threads)

    first, last = multiply_share(
        weights, m[OUTPUT], mixed, Y, n_tokens, rows[OUT], s, thread, n_threads
    )
    for t in range(n_tokens):
        add(rows[X, t], rows[OUT, t], first, last)
    meet(sync, n_threads)


@kernel
def forward(weights, scratch, batch, sync, thread, n_threads):
    """One block through the model: states advance, logits are written. False without all threads.

    Every thread of the team calls this with the same arguments but its own number. At most as many
    tokens as `scratch` has rows; tokens are in range (nothing here checks them).
    """
    if not meet(sync, n_threads):
        return False
    w, s, b = by_reference(weights), by_reference(scratch), by_reference(batch)
    embed(w, b.tokens, s.rows[X], thread, n_threads)
    meet(sync, n_threads)
    for layer in range(w.vectors.shape[0]):
        time_mix(w, s, b, layer, sync, thread, n_threads)
        channel_mix(w, s, b, layer, sync, thread, n_threads)
    head(w, s, b, sync, thread, n_threads)
    meet(sync, n_threads)
    return True
