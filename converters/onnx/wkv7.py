"""RWKV-7's recurrence: token by token, or where there are many in chunks.

A token passes over the whole state several times, which takes longer than its arithmetic. A chunk
does so once for all its tokens; what these do to one another are products of small matrices, in
which nothing of the state is, so that they are made for all chunks at once.

In a chunk let W_t be the product of the decays up to token t, per channel. S_t diag(1 / W_t) only
grows, by two outer products a token, -u_t b_t^T + v_t k_t^T with b = kk a / W, k = k / W and
u_t = S_{t-1} kk_t. So with q_t = W_{t-1} kk_t

    u_t = S_0 q_t + sum over s < t of (-(b_s q_t) u_s + (k_s q_t) v_s),

a triangular system, whose matrix is known before S_0 is. W is 6e-5 at least after 16 tokens, as no
decay is below exp(-0.607): to be divided by it and multiplied again costs a float nothing.
"""

from functools import partial

import numpy as np

from rwkv_edge.backend import Float32Array
from rwkv_edge.converters.onnx.graph import Value

# Tokens of a chunk, a power of two; so many and more go in chunks, of which the last is filled up.
CHUNK = 16

# What token t takes of token s: column s of row t.
EARLIER = np.tril(np.ones((CHUNK, CHUNK), np.float32), -1)
UP_TO = np.tril(np.ones((CHUNK, CHUNK), np.float32))


def wkv7(is_prompt: Value, n_head: int, head_size: int, *operands: Value) -> tuple[Value, Value]:
    """S = S diag(w) - (S kk) (kk a)^T + v k^T; y = S r; gives S and y, as heads.

    is_prompt: as `goes_in_chunks` gives it. operands: S (H, value, key), and r, log w, k, v, kk and
    kk a, (T, C) each.
    """
    S, y = operands[0].graph.branch(
        is_prompt,
        partial(in_chunks, n_head, head_size),
        partial(token_by_token, n_head, head_size),
        operands,
    )
    return S, y


def goes_in_chunks(tokens: Value) -> Value:
    """Are there enough tokens? One answer for all layers."""
    op = tokens.graph.op
    return op("GreaterOrEqual", op("Shape", tokens), np.array([CHUNK]))


def token_by_token(
    H: int, N: int, S: Value, r: Value, log_w: Value, k: Value, v: Value, kk: Value, kka: Value
) -> list[Value]:
    """Each token passes over the state."""

    def row(z: Value) -> Value:
        return z.reshape(0, H, 1, N)

    def column(z: Value) -> Value:
        return z.reshape(0, H, N, 1)

    def step(
        S: Value, r: Value, w: Value, k: Value, v: Value, kk: Value, kka: Value
    ) -> tuple[list[Value], Value]:
        # Both outer products in one, which spares a pass over S: [-(S kk), v] [kk a; k].
        concat = S.graph.op
        left = concat("Concat", -(S @ kk), v, axis=-1)
        S = S * w + left @ concat("Concat", kka, k, axis=-2)
        return [S], S @ r

    w = S.graph.op("Exp", log_w)
    operands = [column(r), row(w), row(k), column(v), column(kk), row(kka)]
    [S], y = S.graph.scan(step, [S], operands)
    return [S, y.reshape(0, H, N)]


def in_chunks(
    H: int, N: int, S: Value, r: Value, log_w: Value, k: Value, v: Value, kk: Value, kka: Value
) -> list[Value]:
    """Each chunk passes over the state, whose rows are keys here."""
    op = S.graph.op

    def exp(z: Value) -> Value:
        return op("Exp", z)

    def both(one: Value, other: Value) -> Value:
        """(B, 2 CHUNK, H, N): a chunk's rows, and below them its other rows."""
        return op("Concat", one, other, axis=1).reshape(0, 0, H, N)

    # A token of zeros keeps the state as it is.
    n_tokens = op("Shape", r, end=1)
    missing = op("Mod", -n_tokens, np.array([CHUNK]))
    pads = op("Concat", np.array([0, 0]), missing, np.array([0]), axis=0)
    r, log_w, k, v, kk, kka = (
        op("Pad", z, pads).reshape(-1, CHUNK, H * N) for z in (r, log_w, k, v, kk, kka)
    )
    log_W = op("MatMul", UP_TO, log_w)
    W, inverse = exp(log_W), exp(-log_W)
    # B chunks: reads (B, H, 2 CHUNK, N) of q and r, grows (B, H, N, 2 CHUNK) of -b and k.
    reads = both(kk * exp(log_W - log_w), r * W).transpose(0, 2, 1, 3)
    grows = both(-(kka * inverse), k * inverse).transpose(0, 2, 3, 1)
    v = v.reshape(0, 0, H, N).transpose(0, 2, 1, 3)
    W = op("Slice", W, np.array([-1]), np.array([CHUNK]), np.array([1])).reshape(0, H, N, 1)

    seen = np.block([[EARLIER, EARLIER], [UP_TO, UP_TO]])
    within, shown = ((reads @ grows) * seen).split(2, axis=2)
    of_u, of_v = within.split(2, axis=3)
    M = inverse_of_rest(of_u)
    q, r = reads.split(2, axis=2)
    reads = op("Concat", M @ q, r, axis=2)

    def step(
        S: Value, reads: Value, grows: Value, from_v: Value, v: Value, shown: Value, W: Value
    ) -> tuple[list[Value], Value]:
        u, y = (reads @ S).split(2, axis=1)
        uv = S.graph.op("Concat", u + from_v, v, axis=1)
        return [(S + grows @ uv) * W], y + shown @ uv

    operands = [reads, grows, M @ (of_v @ v), v, shown, W]
    [S], y = S.graph.scan(step, [S.transpose(0, 2, 1)], operands)
    y = y.transpose(0, 2, 1, 3).reshape(-1, H, N)
    return [S.transpose(0, 2, 1), op("Slice", y, np.array([0]), n_tokens, np.array([0]))]


def inverse_of_rest(A: Value) -> Value:
    """(I - A)^-1 of matrices (CHUNK, CHUNK) with nothing on the diagonal and above it.

    Blocks on the diagonal first, then twice as large ones: [[P, 0], [R A' P, R]] out of P, R and
    what A has below P.
    """
    M = A * below_blocks(1) + np.eye(CHUNK, dtype=np.float32)
    for size in (1 << i for i in range(1, CHUNK.bit_length() - 1)):
        M = M + M @ (A * below_blocks(size)) @ M
    return M


def below_blocks(size: int) -> Float32Array:
    """(CHUNK, CHUNK): ones where the second of each two blocks of this size takes of the first."""
    block = np.arange(CHUNK) // size
    is_below = (block[:, None] == block + 1) & (block % 2 == 0)
    ones: Float32Array = is_below.astype(np.float32)
    return ones
