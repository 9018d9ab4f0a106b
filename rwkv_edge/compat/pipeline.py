"""`PIPELINE` with the official package's results: the same tokens for the same random numbers."""

import math
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rwkv_edge.backend import Float32Array
from rwkv_edge.compat.rwkv_tokenizer import NO_TEXT, load_tokenizer
from rwkv_edge.compat.tensor import softmax
from rwkv_edge.errors import InputError, RwkvEdgeError
from rwkv_edge.sampling import UNPENALIZED_TEXT

# Texts, of one token, whose repetition is not counted.
UNCOUNTED = UNPENALIZED_TEXT.decode()
# How many of the likeliest tokens are sorted at first; nearly always, they reach top_p.
N_SORTED = 256


class RandomSource(Protocol):
    """Where draws come from: `random.Random`, numpy's generators, `numpy.random` itself."""

    def random(self) -> Any:
        """A number in 0..1, without 1."""


class PIPELINE_ARGS:
    """How `PIPELINE.generate` draws; the official names and defaults.

    alpha_presence, alpha_frequency: taken off the logit of every token drawn before, once, and
    times its occurrences; alpha_decay: what is left of an occurrence a token later. token_ban:
    never drawn. token_stop: ends the text, and is no part of it. chunk_len: how many tokens of a
    prompt go through the model at once; it costs no accuracy.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_p: float = 0.85,
        top_k: int = 0,
        alpha_frequency: float = 0.2,
        alpha_presence: float = 0.2,
        alpha_decay: float = 0.996,
        token_ban: Iterable[int] = (),
        token_stop: Iterable[int] = (),
        chunk_len: int = 256,
    ) -> None:
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.alpha_frequency = alpha_frequency
        self.alpha_presence = alpha_presence
        self.alpha_decay = alpha_decay
        self.token_ban = list(token_ban)
        self.token_stop = list(token_stop)
        self.chunk_len = chunk_len


class PIPELINE:
    """Text in, text out, on a model with the official `forward`.

    WORD_NAME: "rwkv_vocab_v20230424" for World models, or a file with a vocabulary.
    random: numbers to draw by; None takes numpy's global ones, as the official package does on a
    CPU, so that `numpy.random.seed` has the same effect.
    Raises FormatError, UnsupportedModelError, InputError.
    """

    def __init__(
        self, model: Any, WORD_NAME: str | PathLike[str], *, random: RandomSource | None = None
    ) -> None:
        self.model = model
        self.tokenizer: Any = load_tokenizer(WORD_NAME)
        self.random = random

    def refine_context(self, context: str) -> str:
        """Each line without spaces around it, no empty lines, one newline in front."""
        lines = (line.strip() for line in context.split("\n"))
        return "\n" + "\n".join(line for line in lines if line)

    def encode(self, x: str) -> list[int]:
        """The ids of a text."""
        tokens: list[int] = self.tokenizer.encode(x)
        return tokens

    def decode(self, x: Iterable[int]) -> str:
        """The text of ids; U+FFFD alone if it is not whole characters, or for an unknown id."""
        text: str = self.tokenizer.decode(x)
        return text

    def sample_logits(
        self,
        logits: npt.ArrayLike,
        temperature: float = 1.0,
        top_p: float = 0.85,
        top_k: int = 0,
    ) -> int:
        """Draw a token from logits, (vocab_size,), by one random number.

        Keeps what is at least as likely as the token at which the sum of the likeliest reaches
        top_p, then the top_k of these if it is not 0. temperature 0 takes the likeliest. Raises
        RwkvEdgeError for logits that are not numbers.
        """
        if temperature == 0:
            temperature, top_p = 1.0, 0
        p = softmax(logits)
        if not math.isfinite(p[0]):
            raise RwkvEdgeError(
                "the logits are not numbers, or every token is banned; nothing can be drawn"
            )
        least = likeliest_reaching(p, top_p)
        if 0 < int(top_k) < np.count_nonzero(p >= least):
            drop_all_but(p, int(top_k))
        p[p < least] = 0
        if temperature != 1.0:
            p **= 1.0 / temperature
        total = np.sum(p)
        if not 0 < total < math.inf:
            raise InputError(
                f"temperature is {temperature}, by which every probability becomes zero; "
                "0 takes the likeliest token"
            )
        p /= total
        # As numpy.random.choice draws.
        cumulative = np.cumsum(p, dtype=np.float64)
        cumulative /= cumulative[-1]
        source: Any = np.random if self.random is None else self.random
        return int(cumulative.searchsorted(source.random(), side="right"))

    def generate(
        self,
        ctx: str,
        token_count: int = 100,
        args: PIPELINE_ARGS | None = None,
        callback: Callable[[str], object] | None = None,
        state: list[Any] | None = None,
    ) -> str:
        """Continue a text by up to token_count tokens; gives what was added.

        callback gets each piece as soon as it is whole characters. state: what came before; the
        list is advanced as `forward` does it. Raises InputError for an empty ctx, and what
        `forward` and `sample_logits` raise.
        """
        args = PIPELINE_ARGS() if args is None else args
        if args.chunk_len < 1:
            raise InputError(f"chunk_len is {args.chunk_len}; it takes at least 1")
        text = ""
        undecoded: list[int] = []
        occurrence: dict[int, float] = {}
        tokens = list(self.encode(ctx)) if token_count > 0 else []
        if not tokens and token_count > 0:
            raise InputError("the context is empty; give at least one character")
        for _ in range(token_count):
            for start in range(0, len(tokens), args.chunk_len):
                out, state = self.model.forward(tokens[start : start + args.chunk_len], state)
            logits = np.array(out, np.float32)
            ban(logits, args.token_ban)
            penalize(logits, occurrence, args)
            token = self.sample_logits(
                logits, temperature=args.temperature, top_p=args.top_p, top_k=args.top_k
            )
            if token in args.token_stop:
                break
            for seen in occurrence:
                occurrence[seen] *= args.alpha_decay
            # What counts nothing is entered all the same, for alpha_presence.
            counts = 0 if self.decode([token]) in UNCOUNTED else 1
            occurrence[token] = occurrence.get(token, 0) + counts
            undecoded.append(token)
            piece = self.decode(undecoded)
            if NO_TEXT not in piece:
                if callback:
                    callback(piece)
                text += piece
                undecoded = []
            tokens = [token]
        return text


def likeliest_reaching(p: Float32Array, top_p: float) -> float:
    """The probability at which the likeliest, summed one after the other, reach top_p.

    Summed in float32 as the official sampler does, so that it stops at the same token. Where
    rounding never lets them reach it, as it may be with 1.0, that is the greatest of all.
    """
    n_sorted = min(N_SORTED, len(p))
    while True:
        descending = np.sort(np.partition(p, -n_sorted)[-n_sorted:])[::-1]
        reached = np.cumsum(descending) >= top_p
        if reached.any() or n_sorted == len(p):
            return float(descending[reached.argmax()])
        n_sorted = min(16 * n_sorted, len(p))


def drop_all_but(p: Float32Array, k: int) -> None:
    """Make all but the k largest of p zero."""
    boundary = np.partition(p, -k)[-k]
    if np.count_nonzero(p >= boundary) == k:
        p[p < boundary] = 0
    else:
        # Which of equal ones are kept is numpy's order of sorting, here as there.
        p[np.argsort(p)[:-k]] = 0


def ban(logits: Float32Array, tokens: Iterable[int]) -> None:
    """Make it impossible that these are drawn; raises InputError for a token out of range."""
    try:
        logits[list(tokens)] = -math.inf
    except IndexError as error:
        raise InputError(
            f"token_ban has a token that is not in 0..{len(logits) - 1}: {error}"
        ) from None


def penalize(logits: Float32Array, occurrence: dict[int, float], args: PIPELINE_ARGS) -> None:
    """Take the penalties off the logits of the tokens drawn before."""
    counts: Sequence[float] = list(occurrence.values())
    penalties = args.alpha_presence + np.array(counts, np.float64) * args.alpha_frequency
    logits[list(occurrence)] -= penalties.astype(np.float32)
