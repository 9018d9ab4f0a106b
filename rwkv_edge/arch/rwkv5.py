"""RWKV-5 "Eagle" (arXiv 2404.05892) in its three stages: tensors and state.

5.0 has no gate, and one decay a head; 5.1 has a gate; 5.2 has one decay a channel. llama.cpp does
not know this architecture: its files follow the names and layouts of `rwkv6`, and hold numbers as
RWKV-6 would: a lerp weighs the previous token, decay and first are one number a channel, decay
before exp(-exp(...)) and first as it multiplies.
"""

from collections.abc import Mapping

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
from rwkv_edge.errors import FormatError, shown
from rwkv_edge.hyperparameters import LAYER_NORM_EPS, Hyperparameters

# Rows of `time_mix_lerp_fused`.
LERPS = {
    "5.0": ("k", "v", "r"),
    "5.1": ("k", "v", "r", "g"),
    "5.2": ("k", "v", "r", "g"),
}


class Rwkv5(Architecture):
    """RWKV-5: y = r (S + diag(u) k v^T); S = diag(w) S + k v^T."""

    name = "rwkv5"
    versions = tuple(LERPS)

    def hyperparameters_from_gguf(
        self, metadata: Mapping[str, object], shapes: Mapping[str, Shape]
    ) -> Hyperparameters:
        """Read the shape out of a GGUF's keys."""
        version = metadata.get("rwkv5.version")
        if not isinstance(version, str) or version not in LERPS:
            raise FormatError(
                f"key rwkv5.version is {shown(version)}; it may be {' or '.join(LERPS)}"
            )
        n_embd = read_count(metadata, "rwkv5.embedding_length")
        head_size = read_count(metadata, "rwkv5.wkv.head_size")
        if n_embd % head_size:
            raise FormatError(
                f"rwkv5.embedding_length is {n_embd}, not a multiple of the head size {head_size}"
            )
        return Hyperparameters(
            version=version,
            n_layer=read_count(metadata, "rwkv5.block_count"),
            n_embd=n_embd,
            n_ffn=read_count(metadata, "rwkv5.feed_forward_length"),
            n_vocab=require_shape(shapes, "token_embd.weight", 2)[0],
            head_size=head_size,
        )

    def gguf_metadata(self, hyperparameters: Hyperparameters) -> dict[str, int | float | str]:
        """The `rwkv5.*` keys."""
        hp = hyperparameters
        return {
            "rwkv5.version": hp.version,
            "rwkv5.context_length": CONTEXT_LENGTH,
            "rwkv5.embedding_length": hp.n_embd,
            "rwkv5.block_count": hp.n_layer,
            "rwkv5.feed_forward_length": hp.n_ffn,
            "rwkv5.attention.layer_norm_epsilon": LAYER_NORM_EPS,
            "rwkv5.attention.head_count": 0,
            "rwkv5.wkv.head_size": hp.head_size,
        }

    def tensors(self, hyperparameters: Hyperparameters) -> list[TensorSpec]:
        """Every tensor of the file, in file order."""
        hp = hyperparameters
        C, F = hp.n_embd, hp.n_ffn
        gate: list[LayerTensor] = [("time_mix_gate.weight", (C, C), Role.MATRIX)]
        layer: list[LayerTensor] = [
            ("attn_norm.weight", (C,), Role.VECTOR),
            ("attn_norm.bias", (C,), Role.VECTOR),
            ("attn_norm_2.weight", (C,), Role.VECTOR),
            ("attn_norm_2.bias", (C,), Role.VECTOR),
            ("time_mix_lerp_fused.weight", (len(LERPS[hp.version]), 1, 1, C), Role.VECTOR),
            ("time_mix_first.weight", (hp.n_head, hp.head_size), Role.VECTOR),
            ("time_mix_decay.weight", (C,), Role.VECTOR),
            ("time_mix_key.weight", (C, C), Role.MATRIX),
            ("time_mix_value.weight", (C, C), Role.MATRIX),
            ("time_mix_receptance.weight", (C, C), Role.MATRIX),
            *(gate if is_gated(hp) else []),
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

    def state_shapes(self, hyperparameters: Hyperparameters) -> dict[str, Shape]:
        """att_x and ffn_x: what each layer's token shift saw last; wkv: rows key, columns value."""
        return head_state_shapes(hyperparameters)


def is_gated(hyperparameters: Hyperparameters) -> bool:
    """Has the time mix a gate?"""
    return "g" in LERPS[hyperparameters.version]
