"""What RWKV-5 and 6 share: their recurrence and their channel mix (arXiv 2404.05892).

RWKV-4 has the same channel mix.
"""

import numpy as np

from rwkv_edge.converters.onnx.graph import Value
from rwkv_edge.converters.onnx.layers import ModelGraph


def wkv6(
    model: ModelGraph, layer: int, r: Value, k: Value, v: Value, w: Value | None = None
) -> Value:
    """y = r (S + diag(u) k v^T); S = diag(w) S + k v^T; (T, C) each, y as heads.

    w: the decay itself; None for RWKV-5's, which is the same for all tokens. Advances wkv.
    """
    H, N = model.hyperparameters.n_head, model.hyperparameters.head_size
    block = f"blk.{layer}.time_mix"

    def row(z: Value) -> Value:
        return model.heads(z, H, 1, N)

    def column(z: Value) -> Value:
        return model.heads(z, H, N, 1)

    operands = [row(r), column(k), row(v)]
    if w is None:
        # onnxruntime computes it once, while it loads.
        decay = model.exp(-model.exp(model.vector(f"{block}_decay.weight", H, N, 1)))
    else:
        decay = w
        operands.append(column(w))

    def step(S: Value, r: Value, k: Value, v: Value, w: Value = decay) -> tuple[list[Value], Value]:
        return [S * w + k @ v], r @ S

    # The body sees no layer axis before the heads.
    S = model.state("wkv", layer).reshape(H, N, N)
    [S], y = model.graph.scan(step, [S], operands)
    model.set_state("wkv", layer, S.reshape(1, H, N, N))

    # What u adds needs no matrix: r diag(u) k v^T is a number times v, for all tokens at once.
    u = model.vector(f"{block}_first.weight", H * N)
    ruk = model.graph.op("ReduceSum", model.heads(r * k * u), np.array([-1]), keepdims=1)
    return model.heads(y) + ruk * model.heads(v)


def silu(x: Value) -> Value:
    """x sigmoid(x)."""
    return x * x.graph.op("Sigmoid", x)


def gated_channel_mix(model: ModelGraph, layer: int, x: Value) -> Value:
    """sigmoid(receptance x_r) (value relu(key x_k) ** 2), (T, C) to (T, C); advances ffn_x."""
    block = f"blk.{layer}.channel_mix"

    def times(z: Value, name: str) -> Value:
        return model.product(z, f"{block}_{name}.weight")

    shift = model.token_shift(x, "ffn_x", layer)
    x_k, x_r = (x + shift * model.vector(f"{block}_lerp_{letter}.weight") for letter in "kr")
    hidden = model.relu_squared(times(x_k, "key"))
    return model.sigmoid(times(x_r, "receptance")) * times(hidden, "value")
