"""What every backend promises, on a tiny model of each version.

An optional backend is skipped aloud if it is missing, or if it does not know the version.
"""

import numpy as np
import pytest

from rwkv_edge import BackendUnavailableError, Model, UnsupportedModelError
from rwkv_edge.arch import architecture_of
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.runtime.backends import BACKENDS
from tests.exported import file_for

# float32 sums in another order; relative to the spread of the logits.
SAME_NUMBERS = 1e-4
TOKENS = np.random.default_rng(0).integers(0, 256, 90).astype(np.int32)
# Every rank and width differs, so that nothing fits in another's place.
SHAPES = {
    "4": {"n_ffn": 320},
    "5.0": {"n_ffn": 320},
    "5.1": {"n_ffn": 320},
    "5.2": {"n_ffn": 320},
    "6": {"n_ffn": 320, "ranks": (32, 40)},
    "7": {"n_ffn": 320, "ranks": (32, 64, 40, 96)},
    "7a": {"n_ffn": 320, "ranks": (32, 64, 40, 96)},
}


@pytest.fixture(scope="module", params=list(SHAPES))
def path(request, tmp_path_factory):
    version = request.param
    folder = tmp_path_factory.mktemp("contract")
    shape = synthetic_hyperparameters(3, 128, version=version, n_vocab=256, **SHAPES[version])
    write_synthetic(folder / "tiny.pth", shape, seed=3)
    convert(folder / "tiny.pth", folder / "tiny.gguf", "F32")
    return folder / "tiny.gguf"


def load(path, name):
    try:
        return Model.load(file_for(name, path), backend=name)
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    except UnsupportedModelError as error:
        if name != "llama":  # which has some of the versions
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=list(BACKENDS))
def model(request, path):
    with load(path, request.param) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def expected(path):
    with Model.load(path, backend="reference") as reference:
        logits, state = reference.forward(TOKENS, all_logits=True)
        return logits, state.to_arrays()


def difference(found, wanted):
    """Largest difference, relative to the spread of what is wanted."""
    return np.abs(found - wanted).max() / (wanted.max() - wanted.min())


def test_all_logits_match_the_reference(model, expected):
    logits, _ = model.forward(TOKENS, all_logits=True)
    assert logits.shape == (90, 256)
    assert logits.dtype == np.float32
    assert difference(logits, expected[0]) < SAME_NUMBERS


def test_the_last_logits_are_the_last_of_all(model, expected):
    logits, _ = model.forward(TOKENS)
    assert logits.shape == (256,)
    assert difference(logits, expected[0][-1]) < SAME_NUMBERS


def test_one_token_at_a_time_gives_the_same(model, expected):
    state = model.new_state()
    rows = [model.forward([token], state)[0] for token in TOKENS]
    assert difference(np.stack(rows), expected[0]) < SAME_NUMBERS


@pytest.mark.parametrize("split", [1, 4, 63, 64, 65, 89])
def test_split_anywhere_it_gives_the_same(model, expected, split):
    _, state = model.forward(TOKENS[:split])
    logits, same = model.forward(TOKENS[split:], state)
    assert same is state
    assert difference(logits, expected[0][-1]) < SAME_NUMBERS


def test_the_state_is_the_canonical_one(model, expected):
    _, state = model.forward(TOKENS)
    arrays = state.to_arrays()
    assert {n: a.shape for n, a in arrays.items()} == model.state_shapes
    for name, wanted in expected[1].items():
        assert difference(arrays[name], wanted) < SAME_NUMBERS, name


def test_a_fresh_state_is_the_initial_one(model):
    initial = architecture_of(model.info.hyperparameters.version).state_initial_value
    for name, array in model.new_state().to_arrays().items():
        assert (array == np.float32(initial(name))).all(), name


def test_a_state_out_of_arrays_goes_on_as_if_it_had_always_been_here(model, path, expected):
    with Model.load(path, backend="reference") as reference:
        _, state = reference.forward(TOKENS[:50])
        moved = model.state_from_arrays(state.to_arrays())
    logits, _ = model.forward(TOKENS[50:], moved, all_logits=True)
    assert difference(logits, expected[0][50:]) < SAME_NUMBERS


