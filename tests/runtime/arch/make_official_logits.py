"""Write rwkv7_official_logits.npz: what the official `rwkv` package gives on random checkpoints.

Run at the top, with the [oracle] extra: python -m tests.runtime.arch.make_official_logits
"""

import tempfile
from pathlib import Path

import numpy as np

from tests.runtime.arch.oracle import official_logits
from tests.runtime.arch.test_rwkv7 import RANDOM_SHAPES, write_random


def main():
    tokens = np.random.default_rng(5).integers(0, 256, 40).astype(np.int32)
    stored = {"tokens": tokens}
    with tempfile.TemporaryDirectory() as folder:
        for name in RANDOM_SHAPES:
            for layer_0_values in (False, True):
                path = Path(folder) / f"{name}.pth"
                write_random(path, name, layer_0_values)
                stored[f"{name}_{layer_0_values}"] = official_logits("7", path, tokens)
    np.savez_compressed(Path(__file__).parent / "rwkv7_official_logits.npz", **stored)


if __name__ == "__main__":
    main()
