"""What several versions of RWKV share: embedding, token shift, channel mixes, head.

Kernels are run by every thread of a team at once; each thread takes its share of rows or
channels, and they meet where one needs what another computed. One token and many follow the same
lines.
"""

from rwkv_edge.jit import inline, kernel
from rwkv_edge.runtime.arch.weights import (
    FFN_KEY,
    FFN_RECEPTANCE,
    FFN_VALUE,
    FFN_X_K,
    LN0_B,
    LN0_W,
    LN2_B,
    LN2_W,
    LN_OUT_B,
    LN_OUT_W,
    NORMED,
    OUT,
    R,
    X,
)
from rwkv_edge.runtime.kernels.activations import quantize_rows, slot
from rwkv_edge.runtime.kernels.barrier import meet
from rwkv_edge.runtime.kernels.columns import list_active, list_active_values
from rwkv_edge.runtime.kernels.elementwise import (
    add,
    add_product,
    copy,
    halve,
    lerp,
    relu_squared,
    share,
    sigmoid,
)
from rwkv_edge.runtime.kernels.embedding import decode_row
from rwkv_edge.runtime.kernels.matmul import matmul, takes_codes
from rwkv_edge.runtime.kernels.norms import layer_norm
from rwkv_edge.runtime.kernels.panel import PANEL_TOKENS
from rwkv_edge.runtime.simd.memory import floats_at
from rwkv_edge.runtime.simd.reference import by_value

# Rows are shared out by blocks of quantized activations, so that no two threads meet in one.
ROW_UNIT = 32
# Slots of `Scratch.mixed` that the channel mix and the head use, which come after the time mix.
IN_FFN_K, IN_FFN_R = range(2)
IN_HEAD = 0


@inline
def wkv_state(address, n_layer, n_head, head_size):
    """Views of a state with a matrix for each head: att_x (L, C), wkv (L, H, key, value)."""
    n_embd = n_head * head_size
    att_x = floats_at(address, (n_layer, n_embd))
    shape = (n_layer, n_head, head_size, head_size)
    return att_x, floats_at(address + n_layer * n_embd * 4, shape)


@kernel
def multiply_share(weights, matrix, slots, i, n_tokens, y, s, thread, n_threads):
    """y = x W^T in this thread's share of the rows; gives (first, last) of it.

    x: slot i of `slots`, some `Activations`; s: the scratch.
    """
    first, last = share(matrix.n_rows, matrix.row_unit, thread, n_threads)
    multiply_rows(weights, matrix, slots, i, n_tokens, y, s, thread, first, last)
    return first, last


@kernel
def multiply_rows(weights, matrix, slots, i, n_tokens, y, s, thread, first, last):
    """y = x W^T in the rows first to last. x: slot i of `slots`; s: the scratch."""
    x, active = slot(slots, i), by_value(s.active)
    matmul(weights.arena, matrix, x, active, n_tokens, y, first, last, s.panels[thread])


@kernel
def embed(weights, tokens, x, thread, n_threads):
    """x = layer norm 0 of the embedding; tokens are dealt out to the threads."""
    ends, n_embd = weights.ends, weights.ends.shape[1]
    for t in range(thread, tokens.size, n_threads):
        decode_row(weights.embedding[tokens[t]], weights.embedding_decoder, x[t], n_embd)
        layer_norm(x[t], ends[LN0_W], ends[LN0_B], x[t], 0, n_embd)


@kernel
def quantize_for(matrix, slots, i, n_tokens, first, last):
    """Prepare columns first to last of a slot for the matrix that multiplies it, if with codes."""
    if takes_codes(matrix):
        quantize_rows(slot(slots, i), n_tokens, first, last)


@kernel
def shift_and_lerp(x, x_state, lerps, mixed, start, stop, first, last):
    """mixed[i] = x + (x_previous - x) lerps[i] for one sequence; x_state takes its last x."""
    for t in range(start, stop):
        previous = x_state if t == start else x[t - 1]
        for i in range(lerps.shape[0]):
            lerp(x[t], previous, lerps[i], mixed[i, t], first, last)
    copy(x[stop - 1], x_state, first, last)


@kernel
def halve_after(weights, x, layer, n_tokens, first, last):
    """x = x / 2 after every so many layers, for weights that are scaled to match."""
    if weights.rescale_every > 0 and (layer + 1) % weights.rescale_every == 0:
        for t in range(n_tokens):
            halve(x[t], first, last)


@kernel
def mix_into_ffn(weights, s, batch, layer, n_mixed, first, last):
    """x_k, and x_r where there are two, lerped from layer_norm(x); advances ffn_x."""
    p = weights.vectors[layer]
    n_layer, n_embd = weights.vectors.shape[0], p.shape[1]
    for t in range(batch.tokens.size):
        layer_norm(s.rows[X, t], p[LN2_W], p[LN2_B], s.rows[NORMED, t], first, last)
    lerps, mixed = p[FFN_X_K : FFN_X_K + n_mixed], s.mixed.values[IN_FFN_K : IN_FFN_K + n_mixed]
    for q in range(batch.states.size):
        ffn_x = floats_at(batch.states[q] + weights.ffn_offset, (n_layer, n_embd))[layer]
        start, stop = batch.starts[q], batch.starts[q + 1]
        shift_and_lerp(s.rows[NORMED], ffn_x, lerps, mixed, start, stop, first, last)


