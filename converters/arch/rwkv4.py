"""RWKV-4 checkpoints, as RWKV-LM saves them, to the tensors of `rwkv_edge.arch.rwkv4`."""

from dataclasses import dataclass

import numpy as np

from rwkv_edge.arch.rwkv4 import LERPS
from rwkv_edge.converters.arch.base import (
    OUTSIDE_BLOCKS,
    AsStored,
    CheckpointReader,
    Lerps,
    Shape,
    Shapes,
    Source,
    count_layers,
    require_shape,
    whole_checkpoint,
)
from rwkv_edge.converters.checkpoints import Checkpoint
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.quant import Float32Array

# GGUF name within a layer: name within a block of the checkpoint.
RENAMED = {
    "attn_norm.weight": "ln1.weight",
    "attn_norm.bias": "ln1.bias",
    "attn_norm_2.weight": "ln2.weight",
    "attn_norm_2.bias": "ln2.bias",
    "time_mix_first.weight": "att.time_first",
    "time_mix_key.weight": "att.key.weight",
    "time_mix_value.weight": "att.value.weight",
    "time_mix_receptance.weight": "att.receptance.weight",
    "time_mix_output.weight": "att.output.weight",
    "channel_mix_key.weight": "ffn.key.weight",
    "channel_mix_receptance.weight": "ffn.receptance.weight",
    "channel_mix_value.weight": "ffn.value.weight",
}


@dataclass(frozen=True)
class LogDecay(Source):
    """What is added to the logarithm of the past with each token: w = -exp(time_decay)."""

    key: str

    def load(self, checkpoint: Checkpoint, shape: Shape) -> Float32Array:
        """One number a channel, below zero."""
        # One that is no number or too large is refused where it is encoded.
        with np.errstate(over="ignore"):
            w: Float32Array = -np.exp(checkpoint.read(self.key).reshape(shape))
        return w


class Rwkv4Reader(CheckpointReader):
    """Recognised by `att.time_decay` without any norm of heads."""

    def hyperparameters(self, shapes: Shapes) -> Hyperparameters:
        """Read the model's shape off its tensors; raises FormatError."""
        n_vocab, n_embd = require_shape(shapes, "emb.weight", 2)
        return Hyperparameters(
            version="4",
            n_layer=count_layers(shapes),
            n_embd=n_embd,
            n_ffn=require_shape(shapes, "blocks.0.ffn.key.weight", 2)[0],
            n_vocab=n_vocab,
            head_size=n_embd,
        )

    def required(self, hyperparameters: Hyperparameters) -> dict[str, Shape]:
        """Every tensor of the checkpoint and its shape."""
        hp = hyperparameters
        C, F = hp.n_embd, hp.n_ffn
        vectors = ("ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias", "att.time_decay",
                   "att.time_first", *(f"att.time_mix_{letter}" for letter in LERPS),
                   "ffn.time_mix_k", "ffn.time_mix_r")  # fmt: skip
        block: dict[str, Shape] = dict.fromkeys(vectors, (C,))
        for name in ("key", "value", "receptance", "output"):
            block[f"att.{name}.weight"] = (C, C)
        block["ffn.key.weight"] = (F, C)
        block["ffn.receptance.weight"] = (C, C)
        block["ffn.value.weight"] = (C, F)
        return whole_checkpoint(hp, block)

    def sources(self, hyperparameters: Hyperparameters) -> dict[str, Source]:
        """Where each GGUF tensor comes from, by its GGUF name."""
        found = dict(OUTSIDE_BLOCKS)
        for i in range(hyperparameters.n_layer):
            block = f"blocks.{i}."
            for gguf_name, name in RENAMED.items():
                found[f"blk.{i}.{gguf_name}"] = AsStored(block + name)
            found[f"blk.{i}.time_mix_decay.weight"] = LogDecay(f"{block}att.time_decay")
            mixes = tuple(f"{block}att.time_mix_{letter}" for letter in LERPS)
            found[f"blk.{i}.time_mix_lerp_fused.weight"] = Lerps(mixes)
            for letter in ("k", "r"):
                lerp = f"blk.{i}.channel_mix_lerp_{letter}.weight"
                found[lerp] = Lerps((f"{block}ffn.time_mix_{letter}",))
        return found
