"""Arrays that answer to what code for torch calls."""

import copy
import pickle

import numpy as np
import pytest

from rwkv_edge import InputError
from rwkv_edge.compat.tensor import Tensor, softmax


@pytest.fixture
def tensor():
    return np.arange(6, dtype=np.float32).reshape(2, 3).view(Tensor)


def test_what_published_code_calls_gives_the_same_memory(tensor):
    for same in (
        tensor.detach(), tensor.cpu(), tensor.float(), tensor.to("cpu"), tensor.numpy(),
        tensor.detach().cpu().numpy(), tensor.contiguous(), tensor.view(3, 2),
    ):  # fmt: skip
        assert np.shares_memory(same, tensor)
    assert type(tensor.numpy()) is np.ndarray
    assert tensor.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert tensor.argmax().item() == 5
    assert tensor.argmax(dim=-1).tolist() == [2, 2]
    assert (tensor.numel(), tensor.dim(), tuple(tensor.shape)) == (6, 2, (2, 3))
    assert tensor.unsqueeze(0).shape == (1, 2, 3)


def test_copies_are_independent(tensor):
    for other in (
        tensor.clone(),
        copy.deepcopy(tensor),
        copy.copy(tensor),
        pickle.loads(pickle.dumps(tensor)),
    ):
        assert isinstance(other, Tensor)
        np.testing.assert_array_equal(other, tensor)
        assert not np.shares_memory(other, tensor)


def test_it_is_written_in_place(tensor):
    seen = tensor[1]
    tensor.copy_([[9, 9, 9], [1, 2, 3]])
    assert seen.tolist() == [1, 2, 3]
    tensor.zero_()
    assert not seen.any()


def test_a_view_that_needs_a_copy_is_refused(tensor):
    assert tensor.view(-1).tolist() == [0, 1, 2, 3, 4, 5]
    assert tensor.view((1, 6)).shape == (1, 6)
    assert type(tensor.view(np.ndarray)) is np.ndarray
    with pytest.raises(InputError, match="contiguous"):
        tensor.T.view(6)
    assert tensor.T.contiguous().view(6).tolist() == [0, 3, 1, 4, 2, 5]


def test_it_stays_on_the_cpu(tensor):
    assert tensor.to(device="cpu") is tensor
    with pytest.raises(InputError, match="cuda:0"):
        tensor.to("cuda:0")
    with pytest.raises(InputError, match="mps"):
        tensor.to(device="mps")


def test_softmax_gives_probabilities(tensor):
    wanted = np.exp(np.arange(3.0)) / np.exp(np.arange(3.0)).sum()
    np.testing.assert_allclose(tensor.softmax(-1), [wanted, wanted], rtol=1e-6)
    # Neither overflows, nor minds what is banned.
    assert softmax([1e30, -np.inf, 1e30]).tolist() == [0.5, 0, 0.5]


def test_functions_of_torch_take_it(tensor):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    assert torch.argmax(tensor).item() == 5
    found = torch.nn.functional.softmax(tensor.float(), dim=-1)
    np.testing.assert_allclose(found.numpy(), tensor.softmax(dim=-1), rtol=1e-6)
    assert torch.stack([tensor, tensor]).shape == (2, 2, 3)
    assert (torch.zeros(2, 3) + tensor).sum() == 15
    assert tensor.to(torch.device("cpu"), torch.float16) is tensor
