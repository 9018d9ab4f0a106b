"""How fast models run: engines take turns at the same work, and medians are compared."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rwkv_edge.backend import Int32Array
from rwkv_edge.errors import InputError
from rwkv_edge.model import Model

# One sample: does the work, and gives what is measured of it.
Sample = Callable[[], float]

# Read before decoding is measured, so that states hold something.
PROMPT_TOKENS = 32
# Before an engine's turn: threads of the one before may still look for work, on this one's cores.
REST_S = 0.3


@dataclass(frozen=True)
class Measurement:
    """One kind of work, at one size, in each engine.

    what: "prefill" (size: tokens of the prompt), "decode" (tokens, one after the other), "batch"
    (sequences that are decoded together) or "load" (1). unit: "tok/s", over all sequences, or "s".
    samples, medians: by engine. ratio: for tok/s, the first engine's median in terms of the
    second's; None where there is no second.
    """

    what: str
    size: int
    unit: str
    samples: dict[str, tuple[float, ...]]
    medians: dict[str, float]
    ratio: float | None


def take_turns(
    what: str, size: int, unit: str, engines: Mapping[str, Sample], rounds: int
) -> Measurement:
    """Let engines work in the order A B A B, so that what slows the machine down slows all.

    A first round warms up, and is not counted. Raises InputError for less than one round.
    """
    if rounds < 1:
        raise InputError(f"rounds is {rounds}; it takes at least 1")
    samples: dict[str, list[float]] = {name: [] for name in engines}
    for n in range(rounds + 1):
        for name, sample in engines.items():
            if len(engines) > 1:
                time.sleep(REST_S)
            found = sample()
            if n > 0:
                samples[name].append(found)
    medians = {name: statistics.median(found) for name, found in samples.items()}
    first, *others = medians.values()
    return Measurement(
        what=what,
        size=size,
        unit=unit,
        samples={name: tuple(found) for name, found in samples.items()},
        medians=medians,
        ratio=first / others[0] if unit == "tok/s" and others else None,
    )


def measure_prefill(models: Mapping[str, Model], n_tokens: int, rounds: int) -> Measurement:
    """Prompts of n_tokens, each from a fresh state."""

    def sample(model: Model) -> Sample:
        tokens = random_tokens(model, n_tokens)
        return lambda: n_tokens / seconds(lambda: model.forward(tokens))

    engines = {name: sample(model) for name, model in models.items()}
    return take_turns("prefill", n_tokens, "tok/s", engines, rounds)


def measure_decode(models: Mapping[str, Model], n_tokens: int, rounds: int) -> Measurement:
    """n_tokens in a row, each from the state that the one before left; logits after each."""

    def sample(model: Model) -> Sample:
        _, state = model.forward(random_tokens(model, PROMPT_TOKENS))
        tokens = random_tokens(model, n_tokens)

        def decode() -> None:
            for i in range(n_tokens):
                model.forward(tokens[i : i + 1], state)

        return lambda: n_tokens / seconds(decode)

    engines = {name: sample(model) for name, model in models.items()}
    return take_turns("decode", n_tokens, "tok/s", engines, rounds)


def measure_batch(
    models: Mapping[str, Model], n_sequences: int, n_steps: int, rounds: int
) -> Measurement:
    """n_sequences that advance together by a token a step; their speed in all."""

    def sample(model: Model) -> Sample:
        _, state = model.forward(random_tokens(model, PROMPT_TOKENS))
        states = [state.clone() for _ in range(n_sequences)]
        tokens = random_tokens(model, n_steps * n_sequences).reshape(n_steps, n_sequences, 1)

        def decode() -> None:
            for step in tokens:
                model.forward_batch(list(step), states)

        return lambda: tokens.size / seconds(decode)

    engines = {name: sample(model) for name, model in models.items()}
    return take_turns("batch", n_sequences, "tok/s", engines, rounds)


def measure_load(files: Mapping[str, Path], threads: int | None, rounds: int) -> Measurement:
    """Seconds until a model is ready. The warm-up leaves its file in the page cache.

    files: what each engine loads, by its name.
    """

    def sample(backend: str, path: Path) -> Sample:
        def load() -> float:
            began = time.perf_counter()
            with Model.load(path, backend, threads):
                return time.perf_counter() - began

        return load

    return take_turns(
        "load", 1, "s", {name: sample(name, path) for name, path in files.items()}, rounds
    )


def random_tokens(model: Model, n_tokens: int) -> Int32Array:
    """The same ones each time: what they are makes no difference to speed but in the embedding."""
    n_vocab = model.hyperparameters.n_vocab
    return np.random.default_rng(0).integers(0, n_vocab, n_tokens).astype(np.int32)


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
