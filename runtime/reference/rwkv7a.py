"""RWKV-7a, RWKV-7 with DeepEmbed, one token at a time.

Source: RWKV_x070_CMix in the official `rwkv` package, with RWKV_DE_VERSION=1.
"""

import numpy as np

from rwkv_edge.arch.rwkv7a import DEEP_EMBED_RANK
from rwkv_edge.backend import Float32Array, StateArrays
from rwkv_edge.runtime.reference.base import layer_norm
from rwkv_edge.runtime.reference.rwkv7 import Rwkv7


class Rwkv7a(Rwkv7):
    """The channel mix is modulated by a matrix of the token: k (s2 ((s1 x) S) + s0)."""

    def step(self, token: int, state: StateArrays) -> Float32Array:
        """One token: advances the state in place, gives the residual stream after all layers."""
        x = self.embedding(token)
        v_first: Float32Array | None = None
        for layer in range(self.hyperparameters.n_layer):

            def weight(name: str, layer: int = layer) -> Float32Array:
                return self.weights[f"blk.{layer}.{name}"]

            normed = layer_norm(x, weight("attn_norm.weight"), weight("attn_norm.bias"))
            out, v_first = self.time_mix(layer, normed, v_first, state)
            x = x + out
            normed = layer_norm(x, weight("attn_norm_2.weight"), weight("attn_norm_2.bias"))
            x = x + self.deep_channel_mix(layer, token, normed, state)
        return x

    def deep_channel_mix(
        self, layer: int, token: int, x: Float32Array, state: StateArrays
    ) -> Float32Array:
        """(C,) to (C,); advances ffn_x of the layer."""

        def p(name: str) -> Float32Array:
            return self.weights[f"blk.{layer}.channel_mix_{name}.weight"]

        x_k = x + (state["ffn_x"][layer] - x) * p("lerp_k").reshape(-1)
        state["ffn_x"][layer] = x
        row = self.row_of_table(f"blk.{layer}.channel_mix_s_emb.weight", token)
        S = row.reshape(DEEP_EMBED_RANK, DEEP_EMBED_RANK)
        modulation = p("s2") @ ((p("s1") @ x) @ S) + p("s0")
        hidden: Float32Array = np.maximum(p("key") @ x_k, 0) ** 2 * modulation
        return p("value") @ hidden
