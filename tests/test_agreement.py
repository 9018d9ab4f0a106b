"""The built-in model through three engines that share no code: they must agree."""

import numpy as np
import pytest

from rwkv_edge import BackendUnavailableError, Model
from rwkv_edge.builtin import checkpoint_path, heldout_path
from rwkv_edge.converters.convert import convert

N_TOKENS = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agreement")
    for weight_type in ("F32", "Q4_0"):
        convert(checkpoint_path(), folder / f"{weight_type}.gguf", weight_type)
    return folder


def logits_of(path, backend):
    try:
        with Model.load(path, backend=backend) as model:
            tokens = model.tokenizer.encode(heldout_path().read_bytes()[:4000])[:N_TOKENS]
            return model.forward(tokens, all_logits=True)[0].astype(np.float64)
    except BackendUnavailableError as error:
        pytest.skip(str(error))


def log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def kl(p_logits, q_logits):
    """(T,) nats: what is lost when q stands for p."""
    p, q = log_softmax(p_logits), log_softmax(q_logits)
    return (np.exp(p) * (p - q)).sum(axis=1)


@pytest.mark.parametrize(
    ("one", "other"), [("numba", "reference"), ("llama", "reference"), ("numba", "llama")]
)
def test_engines_agree_on_the_float32_file_at_every_position(folder, one, other):
    found, wanted = (logits_of(folder / "F32.gguf", name) for name in (one, other))
    assert found.shape == (N_TOKENS, wanted.shape[1])
    spread = wanted.max(axis=1) - wanted.min(axis=1)
    assert np.all(np.abs(found - wanted).max(axis=1) < 1e-3 * spread)


def test_numba_and_llama_agree_on_the_int4_file(folder):
    found, wanted = (logits_of(folder / "Q4_0.gguf", name) for name in ("numba", "llama"))
    assert np.all(kl(wanted, found) < 1e-3)


def test_int4_costs_little_against_float32(folder):
    # What the int4 file loses is far more than what engines differ by; it must still be the model.
    found, wanted = (logits_of(folder / f"{t}.gguf", "numba") for t in ("Q4_0", "F32"))
    assert 1e-3 < kl(wanted, found).mean() < 0.2
