"""RWKV-7a checkpoints, as RWKV-LM saves them, to the tensors of `rwkv_edge.arch.rwkv7a`."""

from dataclasses import dataclass, replace

import numpy as np

from rwkv_edge.arch.rwkv7 import Rwkv7Hyperparameters
from rwkv_edge.arch.rwkv7a import DEEP_EMBED_RANK, TABLE_COLUMNS
from rwkv_edge.converters.arch.base import (
    AsStored,
    ComputedRows,
    ReadRows,
    Shape,
    Shapes,
    Source,
    Transposed,
    require_shape,
)
from rwkv_edge.converters.arch.rwkv7 import Rwkv7Reader
from rwkv_edge.converters.checkpoints import Checkpoint
from rwkv_edge.converters.checkpoints.base import ELEMENT_DTYPES, widen
from rwkv_edge.hyperparameters import LAYER_NORM_EPS, Hyperparameters
from rwkv_edge.quant import Float32Array

# Rows that are computed at a time: their parts stay small however wide the model is.
BLOCK_ROWS = 256


@dataclass(frozen=True)
class MergedTable(ComputedRows):
    """s_emb + LN0(emb) s_emb_x^T of one layer, a row for each token."""

    layer: int

    def open(self, checkpoint: Checkpoint) -> ReadRows:
        """What computes rows out of those of the two embeddings."""
        ffn = f"blocks.{self.layer}.ffn."
        to_table = checkpoint.read(f"{ffn}s_emb_x.weight").T
        scale = checkpoint.read("blocks.0.ln0.weight").reshape(-1)
        bias = checkpoint.read("blocks.0.ln0.bias").reshape(-1)

        def read_rows(start: int, stop: int) -> Float32Array:
            table = np.empty((stop - start, TABLE_COLUMNS), np.float32)
            for first in range(start, stop, BLOCK_ROWS):
                last = min(first + BLOCK_ROWS, stop)
                x = stored_rows(checkpoint, "emb.weight", first, last)
                x -= x.mean(axis=1, keepdims=True)
                x /= np.sqrt(np.square(x).mean(axis=1, keepdims=True) + LAYER_NORM_EPS)
                rows = stored_rows(checkpoint, f"{ffn}s_emb.weight", first, last)
                table[first - start : last - start] = rows + (x * scale + bias) @ to_table
            return table

        return read_rows


def stored_rows(checkpoint: Checkpoint, key: str, start: int, stop: int) -> Float32Array:
    """Rows [start, stop) of a two-dimensional tensor, as float32."""
    dtype = checkpoint.dtype(key)
    rows = np.empty((stop - start, checkpoint.shape(key)[1]), ELEMENT_DTYPES[dtype])
    checkpoint.read_rows(key, start, stop, rows)
    return widen(rows, dtype)


class Rwkv7aReader(Rwkv7Reader):
    """Recognised by `ffn.s_emb` beside what RWKV-7 has."""

    def hyperparameters(self, shapes: Shapes) -> Rwkv7Hyperparameters:
        """Read the model's shape off its tensors; raises FormatError."""
        hp = super().hyperparameters(shapes)
        for i in range(hp.n_layer):
            require_shape(shapes, f"blocks.{i}.ffn.s_emb.weight", 2)
        return replace(hp, version="7a")

    def required(self, hyperparameters: Hyperparameters) -> dict[str, Shape]:
        """Every tensor of the checkpoint and its shape."""
        hp = hyperparameters
        block: dict[str, Shape] = {
            "s_emb.weight": (hp.n_vocab, TABLE_COLUMNS),
            "s_emb_x.weight": (TABLE_COLUMNS, hp.n_embd),
            "s0": (hp.n_ffn,),
            "s1": (hp.n_embd, DEEP_EMBED_RANK),
            "s2": (DEEP_EMBED_RANK, hp.n_ffn),
        }
        return super().required(hp) | {
            f"blocks.{i}.ffn.{name}": shape
            for i in range(hp.n_layer)
            for name, shape in block.items()
        }

    def sources(self, hyperparameters: Hyperparameters) -> dict[str, Source]:
        """Where each GGUF tensor comes from, by its GGUF name."""
        found = super().sources(hyperparameters)
        for i in range(hyperparameters.n_layer):
            ffn, mix = f"blocks.{i}.ffn.", f"blk.{i}.channel_mix_"
            found[f"{mix}s0.weight"] = AsStored(f"{ffn}s0")
            found[f"{mix}s1.weight"] = Transposed(f"{ffn}s1")
            found[f"{mix}s2.weight"] = Transposed(f"{ffn}s2")
            found[f"{mix}s_emb.weight"] = MergedTable(i)
        return found
