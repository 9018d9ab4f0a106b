"""RWKV-4 as its paper states it (arXiv 2305.13048), all tokens of a call at once.

Only the recurrence takes them one after the other.
"""

import numpy as np

from rwkv_edge.arch.rwkv4 import LERPS
from rwkv_edge.converters.onnx.graph import Value
from rwkv_edge.converters.onnx.layers import ModelGraph
from rwkv_edge.converters.onnx.wkv6 import gated_channel_mix


class Rwkv4Graph(ModelGraph):
    """wkv = (past + e**(u + k) v) / (the same without v); past = e**w past + e**k v."""

    def layer(self, layer: int, x: Value, v_first: Value | None) -> tuple[Value, Value | None]:
        """x += time_mix(ln1(x)); x += channel_mix(ln2(x))."""
        block = f"blk.{layer}"
        x = x + self.time_mix(layer, self.layer_norm(x, f"{block}.attn_norm"))
        return x + gated_channel_mix(self, layer, self.layer_norm(x, f"{block}.attn_norm_2")), None

    def time_mix(self, layer: int, x: Value) -> Value:
        """(T, C) to (T, C); advances att_x, aa, bb and pp of the layer."""
        block = f"blk.{layer}.time_mix"

        def times(z: Value, name: str) -> Value:
            return self.product(z, f"{block}_{name}.weight")

        shift = self.token_shift(x, "att_x", layer)
        mu = self.vector(f"{block}_lerp_fused.weight", len(LERPS), 1, self.hyperparameters.n_embd)
        x_k, x_v, x_r = self.lerps(x, shift, mu, len(LERPS))
        r, k, v = self.sigmoid(times(x_r, "receptance")), times(x_k, "key"), times(x_v, "value")
        return times(r * self.wkv(layer, k, v), "output")

    def wkv(self, layer: int, k: Value, v: Value) -> Value:
        """The recurrence, (T, C) each; advances the state.

        A token is added to the sums over the past twice: to be shown, its own weight e**(u + k),
        and to be kept, its own e**k and that of the past e**w. As there are sums with values and
        without, that makes four: one tensor, axes (shown or kept, with values or without, C).
        All are multiples of e**pp: only differences of exponents are ever raised to.
        """
        C, op, block = self.hyperparameters.n_embd, self.graph.op, f"blk.{layer}.time_mix"
        zero = np.zeros((1, 1, C), np.float32)
        w = op("Concat", zero, self.vector(f"{block}_decay.weight", 1, 1, C), axis=0)
        u = op("Concat", self.vector(f"{block}_first.weight", 1, 1, C), zero, axis=0)

        def step(sums: Value, pp: Value, k: Value, v: Value) -> tuple[list[Value], Value]:
            pp = pp + w
            top = sums.graph.op("Max", pp, k)
            sums = self.exp(pp - top) * sums + self.exp(k - top) * v
            shown, kept = sums.split(2)
            return [kept, top.rows(1)], shown

        aa, bb, pp = (self.state(name, layer).reshape(1, 1, C) for name in ("aa", "bb", "pp"))
        exponents = k.reshape(0, 1, 1, C) + u
        # Below each row of values one of ones.
        values = op("Pad", v.reshape(0, 1, C), np.array([0, 0, 0, 0, 1, 0]), 1.0)
        sums = op("Concat", aa, bb, axis=1)
        [sums, pp], shown = self.graph.scan(step, [sums, pp], [exponents, values])

        aa, bb = sums.reshape(2, C).split(2)
        for name, value in (("aa", aa), ("bb", bb), ("pp", pp.reshape(1, C))):
            self.set_state(name, layer, value)
        with_values, without = self.graph.ops("Split", shown, n_outputs=2, axis=2, num_outputs=2)
        return (with_values / without).reshape(0, C)
