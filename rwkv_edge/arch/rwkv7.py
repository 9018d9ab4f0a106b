"""RWKV-7 "Goose" (arXiv 2503.14456): tensors and state.

GGUF names and layouts are llama.cpp's: the six token-shift lerps are fused in the order
r, w, k, v, a, g; low-rank matrices are stored as (out, in); r_k is flat; layer 0 carries
v0, v1, v2 that nothing reads, because llama.cpp asks for them.
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

# Rows of `time_mix_lerp_fused`.
LERPS = ("r", "w", "k", "v", "a", "g")


@dataclass(frozen=True)
class Rwkv7Hyperparameters(Hyperparameters):
    """RWKV-7 adds the ranks of four low-rank MLPs: decay w, rate a, value mix v, gate g."""

    decay_rank: int
    iclr_rank: int
    value_rank: int
    gate_rank: int


class Rwkv7(Architecture):
    """RWKV-7: S = S diag(w) - (S kk) (kk a)^T + v k^T; y = S r."""

    name = "rwkv7"
    versions = ("7",)

    def hyperparameters_from_gguf(
        self, metadata: Mapping[str, object], shapes: Mapping[str, Shape]
    ) -> Rwkv7Hyperparameters:
        """Read the shape out of a GGUF's keys."""
        n_embd = read_count(metadata, f"{self.name}.embedding_length")
        head_size = read_count(metadata, f"{self.name}.wkv.head_size")
        if n_embd % head_size:
            raise FormatError(
                f"{self.name}.embedding_length is {n_embd}, not a multiple of the head size "
                f"{head_size}"
            )

        def rank(name: str) -> int:
            return read_count(metadata, f"{self.name}.attention.{name}_lora_rank")

        return Rwkv7Hyperparameters(
            version=self.versions[-1],
            n_layer=read_count(metadata, f"{self.name}.block_count"),
            n_embd=n_embd,
            n_ffn=read_count(metadata, f"{self.name}.feed_forward_length"),
            n_vocab=require_shape(shapes, "token_embd.weight", 2)[0],
            head_size=head_size,
            decay_rank=rank("decay"),
            iclr_rank=rank("iclr"),
            value_rank=rank("value_residual_mix"),
            gate_rank=rank("gate"),
        )

    def gguf_metadata(self, hyperparameters: Hyperparameters) -> dict[str, int | float | str]:
        """The keys that llama.cpp asks for."""
        hp = as_rwkv7(hyperparameters)
        keys = {
            "context_length": CONTEXT_LENGTH,
            "embedding_length": hp.n_embd,
            "block_count": hp.n_layer,
            "feed_forward_length": hp.n_ffn,
            "attention.layer_norm_epsilon": LAYER_NORM_EPS,
            "attention.head_count": 0,
            "wkv.head_size": hp.head_size,
            "attention.decay_lora_rank": hp.decay_rank,
            "attention.iclr_lora_rank": hp.iclr_rank,
            "attention.value_residual_mix_lora_rank": hp.value_rank,
            "attention.gate_lora_rank": hp.gate_rank,
        }
        return {f"{self.name}.{key}": value for key, value in keys.items()}

    def tensors(self, hyperparameters: Hyperparameters) -> list[TensorSpec]:
        """Every tensor of the file, in file order."""
        hp = as_rwkv7(hyperparameters)
        C, F = hp.n_embd, hp.n_ffn

        def layer(value_rank: int) -> list[LayerTensor]:
            return [
                ("attn_norm.weight", (C,), Role.VECTOR),
                ("attn_norm.bias", (C,), Role.VECTOR),
                ("attn_norm_2.weight", (C,), Role.VECTOR),
                ("attn_norm_2.bias", (C,), Role.VECTOR),
                ("time_mix_lerp_fused.weight", (len(LERPS), 1, 1, C), Role.VECTOR),
                *low_rank("w", C, hp.decay_rank),
                *low_rank("a", C, hp.iclr_rank),
                *low_rank("v", C, value_rank),
                ("time_mix_g1.weight", (hp.gate_rank, C), Role.LORA),
                ("time_mix_g2.weight", (C, hp.gate_rank), Role.LORA),
                ("time_mix_k_k.weight", (C,), Role.VECTOR),
                ("time_mix_k_a.weight", (C,), Role.VECTOR),
                ("time_mix_r_k.weight", (C,), Role.VECTOR),
                ("time_mix_receptance.weight", (C, C), Role.MATRIX),
                ("time_mix_key.weight", (C, C), Role.MATRIX),
                ("time_mix_value.weight", (C, C), Role.MATRIX),
                ("time_mix_ln.weight", (C,), Role.VECTOR),
                ("time_mix_ln.bias", (C,), Role.VECTOR),
                ("time_mix_output.weight", (C, C), Role.MATRIX),
                ("channel_mix_lerp_k.weight", (C,), Role.VECTOR),
                ("channel_mix_key.weight", (F, C), Role.MATRIX),
                ("channel_mix_value.weight", (C, F), Role.MATRIX),
            ]

        # Layer 0's v1 and v2 are padding, which llama.cpp wants in the shape of a1 and a2.
        return whole_model(hp, lambda i: layer(hp.iclr_rank if i == 0 else hp.value_rank))

    def unread(self, hyperparameters: Hyperparameters) -> frozenset[str]:
        """Layer 0 defines the values that later ones mix in, and mixes in none itself."""
        del hyperparameters
        return frozenset(f"blk.0.time_mix_v{i}.weight" for i in range(3))

    def state_shapes(self, hyperparameters: Hyperparameters) -> dict[str, Shape]:
        """att_x and ffn_x: what each layer's token shift saw last; wkv: rows value, columns key."""
        return head_state_shapes(hyperparameters)


def as_rwkv7(hyperparameters: Hyperparameters) -> Rwkv7Hyperparameters:
    """Narrow the type; another version's hyperparameters here are our own bug."""
    assert isinstance(hyperparameters, Rwkv7Hyperparameters)
    return hyperparameters


def low_rank(letter: str, n_embd: int, rank: int) -> list[LayerTensor]:
    """letter0 + letter2 @ f(letter1 @ x): a bias and a low-rank pair, stored (out, in)."""
    return [
        (f"time_mix_{letter}0.weight", (n_embd,), Role.VECTOR),
        (f"time_mix_{letter}1.weight", (rank, n_embd), Role.LORA),
        (f"time_mix_{letter}2.weight", (n_embd, rank), Role.LORA),
    ]