@kernel
def ffn_hidden(weights, s, layer, n_tokens, thread, n_threads):
    """relu(key x_k) ** 2 in this thread's share, ready for value."""
    first, last = squared_keys(weights, s, layer, n_tokens, thread, n_threads)
    prepare_hidden(weights, s, layer, n_tokens, first, last)


@kernel
def squared_keys(weights, s, layer, n_tokens, thread, n_threads):
    """relu(key x_k) ** 2 in this thread's share; gives (first, last) of it."""
    matrix, k = weights.matrices[layer, FFN_KEY], s.ffn_hidden.values[0]
    first, last = multiply_share(
        weights, matrix, s.mixed, IN_FFN_K, n_tokens, k, s, thread, n_threads
    )
    for t in range(n_tokens):
        relu_squared(k[t], first, last)
    return first, last


@kernel
def prepare_hidden(weights, s, layer, n_tokens, first, last):
    """Quantize columns first to last for value, if it takes codes, and list those not zero."""
    matrix, hidden = weights.matrices[layer, FFN_VALUE], s.ffn_hidden
    quantize_for(matrix, hidden, 0, n_tokens, first, last)
    if n_tokens < PANEL_TOKENS:
        active = by_value(s.active)
        for t in range(n_tokens):
            if takes_codes(matrix):
                list_active(hidden.codes[0, t], active, t, matrix.part_len, first, last)
            else:
                list_active_values(hidden.values[0, t], active, t, first, last)


@kernel
def channel_mix(weights, s, batch, layer, sync, thread, n_threads):
    """x += value relu(key x_k) ** 2 with x_k lerped from layer_norm(x); advances ffn_x."""
    m, rows = weights.matrices[layer], s.rows
    n_tokens, n_embd = batch.tokens.size, weights.vectors.shape[2]
    first, last = share(n_embd, weights.head_unit, thread, n_threads)
    mix_into_ffn(weights, s, batch, layer, 1, first, last)
    quantize_for(m[FFN_KEY], s.mixed, IN_FFN_K, n_tokens, first, last)
    meet(sync, n_threads)

    ffn_hidden(weights, s, layer, n_tokens, thread, n_threads)
    meet(sync, n_threads)

    first, last = multiply_share(
        weights, m[FFN_VALUE], s.ffn_hidden, 0, n_tokens, rows[OUT], s, thread, n_threads
    )
    for t in range(n_tokens):
        add(rows[X, t], rows[OUT, t], first, last)
    meet(sync, n_threads)


@kernel
def gated_channel_mix(weights, s, batch, layer, sync, thread, n_threads):
    """x += sigmoid(receptance x_r) (value relu(key x_k) ** 2); advances ffn_x. RWKV-4 to 6."""
    m, rows = weights.matrices[layer], s.rows
    n_tokens, n_embd = batch.tokens.size, weights.vectors.shape[2]
    first, last = share(n_embd, weights.head_unit, thread, n_threads)
    mix_into_ffn(weights, s, batch, layer, 2, first, last)
    quantize_for(m[FFN_KEY], s.mixed, IN_FFN_K, n_tokens, first, last)
    quantize_for(m[FFN_RECEPTANCE], s.mixed, IN_FFN_R, n_tokens, first, last)
    meet(sync, n_threads)

    first, last = multiply_share(
        weights, m[FFN_RECEPTANCE], s.mixed, IN_FFN_R, n_tokens, rows[R], s, thread, n_threads
    )
    for t in range(n_tokens):
        sigmoid(rows[R, t], first, last)
    ffn_hidden(weights, s, layer, n_tokens, thread, n_threads)
    meet(sync, n_threads)

    first, last = multiply_share(
        weights, m[FFN_VALUE], s.ffn_hidden, 0, n_tokens, rows[OUT], s, thread, n_threads
    )
    for t in range(n_tokens):
        add_product(rows[X, t], rows[R, t], rows[OUT, t], first, last)
    halve_after(weights, rows[X], layer, n_tokens, first, last)
    meet(sync, n_threads)


@kernel
def head(weights, s, batch, sync, thread, n_threads):
    """logits = head(layer_norm(x)) for the tokens that are asked for."""
    n_rows, n_embd = batch.logit_rows.size, weights.ends.shape[1]
    if n_rows == 0:
        return
    first, last = share(n_embd, weights.head_unit, thread, n_threads)
    scale, bias = weights.ends[LN_OUT_W], weights.ends[LN_OUT_B]
    for n in range(n_rows):
        row = s.rows[X, batch.logit_rows[n]]
        layer_norm(row, scale, bias, s.mixed.values[IN_HEAD, n], first, last)
    matrix = weights.head[0]
    quantize_for(matrix, s.mixed, IN_HEAD, n_rows, first, last)
    meet(sync, n_threads)
    multiply_share(weights, matrix, s.mixed, IN_HEAD, n_rows, batch.logits, s, thread, n_threads)
