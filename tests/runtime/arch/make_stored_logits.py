"""Write rwkvN_official_logits.npz: what the official `rwkv` package gives on random checkpoints.

Run at the top, with the [oracle] extra: python -m tests.runtime.arch.make_stored_logits 4
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.runtime.arch import test_rwkv4, test_rwkv7a
from tests.runtime.arch.oracle import official_logits

TESTS = {"4": test_rwkv4, "7a": test_rwkv7a}


def main():
    for version in sys.argv[1:]:
        test = TESTS[version]
        tokens = np.random.default_rng(5).integers(0, test.N_VOCAB, 30).astype(np.int32)
        stored = {"tokens": tokens}
        with tempfile.TemporaryDirectory() as folder:
            for name in test.RANDOM_SHAPES:
                path = Path(folder) / f"{name}.pth"
                test.write_random(path, name)
                stored[name] = official_logits(version, path, tokens)
        np.savez_compressed(test.STORED, **stored)


if __name__ == "__main__":
    main()
