"""The heads of RWKV-5 and 6, from r, k, v, w and gate to what the time mix adds to x."""

from rwkv_edge.jit import kernel
from rwkv_edge.runtime.arch.layers import multiply_share, quantize_for, wkv_state
from rwkv_edge.runtime.arch.weights import OUT, SHARED_ROWS, K, R, V, X
from rwkv_edge.runtime.kernels.barrier import meet
from rwkv_edge.runtime.kernels.elementwise import add, share
from rwkv_edge.runtime.kernels.norms import group_norm
from rwkv_edge.runtime.kernels.wkv6 import wkv6_step
from rwkv_edge.runtime.simd.functions import sigmoid_f32x16
from rwkv_edge.runtime.simd.memory import load_f32x16, store_f32x16

# Rows of `Scratch.rows` beside those of every version: the decay, and the gate before its silu.
(W, G) = range(SHARED_ROWS, SHARED_ROWS + 2)
HEAD_ROWS = SHARED_ROWS + 2


@kernel
def multiply_by_silu(y, g, first, last):
    """y = y silu(g) = y g sigmoid(g)."""
    for j in range(first, last, 16):
        gj = load_f32x16(g, j)
        store_f32x16(y, j, load_f32x16(y, j) * (gj * sigmoid_f32x16(gj)))


@kernel
def wkv_of_head(rows, y, u, ln_x_w, ln_x_b, is_gated, state, start, stop, first, last):
    """One head over the tokens of one sequence: y = group_norm(wkv) silu(g)."""
    for t in range(start, stop):
        wkv6_step(
            rows[R, t, first:last],
            rows[W, t, first:last],
            rows[K, t, first:last],
            rows[V, t, first:last],
            u[first:last],
            state,
            y[t, first:last],
        )
        group_norm(y[t], ln_x_w, ln_x_b, first, last)
        if is_gated:
            multiply_by_silu(y[t], rows[G, t], first, last)


@kernel
def add_heads(
    weights, s, batch, layer, y, output, u, ln_x_w, ln_x_b, is_gated, sync, thread, n_threads
):
    """x += output y, y from the rows R, W, K, V and G of this thread's heads; advances wkv.

    y: slot of `s.mixed`; output: index of its matrix; u, ln_x_w, ln_x_b: (C,) each.
    """
    rows, head_size = s.rows, weights.head_size
    matrix, values = weights.matrices[layer, output], s.mixed.values[y]
    n_layer, n_embd = weights.vectors.shape[0], weights.vectors.shape[2]
    n_tokens, n_head = batch.tokens.size, n_embd // head_size
    first, last = share(n_embd, weights.head_unit, thread, n_threads)
    for q in range(batch.states.size):
        _, wkv = wkv_state(batch.states[q], n_layer, n_head, head_size)
        start, stop = batch.starts[q], batch.starts[q + 1]
        for h in range(first // head_size, last // head_size):
            j = h * head_size
            state, end = wkv[layer, h], j + head_size
            wkv_of_head(rows, values, u, ln_x_w, ln_x_b, is_gated, state, start, stop, j, end)
    quantize_for(matrix, s.mixed, y, n_tokens, first, last)
    meet(sync, n_threads)

    first, last = multiply_share(
        weights, matrix, s.mixed, y, n_tokens, rows[OUT], s, thread, n_threads
    )
    for t in range(n_tokens):
        add(rows[X, t], rows[OUT, t], first, last)
    meet(sync, n_threads)
