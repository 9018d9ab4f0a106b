"""RWKV-6: how tokens pass through the weights. Source: arXiv 2404.05892, section 4.

One call of `forward` takes a block of tokens of one or more sequences through the whole model. It
is run by every thread of a team at once; each thread takes its share of rows or heads, and they
meet where one needs what another computed. One token and many follow the same lines.
"""

import numpy as np

from rwkv_edge.jit import kernel
from rwkv_edge.runtime.arch.gated_heads import G, W, add_heads
from rwkv_edge.runtime.arch.layers import (
    ROW_UNIT,
    embed,
    gated_channel_mix,
    head,
    multiply_rows,
    multiply_share,
    quantize_for,
    wkv_state,
)
from rwkv_edge.runtime.arch.rwkv6_weights import (
    DECAY,
    DECAY_W1,
    DECAY_W2,
    FIRST,
    GATE,
    HIDDEN_W,
    IN_G,
    IN_K,
    IN_R,
    IN_V,
    IN_W,
    IN_X,
    KEY,
    LERP,
    LERP_X,
    LN_X_B,
    LN_X_W,
    MIX_W1,
    MIX_W2,
    N_LERPS,
    OUTPUT,
    RECEPTANCE,
    SHIFT,
    VALUE,
    Y,
)
from rwkv_edge.runtime.arch.weights import LN1_B, LN1_W, NORMED, K, R, V, X
from rwkv_edge.runtime.kernels.barrier import meet
from rwkv_edge.runtime.kernels.elementwise import copy, share, tanh
from rwkv_edge.runtime.kernels.norms import layer_norm
from rwkv_edge.runtime.simd.arithmetic import fma, splat_f32
from rwkv_edge.runtime.simd.functions import exp_f32x16
from rwkv_edge.runtime.simd.memory import load_f32x16, store_f32x16
from rwkv_edge.runtime.simd.reference import by_reference

MINUS_ONE = np.float32(-1)


@kernel
def shift_once(x, previous, lerp_x, shift, x_x, first, last):
    """shift = x_previous - x; x_x = x + shift lerp_x."""
    for j in range(first, last, 16):
        xj = load_f32x16(x, j)
        difference = load_f32x16(previous, j) - xj
        store_f32x16(shift, j, difference)
        store_f32x16(x_x, j, fma(difference, load_f32x16(lerp_x, j), xj))


@kernel
def lerp_by_token(x, shift, mu, mixed, first, last):
    """mixed = x + shift (mu + mixed), in place: what the token adds to mu was there."""
    for j in range(first, last, 16):
        weight = load_f32x16(mu, j) + load_f32x16(mixed, j)
        store_f32x16(mixed, j, fma(load_f32x16(shift, j), weight, load_f32x16(x, j)))


@kernel
def decay(w, w0, first, last):
    """w = exp(-exp(w0 + w)), in place."""
    for j in range(first, last, 16):
        rate = exp_f32x16(load_f32x16(w0, j) + load_f32x16(w, j))
        store_f32x16(w, j, exp_f32x16(splat_f32(MINUS_ONE) * rate))


@kernel
def lerp_hidden(weights, s, layer, n_tokens, thread, n_threads):
    """tanh(w1 x_x) inside the low-rank MLPs of the lerps, whose rows are shared out together."""
    m = weights.matrices[layer]
    n_rows = m[MIX_W1].n_rows
    begin, end = share(N_LERPS * n_rows, ROW_UNIT, thread, n_threads)
    for i in range(N_LERPS):
        first, last = max(begin - i * n_rows, 0), min(end - i * n_rows, n_rows)
        if first < last:
            matrix, hidden = m[MIX_W1 + i], s.hidden.values[i]
            multiply_rows(weights, matrix, s.mixed, IN_X, n_tokens, hidden, s, thread, first, last)
            for t in range(n_tokens):
                tanh(hidden[t], first, last)
            quantize_for(m[MIX_W2 + i], s.hidden, i, n_tokens, first, last)


