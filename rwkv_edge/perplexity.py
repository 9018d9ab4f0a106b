"""How well a model predicts a text: bits per byte, in constant memory."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from rwkv_edge.comparison import finite, log_softmax
from rwkv_edge.errors import InputError
from rwkv_edge.model import Model
from rwkv_edge.reading import pieces_of
from rwkv_edge.tokenizers import Tokenizer

Progress = Callable[[int], None]

# Bounds the memory that logits take: 128 tokens of a vocabulary of 65,536 are 34 MB.
CHUNK_TOKENS = 128


@dataclass(frozen=True)
class Perplexity:
    """What predicting a text cost.

    n_tokens, n_bytes: what was predicted; nats: the sum of -log p over these tokens; seconds: wall
    time, from the first byte read to the last token.
    """

    n_tokens: int
    n_bytes: int
    nats: float
    seconds: float

    @property
    def bits_per_byte(self) -> float:
        """Comparable between models of any vocabulary."""
        return self.nats / math.log(2) / self.n_bytes

    @property
    def nats_per_token(self) -> float:
        """What training reports as loss; comparable between models of one vocabulary."""
        return self.nats / self.n_tokens

    @property
    def perplexity(self) -> float:
        """exp(nats_per_token)."""
        return math.exp(self.nats_per_token)

    @property
    def tokens_per_second(self) -> float:
        """Speed of reading, logits of all tokens included."""
        return self.n_tokens / self.seconds


def measure_perplexity(
    model: Model,
    file: BinaryIO,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
    progress: Progress | None = None,
) -> Perplexity:
    """Predict every token of a text from all tokens before it, from a fresh state on.

    The end-of-document token is read first, where the vocabulary has one, so that the text's first
    token is predicted too; otherwise that one is read but not scored, and neither are its bytes.
    The text is one document: what stands in it is never taken for an end of document.

    file: open for reading bytes; it is read in blocks and may be of any size.
    progress: called with the number of bytes predicted so far.
    Raises InputError for a text of which nothing can be scored, RwkvEdgeError for logits that are
    no numbers, OSError.
    """
    if chunk_tokens < 1:
        raise InputError(f"chunk_tokens is {chunk_tokens}; it must be at least 1")
    began = time.perf_counter()
    state = model.new_state()
    tokenizer = model.tokenizer
    predicted = None
    if tokenizer.end_of_document is not None:
        logits, _ = model.forward([tokenizer.end_of_document], state)
        predicted = finite(model, logits[None], 0)[0]
    n_tokens = n_bytes = n_read = 0
    nats = 0.0
    for chunk in chunks(token_stream(tokenizer, file), chunk_tokens):
        logits, _ = model.forward(chunk, state, all_logits=True)
        finite(model, logits, n_read)
        n_read += len(chunk)
        # The logits after one token score the next.
        rows = [predicted, *logits[:-1]]
        predicted = logits[-1].copy()
        for row, token in zip(rows, chunk, strict=True):
            if row is not None:
                nats -= float(log_softmax(row.astype(np.float64))[token])
                n_tokens += 1
                n_bytes += len(tokenizer.token_bytes(token))
        if progress is not None:
            progress(n_bytes)
    if n_tokens == 0:
        what = "one token, and nothing before it to predict it from" if n_read else "no text"
        raise InputError(f"there is {what}; give a longer text")
    return Perplexity(n_tokens, n_bytes, nats, time.perf_counter() - began)


def token_stream(tokenizer: Tokenizer, file: BinaryIO) -> Iterator[int]:
    """The tokens of a whole file, which is never in memory as a whole."""
    for section in tokenizer.encode_stream(pieces_of(file)):
        yield from section.tokens


def chunks(tokens: Iterator[int], n: int) -> Iterator[list[int]]:
    """Lists of n tokens, and the rest."""
    chunk: list[int] = []
    for token in tokens:
        chunk.append(token)
        if len(chunk) == n:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
