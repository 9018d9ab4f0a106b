"""State lists: the kernels' own memory, with the habits of a list of torch tensors."""

import copy
import gc
import pickle
import tracemalloc
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from rwkv_edge import InputError, StateMismatchError, UnsupportedModelError
from rwkv_edge.compat import RWKV
from rwkv_edge.compat.state_list import StateLists
from rwkv_edge.compat.tensor import Tensor

TOKENS = [5, 99, 17, 230, 64, 8]


@pytest.fixture(params=["numba", "reference"])
def model(request, builtin, builtin_pth):
    if request.param == "numba":
        yield builtin
        return
    other = RWKV(str(builtin_pth), "cpu fp32", verbose=False, backend="reference")
    yield other
    other.close()


@pytest.fixture
def state(model):
    return model.forward(TOKENS, None)[1]


def numbers(state):
    return [np.array(array) for array in state]


def assert_same(found, wanted):
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        np.testing.assert_array_equal(a, b, err_msg=f"entry {i}")


def after(model, entries, token=42):
    """Logits and numbers after one more token, from copies of the entries."""
    logits, state = model.forward(token, [np.array(entry) for entry in entries])
    return logits, numbers(state)


def test_layout_is_the_official_one(model):
    state = model.generate_zero_state()
    assert type(state) is list
    assert [array.shape for array in state] == 4 * [(192,), (3, 64, 64), (192,)]
    assert not any(array.any() for array in state)
    assert all(isinstance(array, Tensor) for array in state)


def test_the_list_is_advanced_in_place_and_returned(model, state):
    logits, wanted = after(model, state)
    found, same = model.forward(42, state)
    assert same is state
    np.testing.assert_array_equal(found, logits)
    assert_same(state, wanted)


def test_the_list_that_was_given_out_is_used_without_a_copy(model, state):
    addresses = [array.ctypes.data for array in state]
    for token in TOKENS:
        model.forward(token, state)
    assert [array.ctypes.data for array in state] == addresses


def test_arrays_kept_elsewhere_stay_as_they_were(model, state):
    logits, wanted = after(model, state)
    before = numbers(state)
    holders = {
        "a copy of the list": list,
        "a slice of it": lambda s: s[:],
        "one array": lambda s: [None, s[1]],
        "part of an array": lambda s: [None, s[1][:]],
        "a plain view": lambda s: [None, s[1].numpy()],
        "a view of a view": lambda s: [None, s[1].numpy()[:, :5][:, 0:]],
        "the buffer": lambda s: [None, np.frombuffer(memoryview(s[0]), np.float32)],
    }
    for name, hold in holders.items():
        given = [np.array(array) for array in before]
        model.forward([1], given)
        for array, number in zip(given, before, strict=True):
            array[...] = number
        kept = hold(given)
        snapshot = copy.deepcopy(kept)
        found, _ = model.forward(42, given)
        np.testing.assert_array_equal(found, logits, err_msg=name)
        assert_same(given, wanted)
        for a, b in zip(kept, snapshot, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


def test_two_lists_of_the_same_arrays_part_ways(model, state):
    other = list(state)
    first, _ = model.forward(1, state)
    model.forward(2, other)
    third, _ = model.forward(3, state)
    _, straight = model.forward([*TOKENS, 1], None)
    wanted, _ = model.forward(3, straight)
    np.testing.assert_allclose(third, wanted, rtol=1e-5, atol=1e-4)
    assert (first != third).any()


def test_what_is_written_into_an_array_counts(model, state):
    edited = numbers(state)
    edited[1] *= 0.5
    edited[5][:10] = 1.25
    logits, wanted = after(model, edited)
    state[1] *= 0.5
    state[5][:10] = 1.25
    found, _ = model.forward(42, state)
    np.testing.assert_array_equal(found, logits)
    assert_same(state, wanted)


def test_an_array_that_took_another_one_s_place_counts(model, state):
    for make in (lambda a: a * 0.5, lambda a: np.array(a) * 0.5, lambda a: (a * 0.5).tolist()):
        edited = numbers(state)
        edited[4] = edited[4] * 0.5
        logits, wanted = after(model, edited)
        given = copy.deepcopy(state)
        model.forward([1], given)
        given[:] = copy.deepcopy(state)
        given[4] = make(given[4])
        found, _ = model.forward(42, given)
        np.testing.assert_array_equal(found, logits)
        assert_same(given, wanted)


def test_arrays_that_changed_places_count(model, state):
    edited = numbers(state)
    edited[1], edited[4] = edited[4], edited[1]
    logits, _ = after(model, edited)
    state[1], state[4] = state[4], state[1]
    found, _ = model.forward(42, state)
    np.testing.assert_array_equal(found, logits)


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda state: [array.clone() for array in state],
        lambda state: pickle.loads(pickle.dumps(state)),
        lambda state: [array.detach().cpu().numpy() for array in state],
        lambda state: tuple(copy.deepcopy(state)),
    ],
    ids=["deepcopy", "clone", "pickle", "numpy", "tuple"],
)
def test_copies_are_states_of_their_own(model, state, copied):
    logits, wanted = after(model, state)
    other = copied(state)
    for token in TOKENS:
        model.forward(token, state)
    found, other = model.forward(42, other)
    np.testing.assert_array_equal(found, logits)
    assert_same(other, wanted)