@kernel
def mix_by_token(weights, s, batch, layer, sync, thread, n_threads):
    """x_w, x_k, x_v, x_r and x_g = x + (x_previous - x) (lerp + w2 tanh(w1 x_x)); advances att_x.

    Each thread leaves its share of the channels, quantized for what multiplies them.
    """
    m, p = weights.matrices[layer], weights.vectors[layer]
    n_layer, head_size = weights.vectors.shape[0], weights.head_size
    n_tokens, n_embd = batch.tokens.size, p.shape[1]
    rows, mixed = s.rows, s.mixed
    first, last = share(n_embd, weights.head_unit, thread, n_threads)

    for t in range(n_tokens):
        layer_norm(rows[X, t], p[LN1_W], p[LN1_B], rows[NORMED, t], first, last)
    for q in range(batch.states.size):
        att_x, _ = wkv_state(batch.states[q], n_layer, n_embd // head_size, head_size)
        start, stop = batch.starts[q], batch.starts[q + 1]
        for t in range(start, stop):
            previous = att_x[layer] if t == start else rows[NORMED, t - 1]
            x, shift, x_x = rows[NORMED, t], rows[SHIFT, t], mixed.values[IN_X, t]
            shift_once(x, previous, p[LERP_X], shift, x_x, first, last)
        copy(rows[NORMED, stop - 1], att_x[layer], first, last)
    quantize_for(m[MIX_W1], mixed, IN_X, n_tokens, first, last)
    meet(sync, n_threads)

    lerp_hidden(weights, s, layer, n_tokens, thread, n_threads)
    meet(sync, n_threads)

    for i in range(N_LERPS):
        matrix, values = m[MIX_W2 + i], mixed.values[IN_W + i]
        multiply_rows(weights, matrix, s.hidden, i, n_tokens, values, s, thread, first, last)
        for t in range(n_tokens):
            lerp_by_token(rows[NORMED, t], rows[SHIFT, t], p[LERP + i], values[t], first, last)
    quantize_for(m[DECAY_W1], mixed, IN_W, n_tokens, first, last)
    quantize_for(m[KEY], mixed, IN_K, n_tokens, first, last)
    quantize_for(m[VALUE], mixed, IN_V, n_tokens, first, last)
    quantize_for(m[RECEPTANCE], mixed, IN_R, n_tokens, first, last)
    quantize_for(m[GATE], mixed, IN_G, n_tokens, first, last)


@kernel
def time_mix(weights, s, batch, layer, sync, thread, n_threads):
    """x += time_mix(layer_norm(x)); advances att_x and wkv of every sequence's state."""
    m, p = weights.matrices[layer], weights.vectors[layer]
    n_tokens, n_embd = batch.tokens.size, p.shape[1]
    rows, mixed, hidden = s.rows, s.mixed, s.hidden

    mix_by_token(weights, s, batch, layer, sync, thread, n_threads)
    meet(sync, n_threads)

    multiply_share(weights, m[RECEPTANCE], mixed, IN_R, n_tokens, rows[R], s, thread, n_threads)
    multiply_share(weights, m[KEY], mixed, IN_K, n_tokens, rows[K], s, thread, n_threads)
    multiply_share(weights, m[VALUE], mixed, IN_V, n_tokens, rows[V], s, thread, n_threads)
    multiply_share(weights, m[GATE], mixed, IN_G, n_tokens, rows[G], s, thread, n_threads)
    y = hidden.values[HIDDEN_W]
    first, last = multiply_share(
        weights, m[DECAY_W1], mixed, IN_W, n_tokens, y, s, thread, n_threads
    )
    for t in range(n_tokens):
        tanh(y[t], first, last)
    quantize_for(m[DECAY_W2], hidden, HIDDEN_W, n_tokens, first, last)
    meet(sync, n_threads)

    first, last = share(n_embd, weights.head_unit, thread, n_threads)
    multiply_rows(weights, m[DECAY_W2], hidden, HIDDEN_W, n_tokens, rows[W], s, thread, first, last)
    for t in range(n_tokens):
        decay(rows[W, t], p[DECAY], first, last)
    add_heads(
        weights, s, batch, layer, Y, OUTPUT, p[FIRST], p[LN_X_W], p[LN_X_B], True, sync,
        thread, n_threads,
    )  # fmt: skip


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
        gated_channel_mix(w, s, b, layer, sync, thread, n_threads)
    head(w, s, b, sync, thread, n_threads)
    meet(sync, n_threads)
    return True
