"""RWKV-7 as its paper states it (arXiv 2503.14456), all tokens of a call at once."""

from functools import cached_property

import numpy as np

from rwkv_edge.arch.rwkv7 import LERPS
from rwkv_edge.converters.onnx.graph import Value
from rwkv_edge.converters.onnx.layers import ModelGraph
from rwkv_edge.converters.onnx.wkv7 import goes_in_chunks, wkv7

# What a decay is at most in magnitude: w = exp(-exp(-0.5) sigmoid(...)).
DECAY_SCALE = float(np.exp(-0.5))
# What the norm of kk is taken for where it is smaller.
LEAST_NORM = 1e-12


class Rwkv7Graph(ModelGraph):
    """S = S diag(w) - (S kk) (kk a)^T + v k^T; y = S r."""

    @cached_property
    def is_prompt(self) -> Value:
        """Are there many tokens? Then the recurrence takes them in chunks."""
        return goes_in_chunks(self.tokens)

    def layer(self, layer: int, x: Value, v_first: Value | None) -> tuple[Value, Value | None]:
        """x += time_mix(ln1(x)); x += channel_mix(ln2(x))."""
        block = f"blk.{layer}"
        out, v_first = self.time_mix(layer, self.layer_norm(x, f"{block}.attn_norm"), v_first)
        x = x + out
        return x + self.channel_mix(layer, self.layer_norm(x, f"{block}.attn_norm_2")), v_first

    def time_mix(self, layer: int, x: Value, v_first: Value | None) -> tuple[Value, Value]:
        """(T, C) to (T, C); advances att_x and wkv of the layer."""
        hp = self.hyperparameters
        block = f"blk.{layer}.time_mix"

        def p(name: str, *shape: int) -> Value:
            return self.vector(f"{block}_{name}.weight", *shape)

        def times(z: Value, name: str, bias: Value | None = None) -> Value:
            return self.product(z, f"{block}_{name}.weight", bias)

        shift = self.token_shift(x, "att_x", layer)
        mu = p("lerp_fused", len(LERPS), 1, hp.n_embd)
        x_r, x_w, x_k, x_v, x_a, x_g = self.lerps(x, shift, mu, len(LERPS))

        r, k, v = times(x_r, "receptance"), times(x_k, "key"), times(x_v, "value")
        log_w = self.sigmoid(times(self.tanh(times(x_w, "w1")), "w2", p("w0"))) * -DECAY_SCALE
        a = self.sigmoid(times(times(x_a, "a1"), "a2", p("a0")))
        g = times(self.sigmoid(times(x_g, "g1")), "g2")
        if v_first is None:
            v_first = v  # layer 0 defines it; any v0, v1, v2 stored there are padding
        else:
            v = v + (v_first - v) * self.sigmoid(times(times(x_v, "v1"), "v2", p("v0")))

        kk = self.heads(k * p("k_k"))
        norm = self.graph.op("ReduceL2", kk, np.array([-1]), keepdims=1)
        kk = kk / self.graph.op("Max", norm, LEAST_NORM)
        k = k * (a * p("k_a") + (-p("k_a") + 1.0))

        y = self.wkv(layer, r, log_w, k, v, kk, kk * self.heads(a))
        y = self.group_norm(y, f"{block}_ln")
        rk = self.heads(r * k * p("r_k"))
        bonus = self.graph.op("ReduceSum", rk, np.array([-1]), keepdims=1) * self.heads(v)
        return times((y + bonus.reshape(0, hp.n_embd)) * g, "output"), v_first

    def wkv(
        self, layer: int, r: Value, log_w: Value, k: Value, v: Value, kk: Value, kka: Value
    ) -> Value:
        """The recurrence: (T, C) each, kk and kk a as heads; y as heads. Advances the state."""
        H, N = self.hyperparameters.n_head, self.hyperparameters.head_size
        # No layer axis before the heads.
        S = self.state("wkv", layer).reshape(H, N, N)
        flat = (z.reshape(0, H * N) for z in (kk, kka))
        S, y = wkv7(self.is_prompt, H, N, S, r, log_w, k, v, *flat)
        self.set_state("wkv", layer, S.reshape(1, H, N, N))
        return y

    def channel_mix(self, layer: int, x: Value) -> Value:
        """(T, C) to (T, C); advances ffn_x of the layer."""
        block = f"blk.{layer}.channel_mix"
        shift = self.token_shift(x, "ffn_x", layer)
        x_k = x + shift * self.vector(f"{block}_lerp_k.weight")
        hidden = self.relu_squared(self.product(x_k, f"{block}_key.weight"))
        return self.product(hidden, f"{block}_value.weight")
