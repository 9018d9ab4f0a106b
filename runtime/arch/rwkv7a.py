"""RWKV-7a: RWKV-7 with DeepEmbed. `rwkv7.py` has its time mix; the channel mix is here."""

import numpy as np

from rwkv_edge.arch.rwkv7a import DEEP_EMBED_RANK, TABLE_COLUMNS
from rwkv_edge.jit import kernel
from rwkv_edge.runtime.arch.layers import (
    IN_FFN_K,
    embed,
    head,
    mix_into_ffn,
    multiply_rows,
    multiply_share,
    prepare_hidden,
    quantize_for,
    squared_keys,
)
from rwkv_edge.runtime.arch.rwkv7 import time_mix
from rwkv_edge.runtime.arch.rwkv7a_weights import HIDDEN_S, IN_S, S1, S2
from rwkv_edge.runtime.arch.weights import FFN_KEY, FFN_VALUE, NORMED, OUT, X
from rwkv_edge.runtime.kernels.barrier import meet
from rwkv_edge.runtime.kernels.elementwise import add, copy, share
from rwkv_edge.runtime.kernels.embedding import decode_row
from rwkv_edge.runtime.simd.arithmetic import fma, splat_f32
from rwkv_edge.runtime.simd.memory import bytes_at, load_f32x16, store_f32x16
from rwkv_edge.runtime.simd.reference import by_reference

# Rows of s1 that a thread takes: there are so few that whole blocks of 32 could not be shared.
ROWS_OF_S1 = 16


@kernel
def row_times_matrix(x, S, y):
    """y = x S. x, y: (32,) float32; S: (1024,), row after row; y is overwritten."""
    for j in range(0, DEEP_EMBED_RANK, 16):
        # Two sums side by side: one chain of fused multiply-adds would wait for itself.
        even = odd = splat_f32(np.float32(0))
        for i in range(0, DEEP_EMBED_RANK, 2):
            p = i * DEEP_EMBED_RANK + j
            even = fma(splat_f32(x[i]), load_f32x16(S, p), even)
            odd = fma(splat_f32(x[i + 1]), load_f32x16(S, p + DEEP_EMBED_RANK), odd)
        store_f32x16(y, j, even + odd)


@kernel
def modulate(k, modulation, s0, first, last):
    """k = k (modulation + s0), in place."""
    for j in range(first, last, 16):
        factor = load_f32x16(modulation, j) + load_f32x16(s0, j)
        store_f32x16(k, j, load_f32x16(k, j) * factor)


@kernel
def deep_embed(weights, s, tokens, layer, thread):
    """(s1 x) S of every token: so little that each thread does it for itself and nobody waits."""
    table, S = weights.tables[layer], s.S[thread]
    for t in range(tokens.size):
        row = bytes_at(table.address + tokens[t] * table.row_bytes, (table.row_bytes,))
        decode_row(row, table.decoder, S, TABLE_COLUMNS)
        row_times_matrix(s.shared.hidden.values[HIDDEN_S, t], S, s.deep.values[thread, t])
    matrix = weights.shared.matrices[layer, S2]
    quantize_for(matrix, s.deep, thread, tokens.size, 0, DEEP_EMBED_RANK)


@kernel
def deep_channel_mix(weights, s, batch, layer, sync, thread, n_threads):
    """x += value (relu(key x_k) ** 2 (s2 ((s1 x) S) + s0)), of layer_norm(x); advances ffn_x."""
    shared, scratch = weights.shared, s.shared
    m, rows, mixed = shared.matrices[layer], scratch.rows, scratch.mixed
    n_tokens, n_embd = batch.tokens.size, shared.vectors.shape[2]
    first, last = share(n_embd, shared.head_unit, thread, n_threads)
    mix_into_ffn(shared, scratch, batch, layer, 1, first, last)
    for t in range(n_tokens):
        copy(rows[NORMED, t], mixed.values[IN_S, t], first, last)
    quantize_for(m[FFN_KEY], mixed, IN_FFN_K, n_tokens, first, last)
    quantize_for(m[S1], mixed, IN_S, n_tokens, first, last)
    meet(sync, n_threads)

    first, last = share(m[S1].n_rows, ROWS_OF_S1, thread, n_threads)
    hidden = scratch.hidden.values[HIDDEN_S]
    multiply_rows(shared, m[S1], mixed, IN_S, n_tokens, hidden, scratch, thread, first, last)
    first, last = squared_keys(shared, scratch, layer, n_tokens, thread, n_threads)
    meet(sync, n_threads)

    deep_embed(weights, s, batch.tokens, layer, thread)
    y = s.modulation
    multiply_rows(shared, m[S2], s.deep, thread, n_tokens, y, scratch, thread, first, last)
    for t in range(n_tokens):
        modulate(scratch.ffn_hidden.values[0, t], y[t], weights.s0[layer], first, last)
    prepare_hidden(shared, scratch, layer, n_tokens, first, last)
    meet(sync, n_threads)

    first, last = multiply_share(
        shared, m[FFN_VALUE], scratch.ffn_hidden, 0, n_tokens, rows[OUT], scratch, thread, n_threads
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
    embed(w.shared, b.tokens, s.shared.rows[X], thread, n_threads)
    meet(sync, n_threads)
    for layer in range(w.shared.vectors.shape[0]):
        time_mix(w.shared, s.shared, b, layer, sync, thread, n_threads)
        deep_channel_mix(w, s, b, layer, sync, thread, n_threads)
    head(w.shared, s.shared, b, sync, thread, n_threads)
    meet(sync, n_threads)
    return True
