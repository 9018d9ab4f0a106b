"""RWKV-5 checkpoints, as RWKV-LM saves them, to the tensors of `rwkv_edge.arch.rwkv5`."""

from dataclasses import dataclass
from math import prod

import numpy as np

from rwkv_edge.arch.rwkv5 import LERPS, is_gated
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
from rwkv_edge.errors import FormatError
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.quant import Float32Array

# GGUF name within a layer: name within a block of the checkpoint.
RENAMED = {
    "attn_norm.weight": "ln1.weight",
    "attn_norm.bias": "ln1.bias",
    "attn_norm_2.weight": "ln2.weight",
    "attn_norm_2.bias": "ln2.bias",
    "time_mix_key.weight": "att.key.weight",
    "time_mix_value.weight": "att.value.weight",
    "time_mix_receptance.weight": "att.receptance.weight",
    "time_mix_output.weight": "att.output.weight",
    "time_mix_ln.weight": "att.ln_x.weight",
    "time_mix_ln.bias": "att.ln_x.bias",
    "channel_mix_key.weight": "ffn.key.weight",
    "channel_mix_value.weight": "ffn.value.weight",
    "channel_mix_receptance.weight": "ffn.receptance.weight",
}
# Versions that hold the decay, and what weighs the present token, for each channel of a head.
BY_CHANNEL = ("5.2",)
# What weighs the present token has one of two names; under the older one it is a logarithm.
FIRST, LOG_FIRST = "time_faaaa", "time_first"


@dataclass(frozen=True)
class ByChannel(Source):
    """One number for each head, or for each of its channels already; log_key: its logarithm's name,
    under which it may be stored instead.
    """

    key: str
    n_head: int
    log_key: str | None = None

    def load(self, checkpoint: Checkpoint, shape: Shape) -> Float32Array:
        """One number for each channel."""
        if self.log_key is not None and self.key not in checkpoint.shapes():
            numbers = np.exp(checkpoint.read(self.log_key))
        else:
            numbers = checkpoint.read(self.key)
        by_head = numbers.reshape(self.n_head, -1)
        return np.repeat(by_head, prod(shape) // by_head.size, axis=1).reshape(shape)


class Rwkv5Reader(CheckpointReader):
    """Recognised by `att.ln_x`, where nothing newer is there. version: "5.0", "5.1" or "5.2"."""

    def __init__(self, version: str) -> None:
        self.version = version

    def check(self, shapes: Shapes) -> Hyperparameters:
        """Compare the checkpoint with what its hyperparameters demand; raises FormatError."""
        return super().check({key.replace(LOG_FIRST, FIRST): shapes[key] for key in shapes})

    def hyperparameters(self, shapes: Shapes) -> Hyperparameters:
        """Read the model's shape off its tensors; raises FormatError."""
        n_vocab, n_embd = require_shape(shapes, "emb.weight", 2)
        return Hyperparameters(
            version=self.version,
            n_layer=count_layers(shapes),
            n_embd=n_embd,
            n_ffn=require_shape(shapes, "blocks.0.ffn.key.weight", 2)[0],
            n_vocab=n_vocab,
            head_size=n_embd // head_count(shapes, n_embd),
        )

    def required(self, hyperparameters: Hyperparameters) -> dict[str, Shape]:
        """Every tensor of the checkpoint and its shape."""
        hp = hyperparameters
        C, F = hp.n_embd, hp.n_ffn
        # In this order, because the official package knows a model of one layer only if `ln_x`
        # comes before the decay.
        vectors = ("ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias", "att.ln_x.weight",
                   "att.ln_x.bias", *(f"att.time_mix_{letter}" for letter in LERPS[hp.version]),
                   "ffn.time_mix_k", "ffn.time_mix_r")  # fmt: skip
        block: dict[str, Shape] = dict.fromkeys(vectors, (C,))
        for name in ("time_decay", FIRST):
            by_channel = hp.version in BY_CHANNEL
            block[f"att.{name}"] = (hp.n_head, hp.head_size) if by_channel else (hp.n_head,)
        gate = ("gate",) if is_gated(hp) else ()
        for name in ("receptance", "key", "value", *gate, "output"):
            block[f"att.{name}.weight"] = (C, C)
        block["ffn.key.weight"] = (F, C)
        block["ffn.value.weight"] = (C, F)
        block["ffn.receptance.weight"] = (C, C)
        return whole_checkpoint(hp, block)

    def sources(self, hyperparameters: Hyperparameters) -> dict[str, Source]:
        """Where each GGUF tensor comes from, by its GGUF name."""
        hp = hyperparameters
        found = dict(OUTSIDE_BLOCKS)
        renamed = RENAMED | ({"time_mix_gate.weight": "att.gate.weight"} if is_gated(hp) else {})
        for i in range(hp.n_layer):
            here, att = f"blk.{i}.", f"blocks.{i}.att."
            for gguf_name, name in renamed.items():
                found[here + gguf_name] = AsStored(f"blocks.{i}.{name}")
            lerps = tuple(f"{att}time_mix_{letter}" for letter in LERPS[hp.version])
            found[f"{here}time_mix_lerp_fused.weight"] = Lerps(lerps)
            for letter in "kr":
                mu = (f"blocks.{i}.ffn.time_mix_{letter}",)
                found[f"{here}channel_mix_lerp_{letter}.weight"] = Lerps(mu)
            first = ByChannel(att + FIRST, hp.n_head, att + LOG_FIRST)
            found[f"{here}time_mix_first.weight"] = first
            found[f"{here}time_mix_decay.weight"] = ByChannel(f"{att}time_decay", hp.n_head)
        return found


def head_count(shapes: Shapes, n_embd: int) -> int:
    """Each head has a row in `time_decay`."""
    time_decay = shapes.get("blocks.0.att.time_decay")
    if time_decay is None:
        raise FormatError("blocks.0.att.time_decay is missing; the file is incomplete")
    n_head = time_decay[0] if time_decay else 0
    if n_head < 1 or n_embd % n_head:
        raise FormatError(
            f"blocks.0.att.time_decay is {list(time_decay)}: {n_head} heads do not divide the "
            f"embedding of {n_embd}"
        )
    return n_head
