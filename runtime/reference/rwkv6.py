"""RWKV-6 as its paper states it (arXiv 2404.05892), one token at a time.

A matrix W multiplies as W @ x, low-rank pairs as in a GGUF.
"""

import numpy as np

from rwkv_edge.arch.rwkv6 import LERPS, as_rwkv6
from rwkv_edge.backend import Float32Array, StateArrays
from rwkv_edge.runtime.reference.base import ReferenceModel, group_norm, layer_norm
from rwkv_edge.runtime.reference.wkv6 import gated_channel_mix, silu, wkv6


class Rwkv6(ReferenceModel):
    """y = r (S + diag(u) k v^T); S = diag(w) S + k v^T; lerps and w depend on the token."""

    def layer(
        self, layer: int, x: Float32Array, v_first: Float32Array | None, state: StateArrays
    ) -> tuple[Float32Array, Float32Array | None]:
        """x += time_mix(ln1(x)); x += channel_mix(ln2(x)); halved where weights are scaled so."""

        def weight(name: str) -> Float32Array:
            return self.weights[f"blk.{layer}.{name}"]

        normed = layer_norm(x, weight("attn_norm.weight"), weight("attn_norm.bias"))
        x = x + self.time_mix(layer, normed, state)
        normed = layer_norm(x, weight("attn_norm_2.weight"), weight("attn_norm_2.bias"))
        x = x + gated_channel_mix(self, layer, normed, state)
        every = as_rwkv6(self.hyperparameters).rescale_every
        if every and (layer + 1) % every == 0:
            x = np.float32(0.5) * x
        return x, v_first

    def time_mix(self, layer: int, x: Float32Array, state: StateArrays) -> Float32Array:
        """(C,) to (C,); advances att_x and wkv of the layer."""
        H, N = self.hyperparameters.n_head, self.hyperparameters.head_size

        def p(name: str) -> Float32Array:
            return self.weights[f"blk.{layer}.time_mix_{name}.weight"]

        shift = state["att_x"][layer] - x
        state["att_x"][layer] = x
        hidden = np.tanh(p("w1") @ (x + shift * p("lerp_x").reshape(-1)))
        lerps = (p("w2") @ hidden.reshape(len(LERPS), -1, 1))[:, :, 0]
        lerps = lerps + p("lerp_fused").reshape(len(LERPS), -1)
        x_w, x_k, x_v, x_r, x_g = x + shift * lerps

        r, k, v = p("receptance") @ x_r, p("key") @ x_k, p("value") @ x_v
        g = silu(p("gate") @ x_g)
        w = np.exp(-np.exp(p("decay").reshape(-1) + p("decay_w2") @ np.tanh(p("decay_w1") @ x_w)))
        r, k, v, w, u = (z.astype(np.float32).reshape(H, N) for z in (r, k, v, w, p("first")))
        y = wkv6(r, w, k, v, u, state["wkv"][layer])
        y = group_norm(y, p("ln"), self.weights[f"blk.{layer}.time_mix_ln.bias"])
        return p("output") @ (y * g)
