"""What RWKV-5 and 6 share: their recurrence and their channel mix (arXiv 2404.05892)."""

import numpy as np

from rwkv_edge.backend import Float32Array, StateArrays
from rwkv_edge.runtime.reference.base import ReferenceModel, sigmoid


def wkv6(
    r: Float32Array,
    w: Float32Array,
    k: Float32Array,
    v: Float32Array,
    u: Float32Array,
    S: Float32Array,
) -> Float32Array:
    """All heads, one token: y = r (S + diag(u) k v^T); S = diag(w) S + k v^T.

    Vectors and y: (H, N). S: (H, key, value); overwritten.
    """
    kv = k[:, :, None] * v[:, None, :]
    y: Float32Array = (r[:, None, :] @ (S + u[:, :, None] * kv))[:, 0]
    S[:] = w[:, :, None] * S + kv
    return y


def silu(x: Float32Array) -> Float32Array:
    """x sigmoid(x)."""
    return x * sigmoid(x)


def gated_channel_mix(
    model: ReferenceModel, layer: int, x: Float32Array, state: StateArrays
) -> Float32Array:
    """sigmoid(receptance x_r) (value relu(key x_k) ** 2), (C,) to (C,); advances ffn_x."""

    def p(name: str) -> Float32Array:
        return model.weights[f"blk.{layer}.channel_mix_{name}.weight"]

    shift = state["ffn_x"][layer] - x
    state["ffn_x"][layer] = x
    x_k, x_r = (x + shift * p(f"lerp_{letter}").reshape(-1) for letter in "kr")
    hidden: Float32Array = np.maximum(p("key") @ x_k, 0) ** 2
    return sigmoid(p("receptance") @ x_r) * (p("value") @ hidden)
