"""Write rwkv7_official_logits.npz: what the official `rwkv` package gives on random checkpoints.

Run at the top, with the [oracle] extra: python -m tests.runtime.arch.make_official_logits
"""

import os
import tempfile
from pathlib import Path

import numpy as np


def official_logits(path, tokens):
    """(T, n_vocab) float32 from a fresh state, strategy 'cpu fp32'."""
    # The package reads these when it is imported.
    os.environ.update(RWKV_V7_ON="1", RWKV_JIT_ON="0", RWKV_CUDA_ON="0")
    from rwkv.model import RWKV

    model = RWKV(model=str(path).removesuffix(".pth"), strategy="cpu fp32")
    logits, _ = model.forward([int(t) for t in tokens], None, full_output=True)
    return logits.float().numpy()


def main():
    from tests.runtime.arch.test_rwkv7 import RANDOM_SHAPES, write_random

    tokens = np.random.default_rng(5).integers(0, 256, 40).astype(np.int32)
    stored = {"tokens": tokens}
    with tempfile.TemporaryDirectory() as folder:
        for name in RANDOM_SHAPES:
            for layer_0_values in (False, True):
                path = Path(folder) / f"{name}.pth"
                write_random(path, name, layer_0_values)
                stored[f"{name}_{layer_0_values}"] = official_logits(path, tokens)
    np.savez_compressed(Path(__file__).parent / "rwkv7_official_logits.npz", **stored)


if __name__ == "__main__":
    main()
