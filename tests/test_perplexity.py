"""Perplexity: against the logits of a whole text at once, and tokens of a file in blocks."""

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge import InputError, Model
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.perplexity import measure_perplexity, token_stream
from rwkv_edge.reading import PIECE_BYTES

TEXT = ("It was a dark and stormy night; the rain fell in torrents, ünd größer. " * 6).encode()
# All bytes, and words that reach far beyond one another.
WORDS = [b"ab", b"abc", b"abcabcab", b"aaaaaaaaaaaaaaaa", b"bc", b" the", b"the rain"]


def vocabulary_with_words() -> list[bytes]:
    return [b"", *(bytes([i]) for i in range(256)), *WORDS]


def made(folder: Path, vocabulary: list[bytes] | None) -> Path:
    """A random model, over bytes or over a vocabulary whose id 0 ends a document."""
    n_vocab = len(vocabulary) + 3 if vocabulary else 256
    shape = synthetic_hyperparameters(2, 64, n_vocab=n_vocab, ranks=(32, 32, 32, 32))
    write_synthetic(folder / "tiny.pth", shape)
    if vocabulary:
        lines = [f"{i} {text!r} {len(text)}\n" for i, text in enumerate(vocabulary) if i]
        (folder / "tiny.vocab.txt").write_text("".join(lines), encoding="utf-8")
    convert(folder / "tiny.pth", folder / "tiny.gguf", "F32")
    return folder / "tiny.gguf"


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with Model.load(made(tmp_path_factory.mktemp("bytes"), None), "reference") as model:
        assert model.tokenizer.end_of_document is None
        yield model


@pytest.fixture(scope="module")
def word_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = made(tmp_path_factory.mktemp("words"), vocabulary_with_words())
    with Model.load(path, "reference") as model:
        assert model.tokenizer.end_of_document == 0
        yield model


def expected_nats(model: Model, context: list[int], tokens: list[int]) -> float:
    """-log p of `tokens` after `context`, from all logits at once."""
    read = [*context, *tokens]
    logits: Any = model.forward(read, all_logits=True)[0].astype(np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    first = len(context)
    return -sum(math.log(p[first + i - 1, token]) for i, token in enumerate(tokens))


@pytest.mark.parametrize("chunk_tokens", [1, 16, 100_000])
def test_with_an_end_of_document_token_every_token_and_byte_is_scored(
    word_model: Model, chunk_tokens: int
) -> None:
    found = measure_perplexity(word_model, io.BytesIO(TEXT), chunk_tokens=chunk_tokens)
    tokens = word_model.tokenizer.encode(TEXT)
    assert found.n_tokens == len(tokens) < len(TEXT)
    assert found.n_bytes == len(TEXT)
    assert found.nats == pytest.approx(expected_nats(word_model, [0], tokens), rel=1e-5)


@pytest.mark.parametrize("chunk_tokens", [1, 16, 100_000])
def test_without_one_the_first_token_is_read_but_not_scored(
    byte_model: Model, chunk_tokens: int
) -> None:
    found = measure_perplexity(byte_model, io.BytesIO(TEXT), chunk_tokens=chunk_tokens)
    assert found.n_tokens == found.n_bytes == len(TEXT) - 1
    wanted = expected_nats(byte_model, [TEXT[0]], list(TEXT[1:]))
    assert found.nats == pytest.approx(wanted, rel=1e-5)


def test_derived_figures_follow_from_the_sums(byte_model: Model) -> None:
    found = measure_perplexity(byte_model, io.BytesIO(TEXT))
    assert found.bits_per_byte == pytest.approx(found.nats / math.log(2) / found.n_bytes)
    assert found.nats_per_token == pytest.approx(found.nats / found.n_tokens)
    assert found.perplexity == pytest.approx(math.exp(found.nats_per_token))
    assert found.tokens_per_second == pytest.approx(found.n_tokens / found.seconds)


def test_an_empty_text_is_refused(byte_model: Model, word_model: Model) -> None:
    for model in (byte_model, word_model):
        with pytest.raises(InputError, match="no text"):
            measure_perplexity(model, io.BytesIO(b""))


def test_a_single_token_without_anything_before_it_is_refused(byte_model: Model) -> None:
    with pytest.raises(InputError, match="one token"):
        measure_perplexity(byte_model, io.BytesIO(b"x"))


def test_a_single_token_after_the_end_of_document_is_scored(word_model: Model) -> None:
    found = measure_perplexity(word_model, io.BytesIO(b"x"))
    assert (found.n_tokens, found.n_bytes) == (1, 1)


def test_a_chunk_needs_at_least_one_token(byte_model: Model) -> None:
    with pytest.raises(InputError, match="chunk_tokens is 0"):
        measure_perplexity(byte_model, io.BytesIO(TEXT), chunk_tokens=0)


def test_progress_ends_at_the_number_of_bytes(word_model: Model) -> None:
    seen: list[int] = []
    measure_perplexity(word_model, io.BytesIO(TEXT), chunk_tokens=50, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == len(TEXT)


def test_no_more_than_a_piece_of_a_large_file_is_held(word_model: Model) -> None:
    class Counting(io.RawIOBase):
        """An endless text that records how far it was read."""

        n_read = 0

        def read(self, size: int = -1) -> bytes:
            assert size > 0
            self.n_read += size
            return b"the rain " * (size // 9 + 1)

    file = Counting()
    stream = token_stream(word_model.tokenizer, file)  # type: ignore[arg-type]
    for _ in range(10):
        next(stream)
    assert file.n_read == PIECE_BYTES