def test_tensors_of_torch_are_a_state(model, state):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    logits, _ = after(model, state)
    given = [torch.tensor(np.array(array), requires_grad=True) for array in state]
    halves = [array.detach().bfloat16() for array in given]
    np.testing.assert_array_equal(model.forward(42, given)[0], logits)
    # The eight bits of a bfloat16.
    assert np.abs(model.forward(42, halves)[0] - logits).max() < 0.05 * np.ptp(logits)


def test_a_state_moves_between_models_of_one_shape(builtin, builtin_pth, state):
    logits, _ = after(builtin, state)
    other = RWKV(str(builtin_pth), "cpu fp32", verbose=False, backend="reference")
    found, _ = other.forward(42, state)
    assert np.abs(found - logits).max() < 1e-4 * np.ptp(logits)
    # And back, without a trace of where it was.
    builtin.forward(43, state)
    other.close()


def test_without_in_place_the_list_stays_as_it_is(builtin_pth):
    model = RWKV(str(builtin_pth), "cpu fp32", verbose=False, in_place=False)
    _, state = model.forward(TOKENS, None)
    before, entries = numbers(state), list(state)
    logits, advanced = model.forward(42, state)
    assert advanced is not state
    assert all(a is b for a, b in zip(state, entries, strict=True))
    assert_same(state, before)
    del entries
    again, _ = model.forward(42, state)
    np.testing.assert_array_equal(again, logits)
    model.close()


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda s: s[:-1], StateMismatchError, "11 arrays"),
        (lambda s: [], StateMismatchError, "0 arrays"),
        (lambda s: [*s[:4], s[5], s[4], *s[6:]], StateMismatchError, "entry 4"),
        (lambda s: [None, *s[1:]], StateMismatchError, "entry 0"),
        (lambda s: [["a"], *s[1:]], InputError, "entry 0"),
        (lambda s: 7, InputError, "list of arrays"),
        (lambda s: "state", InputError, "list of arrays"),
    ],
)
def test_what_is_no_state_is_refused_in_one_line(model, state, spoil, error, message):
    with pytest.raises(error, match=message) as caught:
        model.forward(1, spoil(state))
    assert "\n" not in str(caught.value)


class Version4:
    """As much of a model of version 4 as a list of its state needs."""

    path = "v4.gguf"
    hyperparameters = SimpleNamespace(version="4", n_layer=2)
    state_shapes: ClassVar = dict.fromkeys(("aa", "att_x", "bb", "ffn_x", "pp"), (2, 6))

    def new_state(self):
        arrays = {n: np.full(s, -1e30 if n == "pp" else 0, "f4") for n, s in self.shapes()}
        return self.state_from_arrays(arrays)

    def shapes(self):
        return self.state_shapes.items()

    def state_from_arrays(self, arrays):
        return SimpleNamespace(model=self, views=lambda: arrays, arrays=arrays)


def test_version_4_has_five_arrays_a_layer():
    lists = StateLists(Version4())
    fresh = lists.fresh()
    assert len(fresh) == 10
    order = ["att_x", "aa", "bb", "pp", "ffn_x"]
    assert [i for i, array in enumerate(fresh) if (array == np.float32(-1e30)).all()] == [3, 8]
    given = [np.full(6, i, np.float32) for i in range(10)]
    arrays = lists.state_of(given).arrays
    for j, name in enumerate(order):
        assert arrays[name].tolist() == [[j] * 6, [5 + j] * 6], name


def test_a_state_without_an_official_list_is_refused():
    model = Version4()
    model.state_shapes = {"att_x": (2, 6), "qkv": (2, 6)}
    with pytest.raises(UnsupportedModelError, match="att_x, qkv"):
        StateLists(model)


def test_dropped_states_leave_no_memory_behind(builtin):
    gc.disable()
    try:
        tracemalloc.start()
        for n in range(30):
            _, state = builtin.forward(TOKENS, None)
            kept = list(state)
            _, state = builtin.forward(1, state)
            del kept, state
            if n == 5:
                before, _ = tracemalloc.get_traced_memory()
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    # A state takes 200 KB; none may wait for the garbage collector.
    assert now - before < 100_000
