"""RWKV-6 checkpoints, as RWKV-LM saves them, to the tensors of `rwkv_edge.arch.rwkv6`."""

from rwkv_edge.arch.rwkv6 import LERPS, Rwkv6Hyperparameters, as_rwkv6
from rwkv_edge.converters.arch.base import (
    OUTSIDE_BLOCKS,
    AsStored,
    CheckpointReader,
    Shape,
    Shapes,
    Source,
    Stacked,
    Transposed,
    count_layers,
    require_shape,
    whole_checkpoint,
)
from rwkv_edge.errors import FormatError
from rwkv_edge.hyperparameters import Hyperparameters

# GGUF name within a layer: name within a block of the checkpoint.
RENAMED = {
    "attn_norm.weight": "ln1.weight",
    "attn_norm.bias": "ln1.bias",
    "attn_norm_2.weight": "ln2.weight",
    "attn_norm_2.bias": "ln2.bias",
    "time_mix_lerp_x.weight": "att.time_maa_x",
    "time_mix_first.weight": "att.time_faaaa",
    "time_mix_decay.weight": "att.time_decay",
    "time_mix_key.weight": "att.key.weight",
    "time_mix_value.weight": "att.value.weight",
    "time_mix_receptance.weight": "att.receptance.weight",
    "time_mix_gate.weight": "att.gate.weight",
    "time_mix_output.weight": "att.output.weight",
    "time_mix_ln.weight": "att.ln_x.weight",
    "time_mix_ln.bias": "att.ln_x.bias",
    "channel_mix_lerp_k.weight": "ffn.time_maa_k",
    "channel_mix_lerp_r.weight": "ffn.time_maa_r",
    "channel_mix_key.weight": "ffn.key.weight",
    "channel_mix_value.weight": "ffn.value.weight",
    "channel_mix_receptance.weight": "ffn.receptance.weight",
}
# The same, of low-rank matrices.
LOW_RANK = {
    "time_mix_w1.weight": "att.time_maa_w1",
    "time_mix_w2.weight": "att.time_maa_w2",
    "time_mix_decay_w1.weight": "att.time_decay_w1",
    "time_mix_decay_w2.weight": "att.time_decay_w2",
}


class Rwkv6Reader(CheckpointReader):
    """Recognised by `att.time_maa_*`."""

    def hyperparameters(self, shapes: Shapes) -> Rwkv6Hyperparameters:
        """Read the model's shape off its tensors; raises FormatError."""
        n_vocab, n_embd = require_shape(shapes, "emb.weight", 2)
        time_faaaa = require_shape(shapes, "blocks.0.att.time_faaaa", 2)
        n_head = time_faaaa[0]
        if n_embd % n_head:
            raise FormatError(
                f"blocks.0.att.time_faaaa is {list(time_faaaa)}: {n_head} heads do not divide the "
                f"embedding of {n_embd}"
            )
        return Rwkv6Hyperparameters(
            version="6",
            n_layer=count_layers(shapes),
            n_embd=n_embd,
            n_ffn=require_shape(shapes, "blocks.0.ffn.key.weight", 2)[0],
            n_vocab=n_vocab,
            head_size=n_embd // n_head,
            mix_rank=require_shape(shapes, "blocks.0.att.time_maa_w2", 3)[1],
            decay_rank=require_shape(shapes, "blocks.0.att.time_decay_w1", 2)[1],
        )

    def required(self, hyperparameters: Hyperparameters) -> dict[str, Shape]:
        """Every tensor of the checkpoint and its shape."""
        hp = as_rwkv6(hyperparameters)
        C, F = hp.n_embd, hp.n_ffn
        vectors = ("ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias", "att.ln_x.weight",
                   "att.ln_x.bias", "att.time_maa_x",
                   *(f"att.time_maa_{letter}" for letter in LERPS),
                   "att.time_decay", "ffn.time_maa_k", "ffn.time_maa_r")  # fmt: skip
        block: dict[str, Shape] = dict.fromkeys(vectors, (C,))
        block["att.time_faaaa"] = (hp.n_head, hp.head_size)
        block["att.time_maa_w1"] = (C, len(LERPS) * hp.mix_rank)
        block["att.time_maa_w2"] = (len(LERPS), hp.mix_rank, C)
        block["att.time_decay_w1"] = (C, hp.decay_rank)
        block["att.time_decay_w2"] = (hp.decay_rank, C)
        for name in ("receptance", "key", "value", "gate", "output"):
            block[f"att.{name}.weight"] = (C, C)
        block["ffn.key.weight"] = (F, C)
        block["ffn.value.weight"] = (C, F)
        block["ffn.receptance.weight"] = (C, C)
        return whole_checkpoint(hp, block)

    def sources(self, hyperparameters: Hyperparameters) -> dict[str, Source]:
        """Where each GGUF tensor comes from, by its GGUF name."""
        found = dict(OUTSIDE_BLOCKS)
        for i in range(hyperparameters.n_layer):
            for gguf_name, name in RENAMED.items():
                found[f"blk.{i}.{gguf_name}"] = AsStored(f"blocks.{i}.{name}")
            for gguf_name, name in LOW_RANK.items():
                found[f"blk.{i}.{gguf_name}"] = Transposed(f"blocks.{i}.{name}")
            lerps = tuple(f"blocks.{i}.att.time_maa_{letter}" for letter in LERPS)
            found[f"blk.{i}.time_mix_lerp_fused.weight"] = Stacked(lerps)
        return found
