"""RWKV-7 against the official `rwkv` package, on trained and random checkpoints."""

from pathlib import Path

import numpy as np
import pytest

from rwkv_edge import Model
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

HERE = Path(__file__).parent
# Random checkpoints, by name: layers, width, ffn width, ranks.
RANDOM_SHAPES = {
    "wide": (2, 128, 448, (32, 32, 32, 64)),
    "deep": (5, 64, 256, (16, 24, 8, 40)),
}


def write_random(path, name, layer_0_values):
    n_layer, n_embd, n_ffn, ranks = RANDOM_SHAPES[name]
    hyperparameters = synthetic_hyperparameters(
        n_layer, n_embd, n_ffn=n_ffn, n_vocab=256, ranks=ranks
    )
    write_synthetic(path, hyperparameters, seed=11, unused=layer_0_values)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_trained_checkpoint_gives_the_official_logits(backend, tmp_path):
    checkpoint = trained_checkpoint("tiny-rwkv-7v0-834K.pth")
    convert(checkpoint, tmp_path / "m.gguf", "F32")
    stored = np.load(checkpoint.with_suffix(".npz"))
    check(tmp_path / "m.gguf", backend, stored["tokens"], stored["logits"])


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("name", list(RANDOM_SHAPES))
@pytest.mark.parametrize("layer_0_values", [False, True])
def test_random_checkpoint_gives_the_stored_official_logits(
    name, layer_0_values, backend, tmp_path
):
    # Written by make_official_logits.py beside this file, so that the suite needs no torch.
    stored = np.load(HERE / "rwkv7_official_logits.npz")
    write_random(tmp_path / "m.pth", name, layer_0_values)
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", "F32")
    key = f"{name}_{layer_0_values}"
    check(tmp_path / "m.gguf", backend, stored["tokens"], stored[key])


@pytest.mark.parametrize("name", list(RANDOM_SHAPES))
@pytest.mark.parametrize("layer_0_values", [False, True])
def test_stored_logits_are_what_the_official_package_gives(name, layer_0_values, tmp_path):
    require_official_package()
    stored = np.load(HERE / "rwkv7_official_logits.npz")
    write_random(tmp_path / "m.pth", name, layer_0_values)
    found = official_logits("7", tmp_path / "m.pth", stored["tokens"])
    assert difference(found, stored[f"{name}_{layer_0_values}"]) < TOLERANCE


@pytest.mark.parametrize(
    ("weight_type", "bound"),
    # Of the spread of the logits. F16 and BF16 hold 11 and 8 bits of a number, Q8_0 and Q4_0 codes
    # of 8 and 4 bits per block of 32, on random weights, whose errors do not average out.
    [("F16", 2e-3), ("BF16", 2e-2), ("Q8_0", 3e-2), ("Q4_0", 0.35)],
)
def test_every_weight_type_stays_near_the_float32_logits(weight_type, bound, tmp_path):
    stored = np.load(HERE / "rwkv7_official_logits.npz")
    write_random(tmp_path / "m.pth", "wide", False)
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", weight_type)
    logits = {}
    for backend in ("reference", "numba"):
        with Model.load(tmp_path / "m.gguf", backend=backend) as model:
            logits[backend], _ = model.forward(stored["tokens"], all_logits=True)
    assert difference(logits["reference"], stored["wide_False"]) < bound
    # Codes are multiplied by inputs of 8 bits, whose steps are about 1 % of a typical input; each
    # of the layers adds its own.
    exact = weight_type in ("F16", "BF16")
    assert difference(logits["numba"], logits["reference"]) < (TOLERANCE if exact else 4e-2)


@pytest.mark.parametrize("weight_type", ["Q4_0", "Q8_0", "F16"])
def test_a_prompt_at_once_and_token_by_token_give_the_same_bits(weight_type, tmp_path):
    from rwkv_edge.builtin import checkpoint_path

    convert(checkpoint_path(), tmp_path / "m.gguf", weight_type)
    random = np.random.default_rng(7)
    with Model.load(tmp_path / "m.gguf", threads=2) as model:
        # Where one float32 rounds otherwise, an int8 activation may, too: then much more differs,
        # but only in some prompts.
        for n_tokens in (3, 5, 24, 37):
            tokens = random.integers(0, model.info.hyperparameters.n_vocab, n_tokens)
            rows, _ = model.forward(tokens, all_logits=True)
            state = model.new_state()
            singles = np.stack([model.forward([token], state)[0] for token in tokens])
            np.testing.assert_array_equal(rows, singles)


# Shapes that no published model has: layers, width, ffn width, head size, ranks.
ODD_SHAPES = {
    "odd ranks": (2, 128, 333, 64, (5, 17, 3, 33)),
    "narrow heads": (2, 80, 200, 16, (8, 8, 8, 8)),
    "heads of 48": (1, 96, 320, 48, (40, 24, 16, 72)),
}


@pytest.mark.parametrize("name", list(ODD_SHAPES))
def test_odd_shapes_give_what_the_official_package_gives(name, tmp_path):
    require_official_package()
    n_layer, n_embd, n_ffn, head_size, ranks = ODD_SHAPES[name]
    hyperparameters = synthetic_hyperparameters(
        n_layer, n_embd, n_ffn=n_ffn, n_vocab=256, head_size=head_size, ranks=ranks
    )
    write_synthetic(tmp_path / "m.pth", hyperparameters, seed=11)
    tokens = np.random.default_rng(5).integers(0, 256, 30).astype(np.int32)
    wanted = official_logits("7", tmp_path / "m.pth", tokens)
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", "F32")
    for backend in ("reference", "numba"):
        check(tmp_path / "m.gguf", backend, tokens, wanted)
    for weight_type, bound in (("Q8_0", 3e-2), ("Q4_0", 0.35)):
        convert(tmp_path / "m.pth", tmp_path / "m.gguf", weight_type)
        with Model.load(tmp_path / "m.gguf") as model:
            assert difference(model.forward(tokens, all_logits=True)[0], wanted) < bound
