"""What the official `rwkv` package gives on random checkpoints of RWKV-5 and 6.

The test of each version has a table `MODELS` and stored logits beside it, so that the suite needs
no torch. Run at the top, with the [oracle] extra, to write them anew, for example those of
RWKV-6: python -m tests.runtime.arch.official rwkv6
"""

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rwkv_edge import Model
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic

HERE = Path(__file__).parent
N_VOCAB = 256
# Of the spread of the logits: float32 sums in another order.
TOLERANCE = 1e-4
# The package decides when it is imported whether it runs RWKV-7, so this takes a new process.
OFFICIAL = """
import sys
import numpy as np
from rwkv.model import RWKV
model = RWKV(sys.argv[1].removesuffix(".pth"), "cpu fp32", verbose=False)
logits, _ = model.forward(np.load(sys.argv[2]).tolist(), None, full_output=True)
np.save(sys.argv[2], logits.float().numpy())
"""


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


def official_logits(path, tokens):
    """(T, n_vocab) float32 from a fresh state, strategy 'cpu fp32'."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokens_and_then_logits.npy"
        np.save(file, tokens)
        subprocess.run(
            [sys.executable, "-c", OFFICIAL, str(path), str(file)],
            env={**os.environ, "RWKV_V7_ON": "0", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"},
            check=True,
            capture_output=True,
        )
        return np.load(file)


def stored_logits(name):
    """The tokens, and the logits of each model of a table, by name."""
    return np.load(HERE / f"{name}_official_logits.npz")


def difference(found, wanted):
    """Largest difference, relative to the spread of what is wanted."""
    return np.abs(found - wanted).max() / (wanted.max() - wanted.min())


def check(path, backend, tokens, wanted):
    """Whole prompt, token by token, and split at random places, against the same logits."""
    random = np.random.default_rng(1)
    with Model.load(path, backend=backend, threads=2) as model:
        logits, _ = model.forward(tokens, all_logits=True)
        assert difference(logits, wanted) < TOLERANCE
        splits = [range(1, len(tokens))]
        splits += [np.sort(random.choice(len(tokens) - 1, 3, replace=False)) + 1 for _ in range(3)]
        for places in splits:
            state = model.new_state()
            parts = np.split(tokens, places)
            rows = [model.forward(part, state, all_logits=True)[0] for part in parts]
            assert difference(np.concatenate(rows), wanted) < TOLERANCE


def main():
    name = sys.argv[1]
    tokens = np.random.default_rng(5).integers(0, N_VOCAB, 16).astype(np.int32)
    stored = {"tokens": tokens}
    with tempfile.TemporaryDirectory() as folder:
        for key, model in importlib.import_module(f"tests.runtime.arch.test_{name}").MODELS.items():
            write_random(Path(folder) / "m.pth", model)
            stored[key] = official_logits(Path(folder) / "m.pth", tokens)
    np.savez_compressed(HERE / f"{name}_official_logits.npz", **stored)


if __name__ == "__main__":
    main()
