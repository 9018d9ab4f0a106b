"""Unmodified llama.cpp loads what we write, and computes what the official package computes."""

import ctypes
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rwkv_edge import Model
from rwkv_edge.arch.rwkv7 import Rwkv7Hyperparameters
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic

llama_cpp = pytest.importorskip("llama_cpp")

N_VOCAB = 256


@llama_cpp.llama_log_callback
def _quiet(level: int, text: bytes, user_data: Any) -> None:
    """llama.cpp prints a page for each model."""


class Loaded:
    """A model in llama.cpp, through its C interface."""

    def __init__(self, path: Path) -> None:
        llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
        params = llama_cpp.llama_model_default_params()
        # With them the process dies where GCC has miscompiled AMX.
        params.use_extra_bufts = False
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        assert self.model, f"llama.cpp does not load {path}"
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)

    def close(self) -> None:
        llama_cpp.llama_model_free(self.model)

    def tokenize(self, data: bytes) -> list[int]:
        ids = (llama_cpp.llama_token * (len(data) + 8))()
        n = llama_cpp.llama_tokenize(self.vocab, data, len(data), ids, len(ids), False, False)
        return list(ids[:n])

    def piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        n = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, True)
        return buffer.raw[:n]

    def logits(self, tokens: list[int]) -> npt.NDArray[np.float32]:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = 512
        params.n_threads = params.n_threads_batch = 2
        context = llama_cpp.llama_init_from_model(self.model, params)
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, 1
        assert llama_cpp.llama_decode(context, batch) == 0
        n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)
        rows = [
            np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, i), (n_vocab,)).copy()
            for i in range(len(tokens))
        ]
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
        return np.stack(rows)


@pytest.fixture
def load() -> Iterator[Any]:
    opened: list[Loaded] = []

    def open_model(path: Path) -> Loaded:
        opened.append(Loaded(path))
        return opened[-1]

    yield open_model
    for model in opened:
        model.close()


@pytest.mark.parametrize(
    ("weight_type", "tolerance"),
    # Of the spread of the official logits: rounding of float32 sums, of 11 and of 8 bits, then
    # of the codes, where activations are rounded to int8 as well (measured: 0.0026, 0.032).
    [("F32", 1e-5), ("F16", 3e-4), ("BF16", 2e-3), ("Q8_0", 1e-2), ("Q4_0", 0.1)],
)
def test_logits_are_those_of_the_official_package(
    tmp_path: Path, trained_rwkv7: Path, load: Any, weight_type: str, tolerance: float
) -> None:
    official = np.load(trained_rwkv7.with_suffix(".npz"))
    summary = convert(trained_rwkv7, tmp_path / "m.gguf", weight_type)
    logits = load(summary.path).logits(official["tokens"].tolist())
    spread = np.ptp(official["logits"])
    assert np.abs(logits - official["logits"]).max() < tolerance * spread


def test_a_byte_model_tokenizes_bytes_and_never_ends(
    tmp_path: Path, trained_rwkv7: Path, load: Any
) -> None:
    model = load(convert(trained_rwkv7, tmp_path / "m.gguf").path)
    every_byte = bytes(range(256))
    assert bytes(model.tokenize(every_byte)) == every_byte
    assert b"".join(model.piece(i) for i in range(256)) == every_byte
    assert not any(llama_cpp.llama_vocab_is_eog(model.vocab, i) for i in range(256))


def test_a_world_model_ends_at_0_and_not_at_a_blank_line(tmp_path: Path, load: Any) -> None:
    write_synthetic(tmp_path / "m.pth", square_ranks(synthetic_hyperparameters(1, 64)))
    model = load(convert(tmp_path / "m.pth", tmp_path / "m.gguf").path)
    ends = [i for i in range(65536) if llama_cpp.llama_vocab_is_eog(model.vocab, i)]
    assert ends == [0]
    assert model.tokenize(b"\n\n") == [261]
    official = pytest.importorskip("pyrwkv_tokenizer").RWKVTokenizer()
    for text in ("Hello, 世界!", " it's a \\backslash\"\n\n\nUser: ", "\x00\t\x85é🙂 " * 9):
        assert model.tokenize(text.encode()) == official.encode(text)
    for token in (1, 97, 261, 65529):
        assert model.piece(token) == official.decode([token]).encode()
    assert not llama_cpp.llama_vocab_get_add_bos(model.vocab)


