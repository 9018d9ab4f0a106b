"""RWKV-7a, RWKV-7 with DeepEmbed, all tokens of a call at once.

Source: RWKV_x070_CMix in the official `rwkv` package, with RWKV_DE_VERSION=1.
"""

from rwkv_edge.arch.rwkv7a import DEEP_EMBED_RANK
from rwkv_edge.converters.onnx.graph import Value
from rwkv_edge.converters.onnx.rwkv7 import Rwkv7Graph


class Rwkv7aGraph(Rwkv7Graph):
    """The channel mix is modulated by a matrix of the token: k (s2 ((s1 x) S) + s0)."""

    def channel_mix(self, layer: int, x: Value) -> Value:
        """(T, C) to (T, C); advances ffn_x of the layer."""
        block, n = f"blk.{layer}.channel_mix", DEEP_EMBED_RANK

        def times(z: Value, name: str, bias: Value | None = None) -> Value:
            return self.product(z, f"{block}_{name}.weight", bias)

        x_k = x + self.token_shift(x, "ffn_x", layer) * self.vector(f"{block}_lerp_k.weight")
        S = self.table_rows(f"{block}_s_emb.weight").reshape(0, n, n)
        small = (times(x, "s1").reshape(0, 1, n) @ S).reshape(0, n)
        modulation = times(small, "s2", self.vector(f"{block}_s0.weight"))
        return times(self.relu_squared(times(x_k, "key")) * modulation, "value")
