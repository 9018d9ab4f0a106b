"""RWKV-5 as its paper states it (arXiv 2404.05892), all tokens of a call at once."""

from rwkv_edge.arch.rwkv5 import LERPS
from rwkv_edge.converters.onnx.graph import Value
from rwkv_edge.converters.onnx.layers import ModelGraph
from rwkv_edge.converters.onnx.wkv6 import gated_channel_mix, silu, wkv6


class Rwkv5Graph(ModelGraph):
    """y = r (S + diag(u) k v^T); S = diag(w) S + k v^T; the first stage had no gate."""

    def layer(self, layer: int, x: Value, v_first: Value | None) -> tuple[Value, Value | None]:
        """x += time_mix(ln1(x)); x += channel_mix(ln2(x))."""
        block = f"blk.{layer}"
        x = x + self.time_mix(layer, self.layer_norm(x, f"{block}.attn_norm"))
        return x + gated_channel_mix(self, layer, self.layer_norm(x, f"{block}.attn_norm_2")), None

    def time_mix(self, layer: int, x: Value) -> Value:
        """(T, C) to (T, C); advances att_x and wkv of the layer."""
        hp, block = self.hyperparameters, f"blk.{layer}.time_mix"

        def times(z: Value, name: str) -> Value:
            return self.product(z, f"{block}_{name}.weight")

        shift = self.token_shift(x, "att_x", layer)
        n_lerps = len(LERPS[hp.version])
        mu = self.vector(f"{block}_lerp_fused.weight", n_lerps, 1, hp.n_embd)
        x_k, x_v, x_r, *x_g = self.lerps(x, shift, mu, n_lerps)
        r, k, v = times(x_r, "receptance"), times(x_k, "key"), times(x_v, "value")
        y = self.group_norm(wkv6(self, layer, r, k, v), f"{block}_ln")
        for gate_input in x_g:
            y = y * silu(times(gate_input, "gate"))
        return times(y, "output")
