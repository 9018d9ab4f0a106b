"""RWKV-7 as its paper states it (arXiv 2503.14456), one token at a time.

Weights are named as in a checkpoint; a matrix W multiplies as W @ x, low-rank pairs as in a GGUF.
"""

import numpy as np

from rwkv_edge.backend import Float32Array, StateArrays
from rwkv_edge.runtime.reference.base import ReferenceModel, group_norm, layer_norm, sigmoid


class Rwkv7(ReferenceModel):
    """S = S diag(w) - (S kk) (kk a)^T + v k^T; y = S r."""

    def layer(
        self, layer: int, x: Float32Array, v_first: Float32Array | None, state: StateArrays
    ) -> tuple[Float32Array, Float32Array | None]:
        """x += time_mix(ln1(x)); x += channel_mix(ln2(x))."""

        def weight(name: str) -> Float32Array:
            return self.weights[f"blk.{layer}.{name}"]

        normed = layer_norm(x, weight("attn_norm.weight"), weight("attn_norm.bias"))
        out, v_first = self.time_mix(layer, normed, v_first, state)
        x = x + out
        normed = layer_norm(x, weight("attn_norm_2.weight"), weight("attn_norm_2.bias"))
        return x + self.channel_mix(layer, normed, state), v_first

    def time_mix(
        self, layer: int, x: Float32Array, v_first: Float32Array | None, state: StateArrays
    ) -> tuple[Float32Array, Float32Array]:
        """(C,) to (C,); advances att_x and wkv of the layer."""
        H, N = self.hyperparameters.n_head, self.hyperparameters.head_size

        def p(name: str) -> Float32Array:
            return self.weights[f"blk.{layer}.time_mix_{name}.weight"]

        shift = state["att_x"][layer] - x
        state["att_x"][layer] = x
        x_r, x_w, x_k, x_v, x_a, x_g = (x + shift * mu for mu in p("lerp_fused").reshape(6, -1))

        r, k, v = p("receptance") @ x_r, p("key") @ x_k, p("value") @ x_v
        w = np.exp(-np.exp(-0.5) * sigmoid(p("w0") + p("w2") @ np.tanh(p("w1") @ x_w)))
        a = sigmoid(p("a0") + p("a2") @ (p("a1") @ x_a))
        g = p("g2") @ sigmoid(p("g1") @ x_g)
        if v_first is None:
            v_first = v  # layer 0 defines it; any v0, v1, v2 stored there are padding
        else:
            v = v + (v_first - v) * sigmoid(p("v0") + p("v2") @ (p("v1") @ x_v))

        kk = (k * p("k_k")).reshape(H, N)
        kk = kk / np.maximum(np.linalg.norm(kk, axis=1, keepdims=True), 1e-12)
        k = k * (1 + (a - 1) * p("k_a"))

        r, k, v, w, a = (z.astype(np.float32).reshape(H, N) for z in (r, k, v, w, a))
        S = state["wkv"][layer]
        S[:] = (
            S * w[:, None, :]
            - (S @ kk[:, :, None]) * (kk * a)[:, None, :]
            + v[:, :, None] * k[:, None, :]
        )
        y = (S @ r[:, :, None])[:, :, 0]

        bonus = (r * k * p("r_k").reshape(H, N)).sum(axis=1, keepdims=True) * v
        y = group_norm(y, p("ln"), self.weights[f"blk.{layer}.time_mix_ln.bias"])
        return p("output") @ ((y + bonus.reshape(-1)) * g), v_first

    def channel_mix(self, layer: int, x: Float32Array, state: StateArrays) -> Float32Array:
        """(C,) to (C,); advances ffn_x of the layer."""

        def p(name: str) -> Float32Array:
            return self.weights[f"blk.{layer}.channel_mix_{name}.weight"]

        x_k = x + (state["ffn_x"][layer] - x) * p("lerp_k").reshape(-1)
        state["ffn_x"][layer] = x
        hidden: Float32Array = np.maximum(p("key") @ x_k, 0) ** 2
        return p("value") @ hidden
