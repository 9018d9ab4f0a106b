"""The official package's own results, met by the same calls."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rwkv_edge.compat import PIPELINE, RWKV, utils
from rwkv_edge.compat.tensor import Tensor
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from tests.compat.probe import (
    SAMPLINGS,
    model_results,
    pipeline_results,
    quick_start,
    sampling_results,
)
from tests.runtime.arch.oracle import ENVIRONMENTS, PLAIN

ROOT = Path(__file__).resolve().parents[2]
# Written by probe.py, so that the suite needs no torch.
STORED = Path(__file__).with_name("official_results.npz")
# Of the spread of the numbers: float32 sums in another order.
TOLERANCE = 1e-4
IMPORTS = {
    "from rwkv.model import": "from rwkv_edge.compat.model import",
    "from rwkv.utils import": "from rwkv_edge.compat.utils import",
}
# Version, layers, width, ffn width, ranks.
RANDOM_SHAPES = {
    "4": ("4", 2, 96, 256, None),
    "5.0": ("5.0", 2, 128, 256, None),
    "5.1": ("5.1", 2, 128, 256, None),
    "5.2": ("5.2", 2, 128, 448, None),
    "6": ("6", 2, 128, 448, (32, 40)),
    "7, wide": ("7", 2, 128, 448, (32, 32, 32, 64)),
    "7, deep": ("7", 5, 64, 256, (16, 24, 8, 40)),
    "7a": ("7a", 2, 64, 256, (32, 32, 32, 64)),
}


def check(found, wanted):
    """The same names; texts and tokens to the letter, numbers to the tolerance."""
    assert set(found) == set(wanted)
    for name, expected in wanted.items():
        assert found[name].shape == expected.shape, name
        if expected.dtype.kind == "f":
            spread = expected.max() - expected.min()
            assert np.abs(found[name] - expected).max() <= TOLERANCE * spread, name
        else:
            np.testing.assert_array_equal(found[name], expected, err_msg=name)


def stored(beginning):
    with np.load(STORED) as file:
        found = {name: file[name] for name in file if name.startswith(beginning)}
    assert found
    return found


def ask_official(out, *arguments, version="7"):
    """Everything from the official package itself, in a process of its own."""
    pytest.importorskip("torch", reason="torch is not installed: stored results stand unchecked")
    pytest.importorskip("rwkv", reason="rwkv is not installed: stored results stand unchecked")
    command = [sys.executable, "-m", "tests.compat.probe", str(out), *map(str, arguments)]
    environment = {**os.environ, **PLAIN, **ENVIRONMENTS.get(version, {}), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(out) as file:
        return dict(file)


def test_logits_and_states_are_the_official_ones(builtin_pth):
    found = model_results(RWKV, builtin_pth)
    check(found, stored(("logits", "state", "args")))


def test_texts_are_the_official_ones_for_the_same_random_numbers(builtin_pth, builtin_vocabulary):
    found = pipeline_results(RWKV, utils, builtin_pth, builtin_vocabulary)
    check(found, stored(("generated", "encoded", "undecodable", "refined")))


def test_drawn_tokens_are_the_official_ones_for_the_same_random_numbers():
    found = sampling_results(PIPELINE(None, "rwkv_vocab_v20230424"), lambda x: x.view(Tensor))
    check(found, stored("sampled"))


def test_the_quick_start_runs_with_its_imports_changed(
    builtin_pth, builtin_vocabulary, tmp_path, monkeypatch
):
    for name in ("RWKV_V7_ON", "RWKV_JIT_ON", "RWKV_CUDA_ON"):
        # The quick start sets them; other tests must not inherit that.
        monkeypatch.setenv(name, "0")
    name = str(builtin_pth).removesuffix(".pth")
    found = quick_start(IMPORTS, name, builtin_vocabulary, tmp_path)
    np.testing.assert_allclose(found["quick start: at_once"], found["quick start: in_parts"])
    for copied in ("again", "once_more"):
        assert (found[f"quick start: {copied}"] != found["quick start: at_once"]).any()
    np.testing.assert_array_equal(found["quick start: out"], found["quick start: later"])
    check(found, stored("quick start"))


def test_stored_results_are_what_the_official_package_gives(
    builtin_pth, builtin_vocabulary, tmp_path
):
    check(ask_official(tmp_path / "official.npz", builtin_pth, builtin_vocabulary), stored(""))


@pytest.mark.parametrize("name", list(RANDOM_SHAPES))
def test_random_checkpoints_give_the_official_logits_and_states(name, tmp_path):
    version, n_layer, n_embd, n_ffn, ranks = RANDOM_SHAPES[name]
    hp = synthetic_hyperparameters(
        n_layer, n_embd, version=version, n_ffn=n_ffn, n_vocab=256, ranks=ranks
    )
    # The official package layer-norms the embedding in the type that it is stored in.
    write_synthetic(tmp_path / "random.pth", hp, seed=11, dtype="float32")
    wanted = ask_official(tmp_path / "official.npz", tmp_path / "random.pth", version=version)
    check(model_results(RWKV, tmp_path / "random.pth", version in ("7", "7a")), wanted)


@pytest.mark.parametrize("options", [options for options in SAMPLINGS if options[2] > 0])
def test_ties_at_the_top_k_are_broken_as_the_official_sampler_breaks_them(options):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    official = pytest.importorskip("rwkv.utils", reason="rwkv is not installed")
    ours = PIPELINE(None, "rwkv_vocab_v20230424")
    random = np.random.default_rng(3)
    for n_vocab in (50, 2048, 65536):
        logits = np.round(4 * random.standard_normal(n_vocab)).astype(np.float32)
        drawn = []
        for pipeline, numbers in (
            (official.PIPELINE.__new__(official.PIPELINE), torch.from_numpy(logits)),
            (ours, logits),
        ):
            np.random.seed(7)
            drawn.append([pipeline.sample_logits(numbers, *options) for _ in range(20)])
        assert drawn[0] == drawn[1]