def test_a_state_survives_its_own_arrays_unchanged(model):
    _, state = model.forward(TOKENS[:20])
    arrays = state.to_arrays()
    again = model.state_from_arrays(arrays).to_arrays()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, again[name], err_msg=name)


def test_views_show_what_forward_did_and_forward_sees_what_was_written(model, expected):
    _, state = model.forward(TOKENS[:50])
    if model.backend.name in ("llama", "onnx"):
        with pytest.raises(BackendUnavailableError, match="to_arrays"):
            state.views()
        return
    views = state.views()
    before = {name: view.copy() for name, view in views.items()}
    model.forward(TOKENS[50:], state)
    for name, wanted in expected[1].items():
        assert difference(views[name], wanted) < SAME_NUMBERS, name
        views[name][...] = before[name]
    logits, _ = model.forward(TOKENS[50:], state)
    assert difference(logits, expected[0][-1]) < SAME_NUMBERS


def test_a_clone_is_independent(model):
    _, state = model.forward(TOKENS[:20])
    clone = state.clone()
    before = clone.to_arrays()
    model.forward(TOKENS[20:40], state)
    for name, array in clone.to_arrays().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    fresh = model.new_state()
    copy = fresh.clone()
    before = copy.to_arrays()
    model.forward(TOKENS[:5], fresh)
    for name, array in copy.to_arrays().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_interleaved_states_do_not_disturb_each_other(model, expected):
    first, second = model.new_state(), model.new_state()
    model.forward(TOKENS[:30], first)
    model.forward(TOKENS[60:], second)
    model.forward(TOKENS[30:60], first)
    logits, _ = model.forward(TOKENS[60:], first)
    assert difference(logits, expected[0][-1]) < SAME_NUMBERS


def test_a_batch_gives_what_each_sequence_gets_alone(model):
    parts = [TOKENS[:1], TOKENS[:70], TOKENS[30:47]]
    alone = np.stack([model.forward(part)[0] for part in parts])
    states = [model.new_state() for _ in parts]
    together = model.forward_batch(parts, states)
    assert together.shape == (3, 256)
    assert difference(together, alone) < SAME_NUMBERS
    for part, state in zip(parts, states, strict=True):
        _, lonely = model.forward(part)
        for name, array in lonely.to_arrays().items():
            found = state.to_arrays()[name]
            np.testing.assert_allclose(found, array, rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_batch_wider_and_longer_than_a_block_gives_the_same(model):
    parts = [TOKENS[i % 7 : i % 7 + 1 + 5 * (i % 4)] for i in range(18)]
    parts[3] = np.tile(TOKENS, 2)
    alone = np.stack([model.forward(part)[0] for part in parts])
    together = model.forward_batch(parts, [model.new_state() for _ in parts])
    assert difference(together, alone) < SAME_NUMBERS


def test_sequences_go_on_in_batches_of_any_kind_as_they_would_alone(model):
    parts = [TOKENS[i : i + 12] for i in range(5)]
    alone = np.stack([model.forward(part)[0] for part in parts])
    states = [model.new_state() for _ in parts]
    model.forward_batch([part[:3] for part in parts], states)
    # Two together, the others each for itself, all again, all but one, and that one alone.
    model.forward_batch([parts[i][3:5] for i in (0, 3)], [states[0], states[3]])
    for i in (1, 2, 4):
        model.forward(parts[i][3:5], states[i])
    model.forward_batch([part[5:8] for part in parts], states)
    copies = [state.clone() for state in states]
    first = model.forward_batch([part[8:] for part in parts[1:]], states[1:])
    last, _ = model.forward(parts[0][8:], states[0])
    assert difference(np.stack([last, *first]), alone) < SAME_NUMBERS
    # The copies are where the others were.
    again = model.forward_batch([part[8:] for part in parts], copies)
    assert difference(again, alone) < SAME_NUMBERS
