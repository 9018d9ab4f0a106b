"""How closely engines agree: the same tokens through each, position by position."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rwkv_edge.backend import Float32Array
from rwkv_edge.errors import InputError, RwkvEdgeError
from rwkv_edge.model import Model, Tokens

Float64Array = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]

# Bounds the memory that logits take: 64 tokens of a vocabulary of 65,536 are 17 MB an engine.
CHUNK_TOKENS = 64


@dataclass(frozen=True)
class Agreement:
    """How the logits of one engine differ from another's after each of `n_tokens` tokens.

    max_difference: the largest |logit difference|; relative_difference: the same as a share of the
    spread (greatest logit less the least) of the baseline's logits at that position.
    mean_kl, max_kl: KL(baseline || other) in nats a token, in float64.
    n_other_choices: positions where the likeliest token is another one; first_other_choice: the
    first of them, counted from 0, or None.
    """

    baseline: str
    other: str
    n_tokens: int
    max_difference: float
    relative_difference: float
    mean_kl: float
    max_kl: float
    n_other_choices: int
    first_other_choice: int | None


def compare(
    models: Sequence[Model],
    tokens: Tokens,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
    progress: Progress | None = None,
) -> list[Agreement]:
    """Compare every model with the first one on the same tokens, each from a fresh state.

    Memory does not grow with the number of tokens. progress: called with (tokens done, in all).
    Raises InputError for fewer than two models, unequal vocabularies or no tokens, RwkvEdgeError
    for an engine that gives logits which are no numbers.
    """
    if len(models) < 2:
        raise InputError("a comparison needs two engines")
    vocabularies = {model.hyperparameters.n_vocab for model in models}
    if len(vocabularies) > 1:
        raise InputError(f"the models have vocabularies of different sizes, {vocabularies}")
    if chunk_tokens < 1:
        raise InputError(f"chunk_tokens is {chunk_tokens}; it must be at least 1")
    checked = models[0].check_tokens(tokens)
    states = [model.new_state() for model in models]
    tallies = [_Tally() for _ in models[1:]]
    for start in range(0, checked.size, chunk_tokens):
        chunk = checked[start : start + chunk_tokens]
        rows = [
            finite(model, model.forward(chunk, state, all_logits=True)[0], start)
            for model, state in zip(models, states, strict=True)
        ]
        for tally, other in zip(tallies, rows[1:], strict=True):
            for wanted, found in zip(rows[0], other, strict=True):
                tally.add(wanted, found)
        if progress is not None:
            progress(start + chunk.size, checked.size)
    names = [model.backend.name for model in models]
    return [tally.agreement(names[0], name) for tally, name in zip(tallies, names[1:], strict=True)]


class _Tally:
    """Differences seen so far between two engines."""

    def __init__(self) -> None:
        self.n_tokens = 0
        self.max_difference = 0.0
        self.relative_difference = 0.0
        self.sum_kl = 0.0
        self.max_kl = 0.0
        self.other_choices = 0
        self.first_other_choice: int | None = None

    def add(self, wanted: Float32Array, found: Float32Array) -> None:
        """One position: (n_vocab,) logits of the baseline and of the other."""
        p, q = wanted.astype(np.float64), found.astype(np.float64)
        difference = float(np.abs(p - q).max())
        spread = float(p.max() - p.min())
        # Equal logits of a model that prefers nothing agree; any difference there is all of it.
        relative = difference / spread if spread > 0 else float(difference > 0)
        divergence = kl_divergence(p, q)
        self.max_difference = max(self.max_difference, difference)
        self.relative_difference = max(self.relative_difference, relative)
        self.sum_kl += divergence
        self.max_kl = max(self.max_kl, divergence)
        if p.argmax() != q.argmax():
            self.other_choices += 1
            if self.first_other_choice is None:
                self.first_other_choice = self.n_tokens
        self.n_tokens += 1

    def agreement(self, baseline: str, other: str) -> Agreement:
        """The summary."""
        return Agreement(
            baseline=baseline,
            other=other,
            n_tokens=self.n_tokens,
            max_difference=self.max_difference,
            relative_difference=self.relative_difference,
            mean_kl=self.sum_kl / self.n_tokens,
            max_kl=self.max_kl,
            n_other_choices=self.other_choices,
            first_other_choice=self.first_other_choice,
        )


def log_softmax(logits: Float64Array) -> Float64Array:
    """Logarithms of the probabilities, (n_vocab,)."""
    shifted = logits - logits.max()
    result: Float64Array = shifted - np.log(np.exp(shifted).sum())
    return result


def kl_divergence(p_logits: Float64Array, q_logits: Float64Array) -> float:
    """KL(p || q) in nats; not below 0, where rounding would put two equal distributions."""
    log_p, log_q = log_softmax(p_logits), log_softmax(q_logits)
    return max(0.0, float(np.dot(np.exp(log_p), log_p - log_q)))


def finite(model: Model, logits: Float32Array, first_token: int) -> Float32Array:
    """The logits themselves; raises RwkvEdgeError unless all are numbers."""
    rows = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if rows.size:
        raise RwkvEdgeError(
            f"{model.path}: {model.backend.name} gives logits that are no numbers after token "
            f"{first_token + rows[0]}; the file is damaged, or its weights are too large"
        )
    return logits
