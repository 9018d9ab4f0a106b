"""RWKV-4 as its paper states it (arXiv 2305.13048), one token at a time.

Weights are named as in a checkpoint; a matrix W multiplies as W @ x.
"""

import numpy as np

from rwkv_edge.backend import Float32Array, StateArrays
from rwkv_edge.runtime.reference.base import ReferenceModel, layer_norm, sigmoid


class Rwkv4(ReferenceModel):
    """wkv = (past + e**(u + k) v) / (the same without v); past = e**w past + e**k v."""

    def layer(
        self, layer: int, x: Float32Array, v_first: Float32Array | None, state: StateArrays
    ) -> tuple[Float32Array, Float32Array | None]:
        """x += time_mix(ln1(x)); x += channel_mix(ln2(x))."""

        def weight(name: str) -> Float32Array:
            return self.weights[f"blk.{layer}.{name}"]

        normed = layer_norm(x, weight("attn_norm.weight"), weight("attn_norm.bias"))
        x = x + self.time_mix(layer, normed, state)
        normed = layer_norm(x, weight("attn_norm_2.weight"), weight("attn_norm_2.bias"))
        return x + self.channel_mix(layer, normed, state), v_first

    def time_mix(self, layer: int, x: Float32Array, state: StateArrays) -> Float32Array:
        """(C,) to (C,); advances att_x, aa, bb and pp of the layer."""

        def p(name: str) -> Float32Array:
            return self.weights[f"blk.{layer}.time_mix_{name}.weight"]

        shift = state["att_x"][layer] - x
        state["att_x"][layer] = x
        x_k, x_v, x_r = (x + shift * mu for mu in p("lerp_fused").reshape(3, -1))
        r, k, v = sigmoid(p("receptance") @ x_r), p("key") @ x_k, p("value") @ x_v

        # The past is e**pp aa over e**pp bb: only differences of exponents are ever raised to.
        w, u = p("decay"), p("first")
        aa, bb, pp = (state[name][layer] for name in ("aa", "bb", "pp"))
        top = np.maximum(pp, u + k)
        past, present = np.exp(pp - top), np.exp(u + k - top)
        wkv = (past * aa + present * v) / (past * bb + present)

        top = np.maximum(pp + w, k)
        past, present = np.exp(pp + w - top), np.exp(k - top)
        aa[:] = past * aa + present * v
        bb[:] = past * bb + present
        pp[:] = top
        out: Float32Array = p("output") @ (r * wkv)
        return out

    def channel_mix(self, layer: int, x: Float32Array, state: StateArrays) -> Float32Array:
        """(C,) to (C,); advances ffn_x of the layer."""

        def p(name: str) -> Float32Array:
            return self.weights[f"blk.{layer}.channel_mix_{name}.weight"]

        shift = state["ffn_x"][layer] - x
        state["ffn_x"][layer] = x
        x_k, x_r = x + shift * p("lerp_k"), x + shift * p("lerp_r")
        hidden: Float32Array = np.maximum(p("key") @ x_k, 0) ** 2
        return sigmoid(p("receptance") @ x_r) * (p("value") @ hidden)
