"""RWKV-4 "Dove" (arXiv 2305.13048): tensors and state.

llama.cpp has no such architecture: the GGUF is this project's own, with llama.cpp's names and
layouts as far as it has them for later versions. Token shifts are lerps, x + (previous - x) lerp;
those of the time mix are fused in the order k, v, r. time_mix_decay holds w = -exp(time_decay),
which is added to a logarithm, not what the checkpoint stores.
"""

from collections.abc import Mapping

from rwkv_edge.arch.base import (
    Architecture,
    LayerTensor,
    Role,
    Shape,
    TensorSpec,
    whole_model,
)
from rwkv_edge.arch.gguf_keys import CONTEXT_LENGTH, read_count, require_shape
from rwkv_edge.hyperparameters import LAYER_NORM_EPS, Hyperparameters

# Rows of `time_mix_lerp_fused`.
LERPS = ("k", "v", "r")
# Sums of the past are multiples of e**pp; before the first token there is no past, and no larger
# exponent may ever be chosen for its sake.
INITIAL_PP = -1e30


class Rwkv4(Architecture):
    """RWKV-4: wkv = (sum of e**(w (t - i) + k_i) v_i) / (the same without v_i), each channel alone.

    It has no heads: `head_size` is n_embd, `n_head` 1.
    """

    name = "rwkv4"
    versions = ("4",)

    def hyperparameters_from_gguf(
        self, metadata: Mapping[str, object], shapes: Mapping[str, Shape]
    ) -> Hyperparameters:
        """Read the shape out of a GGUF's keys."""
        n_embd = read_count(metadata, "rwkv4.embedding_length")
        return Hyperparameters(
            version="4",
            n_layer=read_count(metadata, "rwkv4.block_count"),
            n_embd=n_embd,
            n_ffn=read_count(metadata, "rwkv4.feed_forward_length"),
            n_vocab=require_shape(shapes, "token_embd.weight", 2)[0],
            head_size=n_embd,
        )

    def gguf_metadata(self, hyperparameters: Hyperparameters) -> dict[str, int | float | str]:
        """The keys that other versions have, but for those of heads."""
        hp = hyperparameters
        return {
            "rwkv4.context_length": CONTEXT_LENGTH,
            "rwkv4.embedding_length": hp.n_embd,
            "rwkv4.block_count": hp.n_layer,
            "rwkv4.feed_forward_length": hp.n_ffn,
            "rwkv4.attention.layer_norm_epsilon": LAYER_NORM_EPS,
            "rwkv4.attention.head_count": 0,
        }

    def tensors(self, hyperparameters: Hyperparameters) -> list[TensorSpec]:
        """Every tensor of the file, in file order."""
        hp = hyperparameters
        C, F = hp.n_embd, hp.n_ffn
        layer: list[LayerTensor] = [
            ("attn_norm.weight", (C,), Role.VECTOR),
            ("attn_norm.bias", (C,), Role.VECTOR),
            ("attn_norm_2.weight", (C,), Role.VECTOR),
            ("attn_norm_2.bias", (C,), Role.VECTOR),
            ("time_mix_lerp_fused.weight", (len(LERPS), 1, 1, C), Role.VECTOR),
            ("time_mix_decay.weight", (C,), Role.VECTOR),
            ("time_mix_first.weight", (C,), Role.VECTOR),
            ("time_mix_key.weight", (C, C), Role.MATRIX),
            ("time_mix_value.weight", (C, C), Role.MATRIX),
            ("time_mix_receptance.weight", (C, C), Role.MATRIX),
            ("time_mix_output.weight", (C, C), Role.MATRIX),
            ("channel_mix_lerp_k.weight", (C,), Role.VECTOR),
            ("channel_mix_lerp_r.weight", (C,), Role.VECTOR),
            ("channel_mix_key.weight", (F, C), Role.MATRIX),
            ("channel_mix_receptance.weight", (C, C), Role.MATRIX),
            ("channel_mix_value.weight", (C, F), Role.MATRIX),
        ]
        return whole_model(hp, lambda _: layer)

    def state_shapes(self, hyperparameters: Hyperparameters) -> dict[str, Shape]:
        """att_x and ffn_x: what each layer's token shift saw last.

        The sums over the past are e**pp aa, with values, and e**pp bb, without.
        """
        shape = (hyperparameters.n_layer, hyperparameters.n_embd)
        return dict.fromkeys(("att_x", "aa", "bb", "pp", "ffn_x"), shape)

    def state_initial_value(self, array_name: str) -> float:
        """Nothing seen: zeros, and the smallest exponent."""
        return INITIAL_PP if array_name == "pp" else 0.0
