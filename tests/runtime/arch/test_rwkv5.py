"""RWKV-5 against the official `rwkv` package, on random checkpoints of many shapes."""

import numpy as np
import pytest

from rwkv_edge import Model, UnsupportedModelError
from rwkv_edge.converters.convert import convert
from tests.runtime.arch.oracle import (
    TOLERANCE,
    check,
    difference,
    official_logits,
    require_official_package,
)
from tests.runtime.arch.random_models import RandomModel, stored_logits, write_random

MODELS = {
    "5.0": RandomModel("5.0", 2, 128, None, 64),
    "5.0 odd ffn": RandomModel("5.0", 1, 96, 200, 32),
    "5.1": RandomModel("5.1", 2, 128, None, 64),
    "5.1 odd ffn": RandomModel("5.1", 1, 96, 200, 32),
    "5.2": RandomModel("5.2", 2, 128, None, 64),
    "5.2 odd ffn": RandomModel("5.2", 3, 96, 200, 32),
    "5.2 one layer": RandomModel("5.2", 1, 48, 72, 16),
    "5.2 no whole blocks": RandomModel("5.2", 2, 80, 200, 16),
    "5.2 no whole vectors": RandomModel("5.2", 1, 40, 52, 20),
}
# Heads that are no whole vectors are left to the reference.
BOTH = [name for name in MODELS if not name.endswith("no whole vectors")]
# One of each stage, whose heads and widths are those of published models.
USUAL = [name for name in MODELS if " " not in name]


@pytest.fixture(scope="module")
def stored():
    return stored_logits("rwkv5")


def make(folder, name, weight_type="F32"):
    write_random(folder / "m.pth", MODELS[name])
    return convert(folder / "m.pth", folder / "m.gguf", weight_type)


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("name", BOTH)
def test_random_checkpoint_gives_the_stored_official_logits(name, backend, tmp_path, stored):
    summary = make(tmp_path, name)
    assert summary.hyperparameters.version == MODELS[name].version
    check(summary.path, backend, stored["tokens"], stored[name])


def test_heads_that_are_no_whole_vectors_are_left_to_the_reference(tmp_path, stored):
    path = make(tmp_path, "5.2 no whole vectors").path
    check(path, "reference", stored["tokens"], stored["5.2 no whole vectors"])
    with pytest.raises(UnsupportedModelError, match=r"multiple of 16.*use --backend reference"):
        Model.load(path, backend="numba")


@pytest.mark.parametrize("name", list(MODELS))
def test_stored_logits_are_what_the_official_package_gives(name, tmp_path, stored):
    require_official_package()
    write_random(tmp_path / "m.pth", MODELS[name])
    found = official_logits(MODELS[name].version, tmp_path / "m.pth", stored["tokens"])
    assert difference(found, stored[name]) < TOLERANCE


@pytest.mark.parametrize(
    ("weight_type", "bound"),
    # Of the spread of the logits. F16 and BF16 hold 11 and 8 bits of a number, Q8_0 and Q4_0 codes
    # of 8 and 4 bits per block of 32, on random weights, whose errors do not average out; and group
    # norm magnifies those of a head that says little, as most do in the first tokens.
    [("F16", 4e-3), ("BF16", 3e-2), ("Q8_0", 8e-2), ("Q4_0", 0.35)],
)
@pytest.mark.parametrize("name", USUAL)
def test_every_weight_type_stays_near_the_float32_logits(
    name, weight_type, bound, tmp_path, stored
):
    path = make(tmp_path, name, weight_type).path
    logits = {}
    for backend in ("reference", "numba"):
        with Model.load(path, backend=backend) as model:
            logits[backend], _ = model.forward(stored["tokens"], all_logits=True)
    assert difference(logits["reference"], stored[name]) < bound
    # Codes are multiplied by inputs of 8 bits, whose steps are about 1 % of a typical input; each
    # of the layers adds its own.
    exact = weight_type in ("F16", "BF16")
    assert difference(logits["numba"], logits["reference"]) < (TOLERANCE if exact else 8e-2)


@pytest.mark.parametrize("weight_type", ["Q4_0", "Q8_0"])
def test_a_width_that_is_no_multiple_of_32_is_kept_in_halves_and_said(
    weight_type, tmp_path, stored
):
    name = "5.2 no whole blocks"
    summary = make(tmp_path, name, weight_type)
    # Rows of 80 and of 200 weights: none fits.
    assert summary.notes == (
        f"{2 + 8 * 2} matrices are F16: {weight_type} needs rows of a multiple of 32 weights",
    )
    for backend in ("reference", "numba"):
        with Model.load(summary.path, backend=backend) as model:
            logits, _ = model.forward(stored["tokens"], all_logits=True)
        # 11 bits of a number.
        assert difference(logits, stored[name]) < 4e-3


@pytest.mark.parametrize("weight_type", ["Q4_0", "Q8_0", "F16"])
@pytest.mark.parametrize("name", USUAL)
def test_a_prompt_at_once_and_token_by_token_give_the_same_bits(name, weight_type, tmp_path):
    path = make(tmp_path, name, weight_type).path
    random = np.random.default_rng(7)
    with Model.load(path, threads=2) as model:
        for n_tokens in (3, 5, 24, 37):
            tokens = random.integers(0, model.info.hyperparameters.n_vocab, n_tokens)
            rows, _ = model.forward(tokens, all_logits=True)
            state = model.new_state()
            singles = np.stack([model.forward([token], state)[0] for token in tokens])
            np.testing.assert_array_equal(rows, singles)


def test_llama_cpp_is_refused_by_name(tmp_path):
    pytest.importorskip("llama_cpp")
    with pytest.raises(UnsupportedModelError, match=r"no RWKV-5\.2; use --backend numba"):
        Model.load(make(tmp_path, "5.2").path, backend="llama")
