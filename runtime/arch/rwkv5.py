"""RWKV-5: how tokens pass through the weights. Source: arXiv 2404.05892, section 3.

One call of `forward` takes a block of tokens of one or more sequences through the whole model. It
is run by every thread of a team at once; each thread takes its share of rows or heads, and they
meet where one needs what another computed. One token and many follow the same lines.
"""

from rwkv_edge.jit import kernel
from rwkv_edge.runtime.arch.gated_heads import G, W, add_heads
from rwkv_edge.runtime.arch.layers import (
    embed,
    gated_channel_mix,
    head,
    multiply_share,
    quantize_for,
    shift_and_lerp,
    wkv_state,
)
from rwkv_edge.runtime.arch.rwkv5_weights import (
    DECAY,
    FIRST,
    GATE,
    IN_G,
    IN_K,
    IN_R,
    IN_V,
    KEY,
    LERP,
    LN_X_B,
    LN_X_W,
    OUTPUT,
    RECEPTANCE,
    VALUE,
    Y,
)
from rwkv_edge.runtime.arch.weights import LN1_B, LN1_W, NORMED, K, R, V, X
from rwkv_edge.runtime.kernels.barrier import meet
from rwkv_edge.runtime.kernels.elementwise import copy, share
from rwkv_edge.runtime.kernels.norms import layer_norm
from rwkv_edge.runtime.simd.reference import by_reference


@kernel
def time_mix(weights, s, batch, layer, sync, thread, n_threads):
    """x += time_mix(layer_norm(x)); advances att_x and wkv of every sequence's state."""
    m, p = weights.matrices[layer], weights.vectors[layer]
    n_layer, head_size = weights.vectors.shape[0], weights.head_size
    n_tokens, n_embd = batch.tokens.size, p.shape[1]
    rows, mixed = s.rows, s.mixed
    is_gated = m.size > GATE
    first, last = share(n_embd, weights.head_unit, thread, n_threads)

    for t in range(n_tokens):
        layer_norm(rows[X, t], p[LN1_W], p[LN1_B], rows[NORMED, t], first, last)
        # The same for every token; later versions have one for each.
        copy(p[DECAY], rows[W, t], first, last)
    for q in range(batch.states.size):
        att_x, _ = wkv_state(batch.states[q], n_layer, n_embd // head_size, head_size)
        start, stop = batch.starts[q], batch.starts[q + 1]
        shift_and_lerp(rows[NORMED], att_x[layer], p[LERP:], mixed.values, start, stop, first, last)
    quantize_for(m[KEY], mixed, IN_K, n_tokens, first, last)
    quantize_for(m[VALUE], mixed, IN_V, n_tokens, first, last)
    quantize_for(m[RECEPTANCE], mixed, IN_R, n_tokens, first, last)
    if is_gated:
        quantize_for(m[GATE], mixed, IN_G, n_tokens, first, last)
    meet(sync, n_threads)

    multiply_share(weights, m[KEY], mixed, IN_K, n_tokens, rows[K], s, thread, n_threads)
    multiply_share(weights, m[VALUE], mixed, IN_V, n_tokens, rows[V], s, thread, n_threads)
    multiply_share(weights, m[RECEPTANCE], mixed, IN_R, n_tokens, rows[R], s, thread, n_threads)
    if is_gated:
        multiply_share(weights, m[GATE], mixed, IN_G, n_tokens, rows[G], s, thread, n_threads)
    meet(sync, n_threads)

    add_heads(
        weights, s, batch, layer, Y, OUTPUT, p[FIRST], p[LN_X_W], p[LN_X_B], is_gated, sync,
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
