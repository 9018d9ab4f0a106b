"""From logits to the next token, as the official PIPELINE does it and with a few filters more.

The order of everything: bans and biases, penalties, softmax, then the filters top_p, top_k, min_p
and typical_p, then the temperature. All filters see probabilities at temperature 1, so that a
higher temperature levels the tokens that were kept and lets in no others.
Source: `rwkv.utils.PIPELINE` of the official `rwkv` package.
"""

import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rwkv_edge.errors import InputError, RwkvEdgeError
from rwkv_edge.tokenizers import Tokenizer

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.intp]

# Tokens of these characters alone (any run of them as it stands here) do not count as repeated:
# tables and numbers would fall apart.
UNPENALIZED_TEXT = b" \t0123456789"
# The upper 16 bits of a positive float64, of which 4 are fraction, sort as the number does.
BIN_SHIFT = 48
# exp of anything less is zero or has lost its precision.
LEAST_LOGIT = math.log(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are drawn. The defaults are the official ones, but without penalties.

    temperature: p ** (1 / temperature), renormalized; 0 takes the likeliest token.
    top_p: keeps the fewest likeliest tokens that reach this sum, and what ties with the last.
    top_k: keeps the k likeliest; 0 keeps all.
    min_p: keeps what has at least this share of the likeliest token's probability.
    typical_p: keeps the tokens whose surprise is nearest to the expected one, until they reach
    this sum; 1 keeps all. Source: Meister et al., Locally Typical Sampling, 2022.
    presence_penalty, frequency_penalty: taken off the logit of every token sampled before, once,
    and times its occurrences; penalty_decay: what remains of an occurrence a token later. A
    negative penalty encourages.
    logit_bias: added to logits, by token. banned_tokens: never sampled.
    Raises InputError for a value out of its range.
    """

    temperature: float = 1.0
    top_p: float = 0.85
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_decay: float = 0.996
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    banned_tokens: Collection[int] = frozenset()

    def __post_init__(self) -> None:
        """Refuse what is not a number or out of range."""
        require("temperature", self.temperature, 0.0, math.inf)
        require("top_p", self.top_p, 0.0, 1.0)
        require("min_p", self.min_p, 0.0, 1.0)
        require("typical_p", self.typical_p, 0.0, 1.0)
        require("penalty_decay", self.penalty_decay, 0.0, 1.0)
        require("presence_penalty", self.presence_penalty, -math.inf, math.inf)
        require("frequency_penalty", self.frequency_penalty, -math.inf, math.inf)
        if self.top_k < 0 or self.top_k != int(self.top_k):
            raise InputError(f"top_k is {self.top_k}; it must be a whole number, 0 for all tokens")
        for token, bias in self.logit_bias.items():
            require(f"logit_bias of token {token}", bias, -math.inf, math.inf)

    @classmethod
    def official(cls) -> "SamplingOptions":
        """The defaults of the official PIPELINE, with its penalties."""
        return cls(presence_penalty=0.2, frequency_penalty=0.2)


def require(name: str, value: float, least: float, most: float) -> None:
    """Raise InputError unless `value` is finite and between `least` and `most`."""
    if not (math.isfinite(value) and least <= value <= most):
        if math.isinf(least):
            wanted = "a finite number"
        elif math.isinf(most):
            wanted = f"a finite number from {least:g} on"
        else:
            wanted = f"between {least:g} and {most:g}"
        raise InputError(f"{name} is {value}; it must be {wanted}")


def unpenalized_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids whose repetition is not counted: their text is a part of " \\t0123456789"."""
    text = UNPENALIZED_TEXT
    tokens: set[int] = set()
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            # A vocabulary need not have them all.
            with suppress(InputError):
                tokens.update(tokenizer.encode_more(text[start:end]))
    return frozenset(tokens)


def cutoff(value: Float64Array, mass: Float64Array, share: float) -> float:
    """The value at which the mass, summed from the greatest value down, reaches `share` of all.

    value: in 0..1; mass: of each value, not normalized; share: below 1.
    Sorting a whole vocabulary takes milliseconds: near values are summed in bins, and only the
    bin in which the sum reaches the share is sorted.
    """
    bins = value.view(np.int64) >> BIN_SHIFT
    from_bin = np.cumsum(np.bincount(bins, mass)[::-1])[::-1]
    wanted = share * from_bin[0]
    reaching = np.flatnonzero(from_bin >= wanted)[-1]
    above = from_bin[reaching + 1] if reaching + 1 < len(from_bin) else 0.0
    inside = np.flatnonzero(bins == reaching)
    descending = inside[np.argsort(-value[inside])]
    reached = int(np.searchsorted(above + np.cumsum(mass[descending]), wanted))
    # Summed in another order, the bin may miss the share in the last place.
    return float(value[descending[min(reached, len(descending) - 1)]])


def largest(logits: Float64Array, k: int) -> IntArray:
    """Positions of the k greatest, ascending; of equal ones the first."""
    kth = np.partition(logits, -k)[-k]
    above = np.flatnonzero(logits > kth)
    ties = np.flatnonzero(logits == kth)[: k - len(above)]
    return np.sort(np.concatenate([above, ties]))


def typical(logits: Float64Array, typical_p: float) -> IntArray:
    """Positions of the locally typical part of a distribution, ascending; ties are kept."""
    p = np.exp(logits)
    surprise = math.log(p.sum()) - logits
    expected = np.dot(p, surprise) / p.sum()
    nearness = np.exp(-np.abs(surprise - expected))
    return np.flatnonzero(nearness >= cutoff(nearness, p, typical_p))


class Sampler:
    """Draws tokens for one sequence, and remembers what it drew for the penalties.

    The same seed gives the same tokens for the same logits, on every machine. Not for use by
    several threads at once.
    """

    def __init__(
        self,
        options: SamplingOptions,
        n_vocab: int,
        seed: int | None = None,
        unpenalized: Collection[int] = (),
    ) -> None:
        """A sampler that has drawn nothing.

        seed: not negative; None takes one from the system. unpenalized: tokens whose repetition
        is not counted, see `unpenalized_tokens`. Raises InputError for a seed below 0 and for
        banned or biased tokens outside 0..n_vocab-1.
        """
        if seed is not None and seed < 0:
            raise InputError(f"seed is {seed}; it must not be negative")
        self.options = options
        self.n_vocab = n_vocab
        self.unpenalized = unpenalized
        self._random = np.random.PCG64(seed)
        self._banned = self._checked("banned_tokens", options.banned_tokens)
        self._biased = self._checked("logit_bias", options.logit_bias)
        self._bias = np.fromiter(options.logit_bias.values(), np.float64)
        # Kept, because fresh memory of this size costs more than the arithmetic in it.
        self._logits = np.empty(n_vocab)
        self._p = np.empty(n_vocab)
        # The tokens drawn so far, in order of their first draw, and how often, decayed.
        self._row: dict[int, int] = {}
        self._drawn = np.empty(16, np.intp)
        self._occurrences = np.empty(16, np.float64)

    def _checked(self, name: str, tokens: Collection[int]) -> IntArray:
        for token in tokens:
            if not 0 <= token < self.n_vocab:
                raise InputError(f"{name} has token {token}; ids are 0 to {self.n_vocab - 1}")
        return np.fromiter(tokens, np.intp)

    def sample(self, logits: ArrayLike) -> int:
        """Draw one token from `logits`, (n_vocab,), which stay as they are.

        Tell `accept` if it is kept. Raises InputError where every token is banned, RwkvEdgeError
        where the logits are not numbers.
        """
        adjusted = self._adjusted(logits)
        if self.options.temperature == 0:
            return int(adjusted.argmax())
        tokens, weights = self._weighted(adjusted)
        cumulative = np.cumsum(weights)
        # numpy promises these bits for every version, but not what its Generator makes of them.
        uniform = (self._random.random_raw() >> 11) * 2.0**-53
        # It is below 1 by at least 2^-53, so the product, rounded, is below the last sum.
        drawn = np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
        return int(tokens[drawn])

    def distribution(self, logits: ArrayLike) -> tuple[IntArray, Float64Array]:
        """The tokens that `sample` could draw, ascending, and their probabilities."""
        adjusted = self._adjusted(logits)
        if self.options.temperature == 0:
            return np.array([adjusted.argmax()], np.intp), np.ones(1)
        tokens, weights = self._weighted(adjusted)
        return tokens, weights / weights.sum()

    def accept(self, token: int) -> None:
        """Count a token that became part of the text. Tokens of the prompt are not counted.

        What was counted decays by one step first; the new occurrence is whole. Raises InputError
        for a token outside 0..n_vocab-1.
        """
        if not 0 <= token < self.n_vocab:
            raise InputError(f"token {token} is outside the vocabulary, 0 to {self.n_vocab - 1}")
        if not (self.options.presence_penalty or self.options.frequency_penalty):
            return
        n_drawn = len(self._row)
        self._occurrences[:n_drawn] *= self.options.penalty_decay
        row = self._row.setdefault(token, n_drawn)
        if row == n_drawn:
            if row == len(self._drawn):
                self._drawn = np.resize(self._drawn, 2 * row)
                self._occurrences = np.resize(self._occurrences, 2 * row)
            self._drawn[row] = token
            self._occurrences[row] = 0.0
        if token not in self.unpenalized:
            self._occurrences[row] += 1.0

    def clone(self) -> "Sampler":
        """A sampler that goes on as this one would, and leaves it alone."""
        twin = Sampler(self.options, self.n_vocab, unpenalized=self.unpenalized)
        twin._random = deepcopy(self._random)
        twin._row = self._row.copy()
        twin._drawn = self._drawn.copy()
        twin._occurrences = self._occurrences.copy()
        return twin

    def _adjusted(self, logits: ArrayLike) -> Float64Array:
        """Logits with bans, biases and penalties, less the greatest of them."""
        shape = np.shape(logits)
        if shape != (self.n_vocab,):
            raise InputError(f"logits are {list(shape)}; wanted is [{self.n_vocab}]")
        adjusted = self._logits
        adjusted[:] = logits
        adjusted[self._banned] = -math.inf
        adjusted[self._biased] += self._bias
        n_drawn = len(self._row)
        # Every token is there at most once, so that no subtraction is lost.
        adjusted[self._drawn[:n_drawn]] -= (
            self.options.presence_penalty
            + self._occurrences[:n_drawn] * self.options.frequency_penalty
        )
        greatest = adjusted.max()
        if math.isnan(greatest) or greatest == math.inf:
            raise RwkvEdgeError(
                f"the model produced {'NaN' if math.isnan(greatest) else 'infinite'} logits;"
                " its file is damaged, or its weights are too large for their type"
            )
        if greatest == -math.inf:
            raise InputError("every token is banned; nothing is left to sample")
        adjusted -= greatest
        return adjusted

    def _weighted(self, adjusted: Float64Array) -> tuple[IntArray, Float64Array]:
        """The tokens that pass the filters, ascending, and their weights, not normalized."""
        options = self.options
        kept = adjusted >= LEAST_LOGIT
        if options.top_p < 1:
            p = np.exp(adjusted, out=self._p)
            kept &= p >= cutoff(p, p, options.top_p)
        if options.min_p > 0:
            kept &= adjusted >= math.log(options.min_p)
        tokens = np.flatnonzero(kept)
        if 0 < options.top_k < len(tokens):
            tokens = tokens[largest(adjusted[tokens], options.top_k)]
        if options.typical_p < 1:
            tokens = tokens[typical(adjusted[tokens], options.typical_p)]
        logits = adjusted[tokens]
        # The likeliest may be filtered out, and a low temperature would leave only zeros.
        return tokens, np.exp((logits - logits.max()) / options.temperature)
