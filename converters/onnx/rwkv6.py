"""RWKV-6 as its paper states it (arXiv 2404.05892), all tokens of a call at once."""

from rwkv_edge.arch.rwkv6 import LERPS, as_rwkv6
from rwkv_edge.converters.onnx.graph import Value
from rwkv_edge.converters.onnx.layers import ModelGraph
from rwkv_edge.converters.onnx.wkv6 import gated_channel_mix, silu, wkv6


class Rwkv6Graph(ModelGraph):
    """y = r (S + diag(u) k v^T); S = diag(w) S + k v^T; lerps and w depend on the token."""

    def layer(self, layer: int, x: Value, v_first: Value | None) -> tuple[Value, Value | None]:
        """x += time_mix(ln1(x)); x += channel_mix(ln2(x)); halved where weights are scaled so."""
        block = f"blk.{layer}"
        x = x + self.time_mix(layer, self.layer_norm(x, f"{block}.attn_norm"))
        x = x + gated_channel_mix(self, layer, self.layer_norm(x, f"{block}.attn_norm_2"))
        every = as_rwkv6(self.hyperparameters).rescale_every
        if every and (layer + 1) % every == 0:
            x = x * 0.5
        return x, None

    def time_mix(self, layer: int, x: Value) -> Value:
        """(T, C) to (T, C); advances att_x and wkv of the layer."""
        hp, block = as_rwkv6(self.hyperparameters), f"blk.{layer}.time_mix"

        def p(name: str, *shape: int) -> Value:
            return self.vector(f"{block}_{name}.weight", *shape)

        def times(z: Value, name: str, bias: Value | None = None) -> Value:
            return self.product(z, f"{block}_{name}.weight", bias)

        shift = self.token_shift(x, "att_x", layer)
        n_lerps = len(LERPS)
        hidden = self.tanh(times(x + shift * p("lerp_x"), "w1"))
        hidden = self.graph.op("Transpose", hidden.reshape(0, n_lerps, hp.mix_rank), perm=(1, 0, 2))
        lerps = self.products(hidden, f"{block}_w2.weight") + p("lerp_fused", n_lerps, 1, hp.n_embd)
        x_w, x_k, x_v, x_r, x_g = self.lerps(x, shift, lerps, n_lerps)

        r, k, v = times(x_r, "receptance"), times(x_k, "key"), times(x_v, "value")
        w = times(self.tanh(times(x_w, "decay_w1")), "decay_w2", p("decay"))
        w = self.exp(-self.exp(w))
        y = self.group_norm(wkv6(self, layer, r, k, v, w), f"{block}_ln")
        return times(y * silu(times(x_g, "gate")), "output")
