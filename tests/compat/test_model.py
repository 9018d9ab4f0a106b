"""RWKV's arguments, results and attributes."""

import numpy as np
import pytest

from rwkv_edge import InputError, RwkvEdgeError, StateMismatchError
from rwkv_edge.compat import RWKV
from rwkv_edge.compat.model import version_number
from rwkv_edge.compat.tensor import Tensor

TOKENS = [3, 200, 7, 7, 1000]


def test_logits_are_those_of_the_model_itself(builtin):
    wanted, _ = builtin.model.forward(TOKENS, all_logits=True)
    logits, state = builtin.forward(TOKENS, None, full_output=True)
    assert type(logits) is Tensor
    np.testing.assert_array_equal(logits, wanted)
    np.testing.assert_array_equal(builtin.forward(TOKENS, None)[0], wanted[-1])
    assert type(state) is list


def test_a_token_may_be_a_number_of_any_kind_or_a_list_of_one(builtin):
    wanted, _ = builtin.forward([7], None)
    assert wanted.shape == (2048,)
    for token in (7, np.int64(7), [7], (7,), np.array([7]), [np.uint16(7)]):
        for full_output in (False, True):
            found, _ = builtin.forward(token, None, full_output)
            np.testing.assert_array_equal(found, wanted)


def test_whole_and_in_parts_give_the_same(builtin):
    wanted, _ = builtin.forward(TOKENS, None)
    _, state = builtin.forward(TOKENS[:2], None)
    _, state = builtin.forward([TOKENS[2]], state)
    found, _ = builtin.forward(TOKENS[3:], state)
    assert np.abs(found - wanted).max() <= 1e-4 * np.ptp(wanted)


def test_logits_belong_to_the_caller(builtin):
    first, state = builtin.forward(TOKENS, None)
    kept = first.clone()
    second, _ = builtin.forward(TOKENS, state)
    np.testing.assert_array_equal(first, kept)
    second -= 1
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("tokens", [[], [2048], -1, "text", [1.5], [[1], [2]], None])
def test_what_are_no_tokens_is_refused_and_leaves_the_state(builtin, tokens):
    _, state = builtin.forward(TOKENS, None)
    before = [array.clone() for array in state]
    with pytest.raises(InputError):
        builtin.forward(tokens, state)
    for array, wanted in zip(state, before, strict=True):
        np.testing.assert_array_equal(array, wanted)


def test_attributes_that_code_looks_at_are_there(builtin, builtin_pth):
    args = builtin.args
    assert (args.n_layer, args.n_embd, args.n_att, args.n_ffn) == (4, 192, 192, 768)
    assert (args.vocab_size, args.n_head, args.head_size) == (2048, 3, 64)
    assert (args.MODEL_NAME, args.strategy_string) == (str(builtin_pth), "cpu fp32")
    assert (builtin.n_layer, builtin.n_embd, builtin.n_head, builtin.head_size) == (4, 192, 3, 64)
    assert builtin.version == 7
    assert [str(part) for part in builtin.strategy] == 5 * ["cpu fp32"]


def test_version_numbers_are_the_official_ones():
    numbers = {"4": 4, "5.0": 5, "5.1": 5.1, "5.2": 5.2, "6": 6, "7": 7, "7a": 7}
    for version, number in numbers.items():
        found = version_number(version)
        assert (found, type(found)) == (number, type(number))


def test_arguments_may_be_given_as_in_the_official_package(builtin_pth):
    for model in (
        RWKV(str(builtin_pth), "cpu fp32", False),
        RWKV(model=str(builtin_pth), strategy="cpu fp32", verbose=False),
        RWKV(builtin_pth, verbose=False),
    ):
        model.forward(1, None)
        model.close()


def test_saving_for_the_official_package_is_refused(builtin_pth):
    with pytest.raises(RwkvEdgeError, match="convert_and_save_and_exit"):
        RWKV(str(builtin_pth), "cpu fp32", convert_and_save_and_exit="other.pth")


def test_variables_of_the_official_package_change_nothing(builtin, builtin_pth, monkeypatch):
    for name in ("RWKV_V7_ON", "RWKV_JIT_ON", "RWKV_CUDA_ON", "RWKV_RESCALE_LAYER"):
        monkeypatch.setenv(name, "1")
    model = RWKV(str(builtin_pth), "cpu fp32", verbose=False)
    np.testing.assert_array_equal(model.forward(TOKENS, None)[0], builtin.forward(TOKENS, None)[0])
    model.close()


def test_a_backend_without_views_of_its_states_says_so(builtin_pth):
    pytest.importorskip("llama_cpp")
    model = RWKV(str(builtin_pth), "cpu fp32", verbose=False, backend="llama")
    with pytest.raises(RwkvEdgeError, match="numba backend"):
        model.forward(1, None)
    model.close()


def test_a_list_of_another_models_shape_is_refused(builtin):
    _, state = builtin.forward(1, None)
    with pytest.raises(StateMismatchError, match=r"15 arrays; .* has 12"):
        builtin.forward(1, [*state, *state[:3]])
