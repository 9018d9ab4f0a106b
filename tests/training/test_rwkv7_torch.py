"""The model that is trained here is RWKV-7: its gradients and its logits against other sources."""

import os

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch: pip install rwkv-edge[train]")

from training.rwkv7_torch import RWKV7, Shape, load_rwkv7  # noqa: E402
from training.train import bfloat16_weights, lr_factor  # noqa: E402
from training.wkv7 import CHUNK, HEAD_SIZE, wkv7  # noqa: E402


def wkv7_operands(n_batch, n_tokens, n_head):
    torch.manual_seed(0)
    shape = (n_batch, n_tokens, n_head, HEAD_SIZE)
    r, k, v = (torch.randn(shape) for _ in range(3))
    decay = 0.55 + 0.45 * torch.rand(shape)  # RWKV-7 keeps decay above exp(-exp(-0.5)) = 0.545
    kk = torch.nn.functional.normalize(torch.randn(shape), dim=-1)
    return r, decay, k, v, -kk, kk * torch.rand(shape)


def wkv7_by_definition(r, w, k, v, a, b):
    """S = S diag(w) + (S a) b^T + v k^T; y = S r, token by token, left to autograd."""
    n_batch, n_tokens, n_head, n = r.shape
    state = torch.zeros(n_batch, n_head, n, n, dtype=r.dtype)
    outputs = []
    for t in range(n_tokens):
        removed = (state @ a[:, t, :, :, None]) * b[:, t, :, None, :]
        added = v[:, t, :, :, None] * k[:, t, :, None, :]
        state = state * w[:, t, :, None, :] + removed + added
        outputs.append((state @ r[:, t, :, :, None])[..., 0])
    return torch.stack(outputs, 1)


def test_wkv7_and_its_gradients_match_autograd_in_float64():
    operands = wkv7_operands(2, 3 * CHUNK, 2)
    exact = [tensor.double().requires_grad_() for tensor in operands]
    fast = [tensor.clone().requires_grad_() for tensor in operands]
    y_exact, y = wkv7_by_definition(*exact), wkv7(*fast)
    upstream = torch.randn(y.shape)
    y_exact.backward(upstream.double())
    y.backward(upstream)
    # 1e-5 of the largest value: float32 sums of 64 terms over 48 tokens.
    assert (y - y_exact).abs().max() < 1e-5 * y_exact.abs().max()
    for name, want, got in zip("rwkvab", exact, fast, strict=True):
        assert (got.grad - want.grad).abs().max() < 1e-5 * want.grad.abs().max(), name


def test_wkv7_refuses_tokens_that_do_not_fill_chunks():
    with pytest.raises(ValueError, match=f"multiple of {CHUNK}"):
        wkv7(*wkv7_operands(1, CHUNK + 1, 1))


def random_model():
    """Every parameter moved off its start: the zero matrices would hide what they multiply."""
    torch.manual_seed(1)
    model = RWKV7(Shape(n_vocab=300, n_layer=3, n_embd=128, w_rank=8, a_rank=9, v_rank=10))
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.1 * torch.randn(param.shape))
    return model


def test_logits_match_the_official_package(tmp_path):
    os.environ["RWKV_V7_ON"] = "1"
    official = pytest.importorskip("rwkv.model", reason="needs the official rwkv package")
    if not hasattr(official, "RWKV_x070"):
        pytest.skip("rwkv.model was imported before RWKV_V7_ON was set")
    model = random_model()
    torch.save(dict(model.state_dict()), tmp_path / "random.pth")
    tokens = np.random.default_rng(2).integers(0, 300, 3 * CHUNK).tolist()
    oracle = official.RWKV(str(tmp_path / "random"), "cpu fp32")
    want, _ = oracle.forward(tokens, None, full_output=True)
    with torch.no_grad():
        got = model(torch.tensor([tokens]))[0]
    assert (got - want).abs().max() < 1e-4 * (want.max() - want.min())


def test_checkpoint_round_trip_keeps_names_and_shapes():
    weights = bfloat16_weights(random_model())
    assert "blocks.0.att.v0" not in weights
    assert weights["blocks.1.att.v0"].shape == (1, 1, 128)
    assert weights["blocks.2.att.r_k"].shape == (2, HEAD_SIZE)
    assert all(tensor.dtype == torch.bfloat16 for tensor in weights.values())
    again = load_rwkv7(weights).state_dict()
    assert all(torch.equal(again[name], tensor.float()) for name, tensor in weights.items())


def test_learning_rate_ends_at_nearly_nothing():
    rates = [lr_factor(progress) for progress in np.linspace(0.0, 1.2, 200)]
    assert max(rates) == 1.0
    assert rates[-1] == pytest.approx(0.01)
    assert min(rates) > 0.0
