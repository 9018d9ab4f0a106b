"""RWKV-6 "Finch" (arXiv 2404.05892): tensors and state.

GGUF names and layouts are llama.cpp's: the five token-shift lerps are fused in the order
w, k, v, r, g; low-rank matrices are stored as (out, in), those of the five lerps one below the
other. Public files hold weights of later layers divided by powers of two, and say after how many
layers x is to be halved to match (`rescale_every_n_layers`); ours are written without.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rwkv_edge.arch.base import (
    Architecture,
    LayerTensor,
    Role,
    Shape,
    TensorSpec,
    head_state_shapes,
    whole_model,
)
from rwkv_edge.arch.gguf_keys import CONTEXT_LENGTH, read_count, require_shape
from rwkv_edge.errors import FormatError
from rwkv_edge.hyperparameters import LAYER_NORM_EPS, Hyperparameters

# Rows of `time_mix_lerp_fused`, and parts of `time_mix_w1` and `time_mix_w2`.
LERPS = ("w", "k", "v", "r", "g")


@dataclass(frozen=True)
class Rwkv6Hyperparameters(Hyperparameters):
    """RWKV-6 adds the ranks of its low-rank MLPs: that of each lerp, and that of the decay.

    rescale_every: x is halved after every so many layers; 0 for never.
    """

    mix_rank: int
    decay_rank: int
    rescale_every: int = 0


class Rwkv6(Architecture):
    """RWKV-6: y = r (S + diag(u) k v^T); S = diag(w) S + k v^T; w depends on the token."""

    name = "rwkv6"
    versions = ("6",)

    def hyperparameters_from_gguf(
        self, metadata: Mapping[str, object], shapes: Mapping[str, Shape]
    ) -> Rwkv6Hyperparameters:
        """Read the shape out of a GGUF's keys."""
        n_embd = read_count(metadata, "rwkv6.embedding_length")
        head_size = read_count(metadata, "rwkv6.wkv.head_size")
        if n_embd % head_size:
            raise FormatError(
                f"rwkv6.embedding_length is {n_embd}, not a multiple of the head size {head_size}"
            )
        rescale = "rwkv6.rescale_every_n_layers"
        return Rwkv6Hyperparameters(
            version="6",
            n_layer=read_count(metadata, "rwkv6.block_count"),
            n_embd=n_embd,
            n_ffn=read_count(metadata, "rwkv6.feed_forward_length"),
            n_vocab=require_shape(shapes, "token_embd.weight", 2)[0],
            head_size=head_size,
            mix_rank=read_count(metadata, "rwkv6.time_mix_extra_dim"),
            decay_rank=read_count(metadata, "rwkv6.time_decay_extra_dim"),
            # llama.cpp, too, takes a file without it.
            rescale_every=read_count(metadata, rescale, least=0) if rescale in metadata else 0,
        )

    def gguf_metadata(self, hyperparameters: Hyperparameters) -> dict[str, int | float | str]:
        """The `rwkv6.*` keys of llama.cpp."""
        hp = as_rwkv6(hyperparameters)
        return {
            "rwkv6.context_length": CONTEXT_LENGTH,
            "rwkv6.embedding_length": hp.n_embd,
            "rwkv6.block_count": hp.n_layer,
            "rwkv6.feed_forward_length": hp.n_ffn,
            "rwkv6.attention.layer_norm_epsilon": LAYER_NORM_EPS,
            "rwkv6.attention.head_count": 0,
            "rwkv6.wkv.head_size": hp.head_size,
            "rwkv6.time_mix_extra_dim": hp.mix_rank,
            "rwkv6.time_decay_extra_dim": hp.decay_rank,
            "rwkv6.rescale_every_n_layers": hp.rescale_every,
        }

    def tensors(self, hyperparameters: Hyperparameters) -> list[TensorSpec]:
        """Every tensor of the file, in file order."""
        hp = as_rwkv6(hyperparameters)
        C, F = hp.n_embd, hp.n_ffn
        layer: list[LayerTensor] = [
            ("attn_norm.weight", (C,), Role.VECTOR),
            ("attn_norm.bias", (C,), Role.VECTOR),
            ("attn_norm_2.weight", (C,), Role.VECTOR),
            ("attn_norm_2.bias", (C,), Role.VECTOR),
            ("time_mix_lerp_x.weight", (C,), Role.VECTOR),
            ("time_mix_lerp_fused.weight", (len(LERPS), 1, 1, C), Role.VECTOR),
            ("time_mix_w1.weight", (len(LERPS) * hp.mix_rank, C), Role.LORA),
            ("time_mix_w2.weight", (len(LERPS), C, hp.mix_rank), Role.LORA),
            ("time_mix_first.weight", (hp.n_head, hp.head_size), Role.VECTOR),
            ("time_mix_decay.weight", (C,), Role.VECTOR),
            ("time_mix_decay_w1.weight", (hp.decay_rank, C), Role.LORA),
            ("time_mix_decay_w2.weight", (C, hp.decay_rank), Role.LORA),
            ("time_mix_key.weight", (C, C), Role.MATRIX),
            ("time_mix_value.weight", (C, C), Role.MATRIX),
            ("time_mix_receptance.weight", (C, C), Role.MATRIX),
            ("time_mix_gate.weight", (C, C), Role.MATRIX),
            ("time_mix_ln.weight", (C,), Role.VECTOR),
            ("time_mix_ln.bias", (C,), Role.VECTOR),
            ("time_mix_output.weight", (C, C), Role.MATRIX),
            ("channel_mix_lerp_k.weight", (C,), Role.VECTOR),
            ("channel_mix_lerp_r.weight", (C,), Role.VECTOR),
            ("channel_mix_key.weight", (F, C), Role.MATRIX),
            ("channel_mix_value.weight", (C, F), Role.MATRIX),
            ("channel_mix_receptance.weight", (C, C), Role.MATRIX),
        ]
        return whole_model(hp, lambda _: layer)

    def older_parts(self, tensor: str) -> tuple[str, ...]:
        """The five lerps, each by itself."""
        if not tensor.endswith("time_mix_lerp_fused.weight"):
            return ()
        return tuple(tensor.replace("lerp_fused", f"lerp_{letter}") for letter in LERPS)

    def state_shapes(self, hyperparameters: Hyperparameters) -> dict[str, Shape]:
        """att_x and ffn_x: what each layer's token shift saw last; wkv: rows key, columns value."""
        return head_state_shapes(hyperparameters)


def as_rwkv6(hyperparameters: Hyperparameters) -> Rwkv6Hyperparameters:
    """Narrow the type; another version's hyperparameters here are our own bug."""
    assert isinstance(hyperparameters, Rwkv6Hyperparameters)
    return hyperparameters
