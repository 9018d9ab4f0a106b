"""Random checkpoints of RWKV-5 and 6, and what the official `rwkv` package gives on them.

The test of each version has a table `MODELS` and stored logits beside it, so that the suite needs
no torch. Run at the top, with the [oracle] extra, to write them anew, for example those of
RWKV-6: python -m tests.runtime.arch.random_models rwkv6
"""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from tests.runtime.arch.oracle import official_logits

HERE = Path(__file__).parent
N_VOCAB = 256


class RandomModel(NamedTuple):
    """A shape to make a checkpoint of; the authors' choice where it says None."""

    version: str
    n_layer: int
    n_embd: int
    n_ffn: int | None
    head_size: int
    ranks: tuple[int, ...] | None = None


def write_random(path, model):
    """The checkpoint of a shape: always the same numbers."""
    hyperparameters = synthetic_hyperparameters(
        model.n_layer,
        model.n_embd,
        version=model.version,
        n_ffn=model.n_ffn,
        n_vocab=N_VOCAB,
        head_size=model.head_size,
        ranks=model.ranks,
    )
    # The package normalizes the embedding in the checkpoint's own type: of bfloat16 it would keep
    # 8 bits.
    write_synthetic(path, hyperparameters, seed=11, dtype="float32")


def stored_logits(name):
    """The tokens, and the logits of each model of a table, by name."""
    return np.load(HERE / f"{name}_official_logits.npz")


def main():
    name = sys.argv[1]
    tokens = np.random.default_rng(5).integers(0, N_VOCAB, 16).astype(np.int32)
    stored = {"tokens": tokens}
    with tempfile.TemporaryDirectory() as folder:
        for key, model in importlib.import_module(f"tests.runtime.arch.test_{name}").MODELS.items():
            write_random(Path(folder) / "m.pth", model)
            stored[key] = official_logits(model.version, Path(folder) / "m.pth", tokens)
    np.savez_compressed(HERE / f"{name}_official_logits.npz", **stored)


if __name__ == "__main__":
    main()
