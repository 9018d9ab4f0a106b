"""RWKV-6 against the official `rwkv` package, on random checkpoints of many shapes."""

import numpy as np
import pytest

from rwkv_edge import Model, UnsupportedModelError
from rwkv_edge.converters.convert import convert
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.quant import Q8_0
from tests.runtime.arch.oracle import (
    TOLERANCE,
    check,
    difference,
    official_logits,
    require_official_package,
)
from tests.runtime.arch.random_models import RandomModel, stored_logits, write_random

MODELS = {
    "usual": RandomModel("6", 2, 128, None, 64),
    "odd ffn and ranks": RandomModel("6", 3, 96, 200, 32, (24, 40)),
    "one layer": RandomModel("6", 1, 64, 72, 16, (40, 8)),
    "no whole blocks": RandomModel("6", 2, 80, 200, 16, (8, 20)),
    "wide heads": RandomModel("6", 2, 192, 416, 48),
    "no whole vectors": RandomModel("6", 1, 40, 52, 20, (7, 9)),
}
# Heads that are no whole vectors are left to the reference.
BOTH = [name for name in MODELS if name != "no whole vectors"]


@pytest.fixture(scope="module")
def stored():
    return stored_logits("rwkv6")


def make(folder, name, weight_type="F32"):
    write_random(folder / "m.pth", MODELS[name])
    return convert(folder / "m.pth", folder / "m.gguf", weight_type)


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("name", BOTH)
def test_random_checkpoint_gives_the_stored_official_logits(name, backend, tmp_path, stored):
    summary = make(tmp_path, name)
    check(summary.path, backend, stored["tokens"], stored[name])


def test_heads_that_are_no_whole_vectors_are_left_to_the_reference(tmp_path, stored):
    path = make(tmp_path, "no whole vectors").path
    check(path, "reference", stored["tokens"], stored["no whole vectors"])
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
    # of 8 and 4 bits per block of 32, on random weights, whose errors do not average out.
    [("F16", 2e-3), ("BF16", 2e-2), ("Q8_0", 4e-2), ("Q4_0", 0.35)],
)
@pytest.mark.parametrize("name", ["usual", "odd ffn and ranks"])
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
    assert difference(logits["numba"], logits["reference"]) < (TOLERANCE if exact else 4e-2)


@pytest.mark.parametrize("weight_type", ["Q4_0", "Q8_0"])
def test_a_width_that_is_no_multiple_of_32_is_kept_in_halves_and_said(
    weight_type, tmp_path, stored
):
    summary = make(tmp_path, "no whole blocks", weight_type)
    # Rows of 80 and of 200 weights: none fits.
    n_matrices = 2 + 8 * MODELS["no whole blocks"].n_layer
    assert summary.notes == (
        f"{n_matrices} matrices are F16: {weight_type} needs rows of a multiple of 32 weights",
    )
    for backend in ("reference", "numba"):
        with Model.load(summary.path, backend=backend) as model:
            logits, _ = model.forward(stored["tokens"], all_logits=True)
        # 11 bits of a number.
        assert difference(logits, stored["no whole blocks"]) < 2e-3


@pytest.mark.parametrize("weight_type", ["Q4_0", "Q8_0", "F16"])
def test_a_prompt_at_once_and_token_by_token_give_the_same_bits(weight_type, tmp_path):
    path = make(tmp_path, "usual", weight_type).path
    random = np.random.default_rng(7)
    with Model.load(path, threads=2) as model:
        for n_tokens in (3, 5, 24, 37):
            tokens = random.integers(0, model.info.hyperparameters.n_vocab, n_tokens)
            rows, _ = model.forward(tokens, all_logits=True)
            state = model.new_state()
            singles = np.stack([model.forward([token], state)[0] for token in tokens])
            np.testing.assert_array_equal(rows, singles)


def test_low_rank_matrices_may_be_quantized_in_a_file_from_elsewhere(
    tmp_path, altered_gguf, stored
):
    path = make(tmp_path, "usual", "Q8_0").path
    tensors = {}
    with GgufFile(path) as file:
        for name, tensor in file.tensors.items():
            if name.endswith(("_w1.weight", "_w2.weight")):
                raw = Q8_0.encode(tensor.decode().reshape(-1, tensor.shape[-1]))
                tensors[name] = (raw.reshape(*tensor.shape[:-1], -1), "Q8_0")
    assert len(tensors) == 4 * MODELS["usual"].n_layer
    altered = altered_gguf(path, tensors=tensors)
    logits = {}
    for backend in ("reference", "numba"):
        with Model.load(altered, backend=backend, threads=2) as model:
            logits[backend], _ = model.forward(stored["tokens"], all_logits=True)
    # As for Q8_0 above.
    assert difference(logits["reference"], stored["usual"]) < 4e-2
    assert difference(logits["numba"], logits["reference"]) < 4e-2


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("every", [1, 2])
def test_weights_that_are_divided_while_x_is_halved_give_the_same_logits(
    every, backend, tmp_path, rescaled_gguf, stored
):
    name = "odd ffn and ranks"
    path = rescaled_gguf(make(tmp_path, name).path, every)
    with Model.load(path, backend=backend) as model:
        assert model.hyperparameters.rescale_every == every
        logits, _ = model.forward(stored["tokens"], all_logits=True)
    # Layer norm adds 1e-5 to the variance of x, which is near 1 here and 4 or 16 times less where x
    # was halved once or twice. Without any halving, logits would differ by more than a tenth.
    assert difference(logits, stored[name]) < 3e-4
