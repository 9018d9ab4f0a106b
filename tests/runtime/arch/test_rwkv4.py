"""RWKV-4 against the official `rwkv` package, on trained and random checkpoints."""

from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import Model, UnsupportedModelError
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from tests.runtime.arch.oracle import (
    TOLERANCE,
    check,
    difference,
    official_logits,
    require_official_package,
)
from tests.trained import trained_checkpoint

STORED = Path(__file__).parent / "rwkv4_official_logits.npz"
N_VOCAB = 256
# Random checkpoints, by name: layers, width, ffn width.
RANDOM_SHAPES = {
    "wide": (2, 192, 448),
    "deep": (3, 64, 256),
    # Widths that are no multiple of 32, ffn widths that are none of 16.
    "odd": (1, 80, 200),
    "odder": (2, 48, 333),
}


def write_random(path, name):
    n_layer, n_embd, n_ffn = RANDOM_SHAPES[name]
    hyperparameters = synthetic_hyperparameters(
        n_layer, n_embd, version="4", n_ffn=n_ffn, n_vocab=N_VOCAB
    )
    # The official package would layer-norm a bfloat16 embedding in bfloat16.
    write_synthetic(path, hyperparameters, seed=11, dtype="float32")


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_trained_checkpoint_gives_the_official_logits(backend, tmp_path):
    checkpoint = trained_checkpoint("tiny-rwkv-4v0-660K.pth")
    convert(checkpoint, tmp_path / "m.gguf", "F32")
    stored = np.load(checkpoint.with_suffix(".npz"))
    check(tmp_path / "m.gguf", backend, stored["tokens"], stored["logits"])


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("name", list(RANDOM_SHAPES))
def test_random_checkpoint_gives_the_stored_official_logits(name, backend, tmp_path):
    # Written by make_stored_logits.py beside this file, so that the suite needs no torch.
    stored = np.load(STORED)
    write_random(tmp_path / "m.pth", name)
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", "F32")
    check(tmp_path / "m.gguf", backend, stored["tokens"], stored[name])


@pytest.mark.parametrize("name", list(RANDOM_SHAPES))
def test_stored_logits_are_what_the_official_package_gives(name, tmp_path):
    require_official_package()
    stored = np.load(STORED)
    write_random(tmp_path / "m.pth", name)
    found = official_logits("4", tmp_path / "m.pth", stored["tokens"])
    assert difference(found, stored[name]) < TOLERANCE


@pytest.mark.parametrize("name", ["wide", "odd"])
@pytest.mark.parametrize(
    ("weight_type", "bound"),
    # Of the spread of the logits. F16 and BF16 hold 11 and 8 bits of a number, Q8_0 and Q4_0 codes
    # of 8 and 4 bits per block of 32, on random weights, whose errors do not average out.
    [("F16", 2e-3), ("BF16", 2e-2), ("Q8_0", 3e-2), ("Q4_0", 0.35)],
)
def test_every_weight_type_stays_near_the_float32_logits(weight_type, bound, name, tmp_path):
    stored = np.load(STORED)
    write_random(tmp_path / "m.pth", name)
    summary = convert(tmp_path / "m.pth", tmp_path / "m.gguf", weight_type)
    # Rows of 80 and of 200 are no whole blocks of 32: they are F16, and that is said.
    assert bool(summary.notes) == (name == "odd" and weight_type in ("Q8_0", "Q4_0"))
    logits = {}
    for backend in ("reference", "numba"):
        with Model.load(tmp_path / "m.gguf", backend=backend) as model:
            logits[backend], _ = model.forward(stored["tokens"], all_logits=True)
    assert difference(logits["reference"], stored[name]) < bound
    # Codes are multiplied by inputs of 8 bits, whose steps are about 1 % of a typical input; each
    # of the layers adds its own.
    exact = weight_type in ("F16", "BF16")
    assert difference(logits["numba"], logits["reference"]) < (TOLERANCE if exact else 4e-2)


@pytest.mark.parametrize("weight_type", ["Q4_0", "Q8_0", "F16"])
def test_a_prompt_at_once_and_token_by_token_give_the_same_bits(weight_type, tmp_path):
    write_random(tmp_path / "m.pth", "wide")
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", weight_type)
    random = np.random.default_rng(7)
    with Model.load(tmp_path / "m.gguf", threads=2) as model:
        for n_tokens in (3, 24, 37):
            tokens = random.integers(0, N_VOCAB, n_tokens)
            rows, _ = model.forward(tokens, all_logits=True)
            state = model.new_state()
            singles = np.stack([model.forward([token], state)[0] for token in tokens])
            np.testing.assert_array_equal(rows, singles)


def test_threads_do_not_change_the_bits(tmp_path):
    """Channels of one thread's share never depend on where the others begin."""
    write_random(tmp_path / "m.pth", "wide")
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", "Q4_0")
    tokens = np.random.default_rng(8).integers(0, N_VOCAB, 30)
    found = []
    for threads in (1, 2, 3, 7):
        with Model.load(tmp_path / "m.gguf", threads=threads) as model:
            found.append(model.forward(tokens, all_logits=True)[0])
    for logits in found[1:]:
        np.testing.assert_array_equal(logits, found[0])


def test_a_width_that_fits_no_vector_runs_on_the_reference_alone(tmp_path):
    hp = synthetic_hyperparameters(2, 40, version="4", n_ffn=96, n_vocab=N_VOCAB)
    write_synthetic(tmp_path / "m.pth", hp)
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", "Q8_0")
    with pytest.raises(UnsupportedModelError, match=r"width 40 is not .* --backend reference"):
        Model.load(tmp_path / "m.gguf")
    with Model.load(tmp_path / "m.gguf", backend="reference") as model:
        assert np.isfinite(model.forward([1, 2, 3])[0]).all()
