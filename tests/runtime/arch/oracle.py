"""What the tests of every version share: models of any shape, the official package, the check."""

import os
import subprocess
import sys

import numpy as np
import pytest

from rwkv_edge import Model

# Of the spread of the logits: float32 sums in another order.
TOLERANCE = 1e-4
PLAIN = {"RWKV_V7_ON": "0", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}
# By the versions that ask for them: the package reads these when it is imported.
ENVIRONMENTS = {
    "7": {"RWKV_V7_ON": "1"},
    "7a": {"RWKV_V7_ON": "1", "RWKV_DE_VERSION": "1"},
}
# A process of its own: the package is one version's for as long as it is imported.
OFFICIAL = """
import sys
import numpy as np
from rwkv.model import RWKV
tokens = np.load(sys.argv[2]).tolist()
model = RWKV(model=sys.argv[1].removesuffix(".pth"), strategy="cpu fp32")
state = None
if len(sys.argv) > 4:
    import torch
    state = []
    for wkv in torch.from_numpy(np.load(sys.argv[4])):
        state += [torch.zeros(model.args.n_embd), wkv.contiguous(), torch.zeros(model.args.n_embd)]
logits, _ = model.forward(tokens, state, full_output=True)
np.save(sys.argv[3], logits.float().numpy())
"""


def official_logits(version, path, tokens, wkv=None):
    """(T, n_vocab) float32 from a fresh state, strategy 'cpu fp32'.

    wkv: the matrices that the state's list begins with, instead of the package's own choice.
    """
    np.save(path.with_suffix(".tokens.npy"), tokens)
    out = path.with_suffix(".logits.npy")
    arguments = [str(path), str(path.with_suffix(".tokens.npy")), str(out)]
    if wkv is not None:
        np.save(path.with_suffix(".wkv.npy"), wkv)
        arguments.append(str(path.with_suffix(".wkv.npy")))
    subprocess.run(
        [sys.executable, "-c", OFFICIAL, *arguments],
        env={**os.environ, **PLAIN, **ENVIRONMENTS.get(version, {})},
        check=True,
        capture_output=True,
    )
    return np.load(out)


def require_official_package():
    """Skips aloud where it cannot run."""
    for name in ("torch", "rwkv"):
        pytest.importorskip(name, reason=f"{name} is not installed: stored logits stand unchecked")


def difference(found, wanted):
    """Largest difference, relative to the spread of what is wanted."""
    return np.abs(found - wanted).max() / (wanted.max() - wanted.min())


def check(path, backend, tokens, wanted):
    """Whole prompt, token by token, split at random places, and in a batch."""
    random = np.random.default_rng(len(tokens))
    with Model.load(path, backend=backend, threads=2) as model:
        logits, _ = model.forward(tokens, all_logits=True)
        assert difference(logits, wanted) < TOLERANCE
        state = model.new_state()
        rows = np.stack([model.forward([token], state)[0] for token in tokens])
        assert difference(rows, wanted) < TOLERANCE
        for _ in range(3):
            places = np.sort(random.integers(1, len(tokens), 3))
            state = model.new_state()
            parts = [part for part in np.split(tokens, places) if part.size]
            rows = [model.forward(part, state, all_logits=True)[0] for part in parts]
            assert difference(np.concatenate(rows), wanted) < TOLERANCE
        lengths = (len(tokens), 1, len(tokens) // 2)
        states = [model.new_state() for _ in lengths]
        last = model.forward_batch([tokens[:n] for n in lengths], states)
        assert difference(last, wanted[[n - 1 for n in lengths]]) < TOLERANCE
