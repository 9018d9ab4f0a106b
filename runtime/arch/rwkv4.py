"""RWKV-4: how tokens pass through the weights. Source: arXiv 2305.13048.

One call of `forward` takes a block of tokens of one or more sequences through the whole model. It
is run by every thread of a team at once; each thread takes its share of rows or channels, and they
meet where one needs what another computed. One token and many follow the same lines.
"""

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.arch.layers import (
    embed,
    gated_channel_mix,
    head,
    multiply_rows,
    multiply_share,
    quantize_for,
    shift_and_lerp,
)
from rwkv_edge.runtime.arch.rwkv4_weights import (
    IN_K,
    IN_R,
    IN_V,
    KEY,
    OUTPUT,
    RECEPTANCE,
    VALUE,
    X_K,
    X_R,
    U,
    W,
    Y,
)
from rwkv_edge.runtime.arch.weights import LN1_B, LN1_W, NORMED, OUT, K, R, V, X
from rwkv_edge.runtime.kernels.barrier import meet
from rwkv_edge.runtime.kernels.elementwise import add, share
from rwkv_edge.runtime.kernels.norms import layer_norm
from rwkv_edge.runtime.kernels.wkv4 import wkv4
from rwkv_edge.runtime.simd.functions import sigmoid_f32x16
from rwkv_edge.runtime.simd.memory import floats_at, load_f32x16, store_f32x16
from rwkv_edge.runtime.simd.reference import by_reference

FLOAT_BYTES = 4


@inline
def wkv4_state(address, n_layer, n_embd):
    """Views of a state: att_x, aa, bb, pp, all (L, C)."""
    shape, n_bytes = (n_layer, n_embd), n_layer * n_embd * FLOAT_BYTES
    att_x = floats_at(address, shape)
    aa = floats_at(address + n_bytes, shape)
    bb = floats_at(address + 2 * n_bytes, shape)
    pp = floats_at(address + 3 * n_bytes, shape)
    return att_x, aa, bb, pp


@kernel
def receive(y, r, first, last):
    """y = sigmoid(r) y, in place."""
    for j in range(first, last, 16):
        store_f32x16(y, j, sigmoid_f32x16(load_f32x16(r, j)) * load_f32x16(y, j))


@kernel
def time_mix(weights, s, batch, layer, sync, thread, n_threads):
    """x += output (sigmoid(r) wkv(k, v)), with r, k, v of layer_norm(x); advances the state."""
    m, p = weights.matrices[layer], weights.vectors[layer]
    n_layer, n_embd = weights.vectors.shape[0], p.shape[1]
    n_tokens, rows, mixed = batch.tokens.size, s.rows, s.mixed
    first, last = share(n_embd, weights.head_unit, thread, n_threads)

    for t in range(n_tokens):
        layer_norm(rows[X, t], p[LN1_W], p[LN1_B], rows[NORMED, t], first, last)
    lerps = p[X_K : X_R + 1]
    for q in range(batch.states.size):
        att_x, _, _, _ = wkv4_state(batch.states[q], n_layer, n_embd)
        start, stop = batch.starts[q], batch.starts[q + 1]
        shift_and_lerp(rows[NORMED], att_x[layer], lerps, mixed.values, start, stop, first, last)
    quantize_for(m[RECEPTANCE], mixed, IN_R, n_tokens, first, last)
    quantize_for(m[KEY], mixed, IN_K, n_tokens, first, last)
    quantize_for(m[VALUE], mixed, IN_V, n_tokens, first, last)
    meet(sync, n_threads)

    multiply_rows(weights, m[RECEPTANCE], mixed, IN_R, n_tokens, rows[R], s, thread, first, last)
    multiply_rows(weights, m[KEY], mixed, IN_K, n_tokens, rows[K], s, thread, first, last)
    multiply_rows(weights, m[VALUE], mixed, IN_V, n_tokens, rows[V], s, thread, first, last)
    # No meeting: a channel's recurrence needs its own r, k and v alone.
    y = mixed.values[Y]
    for q in range(batch.states.size):
        _, aa, bb, pp = wkv4_state(batch.states[q], n_layer, n_embd)
        start, stop = batch.starts[q], batch.starts[q + 1]
        wkv4(
            rows[K], rows[V], p[W], p[U], aa[layer], bb[layer], pp[layer], y,
            start, stop, first, last,
        )  # fmt: skip
    for t in range(n_tokens):
        receive(y[t], rows[R, t], first, last)
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
        gated_channel_mix(w, s, b, layer, sync, thread, n_threads)
    head(w, s, b, sync, thread, n_threads)
    meet(sync, n_threads)
    return True