RWKV6_SHAPE: dict[str, Any] = {"version": "6", "n_ffn": 416, "n_vocab": N_VOCAB}


@pytest.fixture
def rwkv6_pth(tmp_path: Path) -> Path:
    hp = synthetic_hyperparameters(3, 128, ranks=(24, 40), **RWKV6_SHAPE)
    write_synthetic(tmp_path / "m.pth", hp, dtype="float32")
    return tmp_path / "m.pth"


def logits_here(path: Path, tokens: list[int], backend: str) -> npt.NDArray[np.float32]:
    with Model.load(path, backend=backend) as model:
        return model.forward(tokens, all_logits=True)[0]


def mean_divergence(p: npt.NDArray[np.float32], q: npt.NDArray[np.float32]) -> float:
    """KL divergence of q's predictions from p's, in nats per token."""
    log_p, log_q = (
        x - np.log(np.exp(x - x.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
        - x.max(axis=1, keepdims=True)
        for x in (p.astype(np.float64), q.astype(np.float64))
    )  # fmt: skip
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())


@pytest.mark.parametrize(
    ("weight_type", "tolerance", "divergence"),
    # Of the spread of the logits: rounding of float32 sums; of activations to 11 or 8 bits, which
    # llama.cpp does before a product with such weights; of activations to int8 (the same codes, but
    # one float32 that rounds otherwise moves a code).
    [("F32", 1e-5, 1e-8), ("F16", 2e-3, 1e-5), ("BF16", 2e-2, 1e-3), ("Q8_0", 2e-2, 1e-3),
     ("Q4_0", 2e-2, 1e-3)],
)  # fmt: skip
def test_rwkv6_gives_the_logits_that_it_gives_here(
    tmp_path: Path, rwkv6_pth: Path, load: Any, weight_type: str, tolerance: float,
    divergence: float,
) -> None:  # fmt: skip
    path = convert(rwkv6_pth, tmp_path / "m.gguf", weight_type).path
    tokens = list(range(5, 45))
    theirs, ours = load(path).logits(tokens), logits_here(path, tokens, "numba")
    assert np.abs(theirs - ours).max() < tolerance * np.ptp(ours)
    assert mean_divergence(ours, theirs) < divergence


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_rescaled_rwkv6_gives_the_logits_that_it_gives_here(
    tmp_path: Path, rwkv6_pth: Path, load: Any, rescaled_gguf: Any, backend: str
) -> None:
    """As public files are, but after every second layer instead of every sixth."""
    plain = convert(rwkv6_pth, tmp_path / "m.gguf", "F32").path
    rescaled = rescaled_gguf(plain, 2)
    tokens = list(range(5, 45))
    theirs, ours = load(rescaled).logits(tokens), logits_here(rescaled, tokens, backend)
    assert np.abs(theirs - ours).max() < 1e-5 * np.ptp(ours)
    # Layer norm adds 1e-5 to the variance of an x that is halved.
    unscaled = load(plain).logits(tokens)
    assert np.abs(theirs - unscaled).max() < 3e-4 * np.ptp(unscaled)


def square_ranks(hp: Rwkv7Hyperparameters) -> Rwkv7Hyperparameters:
    """Value mix and in-context rate of one rank."""
    return dataclasses.replace(hp, value_rank=hp.iclr_rank)


def test_ranks_may_differ_from_each_other(tmp_path: Path, tiny_pth: Path, load: Any) -> None:
    """llama.cpp wants layer 0's unused v1 and v2 with the rank of a1 and a2."""
    load(convert(tiny_pth, tmp_path / "m.gguf").path)
