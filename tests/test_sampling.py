import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rwkv_edge.errors import InputError, RwkvEdgeError
from rwkv_edge.sampling import Sampler, SamplingOptions, unpenalized_tokens
from rwkv_edge.tokenizers import ByteTokenizer, WorldTokenizer

N_VOCAB = 500
# As World: no text for 0, the bytes, and longer entries, of which two are not penalized.
TEXTS = [
    b"",
    *(bytes([byte]) for byte in range(256)),
    b"\n\n",
    b"12",
    b" 12",
    b" \t0",
    "é".encode(),
]


def random_logits(seed: int, n_vocab: int = N_VOCAB, spread: float = 3.0) -> Any:
    return (np.random.default_rng(seed).standard_normal(n_vocab) * spread).astype(np.float32)


def probabilities(options: SamplingOptions, logits: Any) -> Any:
    """The distribution that is sampled from, as long as the logits."""
    tokens, p = Sampler(options, len(logits)).distribution(logits)
    assert np.all(np.diff(tokens) > 0)
    spread = np.zeros(len(logits))
    spread[tokens] = p
    return spread


def softmax(logits: Any) -> Any:
    p = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return p / p.sum()


# The official sampler


class OfficialPipeline:
    """The official sampler with its draw in our hands: it records p, and draws as we do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("torch")
        utils = pytest.importorskip("rwkv.utils")
        self.arguments = utils.PIPELINE_ARGS
        self.pipeline = utils.PIPELINE.__new__(utils.PIPELINE)
        self.random = np.random.Generator(np.random.PCG64(0))
        self.p: Any = None
        monkeypatch.setattr(utils.np.random, "choice", self.choice)

    def choice(self, a: int, p: Any) -> int:
        assert len(p) == a
        self.p = p
        cumulative = np.cumsum(p, dtype=np.float64)
        return int(np.searchsorted(cumulative, self.random.random() * cumulative[-1], "right"))

    def probabilities(self, logits: Any, **options: Any) -> Any:
        import torch

        self.pipeline.sample_logits(torch.tensor(logits), **options)
        return self.p


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> OfficialPipeline:
    return OfficialPipeline(monkeypatch)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [0.0, 0.1, 0.5, 0.85, 0.99])
@pytest.mark.parametrize("top_k", [0, 1, 7, 499, 500, 1000])
def test_the_distribution_is_the_official_one(
    official: OfficialPipeline, temperature: float, top_p: float, top_k: int
) -> None:
    for seed, spread in ((1, 0.5), (2, 3.0), (3, 10.0)):
        logits = random_logits(seed, spread=spread)
        options = {"temperature": temperature, "top_p": top_p, "top_k": top_k}
        expected = official.probabilities(logits, **options)
        ours = probabilities(SamplingOptions(**options), logits)
        # The official softmax is float32: an error of 1e-7 in p becomes 1 / temperature of it.
        np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=1e-30)


def test_the_distribution_is_the_official_one_for_a_whole_vocabulary(
    official: OfficialPipeline,
) -> None:
    logits = random_logits(5, n_vocab=65536)
    expected = official.probabilities(logits, top_p=0.7)
    ours = probabilities(SamplingOptions(top_p=0.7), logits)
    # Summing thousands of float32 may move the official cutoff by one token or two.
    assert abs(np.count_nonzero(expected) - np.count_nonzero(ours)) <= 2
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_equal_probabilities_at_the_cutoff_are_all_kept(official: OfficialPipeline) -> None:
    logits = np.log(np.array([0.4, 0.1, 0.1, 0.1, 0.3], np.float32))
    expected = official.probabilities(logits, top_p=0.75)
    assert np.count_nonzero(expected) == 5
    np.testing.assert_allclose(
        probabilities(SamplingOptions(top_p=0.75), logits), expected, rtol=1e-6
    )


def test_a_whole_text_is_the_official_one(official: OfficialPipeline) -> None:
    """Penalties: 400 tokens of a stub model that repeats itself, drawn from the same numbers."""
    import torch

    tokenizer = WorldTokenizer(TEXTS)
    banned = 100
    likely = [0, *range(40, 60), banned, *range(255, len(TEXTS))]
    rng = np.random.default_rng(7)
    steps = rng.standard_normal((400, len(TEXTS))).astype(np.float32)
    steps[:, likely] += 6
    state = {"step": 0}

    def forward(tokens: list[int], _: object) -> tuple[Any, object]:
        assert tokens
        state["step"] += 1
        return torch.tensor(steps[state["step"] - 1]), None

    # The official vocabulary does not hold id 0, so that it decodes to U+FFFD.
    texts = dict(enumerate(TEXTS))
    del texts[0]

    def decode(tokens: list[int]) -> str:
        try:
            return b"".join(texts[token] for token in tokens).decode()
        except (KeyError, UnicodeDecodeError):
            return "\ufffd"

    chosen: list[int] = []
    draw = official.pipeline.sample_logits

    def sample_logits(logits: Any, **options: Any) -> int:
        chosen.append(draw(logits, **options))
        return chosen[-1]

    official.pipeline.sample_logits = sample_logits
    official.pipeline.model = SimpleNamespace(forward=forward)
    official.pipeline.tokenizer = SimpleNamespace(encode=tokenizer.encode, decode=decode)
    arguments = official.arguments(token_ban=[banned], alpha_frequency=0.3, alpha_presence=0.4)
    official.pipeline.generate("prompt", token_count=len(steps), args=arguments)

    options = SamplingOptions(
        banned_tokens=[banned], frequency_penalty=0.3, presence_penalty=0.4, penalty_decay=0.996
    )
    sampler = Sampler(options, len(TEXTS), seed=0, unpenalized=unpenalized_tokens(tokenizer))
    ours = []
    for logits in steps:
        ours.append(sampler.sample(logits))
        sampler.accept(ours[-1])
    assert ours == chosen
    assert set(likely) - set(ours) == {banned}


# Penalties, by hand


def test_penalties_follow_the_official_formula_step_by_step() -> None:
    options = SamplingOptions(
        presence_penalty=0.5, frequency_penalty=2.0, penalty_decay=0.9, top_p=1.0
    )
    sampler = Sampler(options, 4, unpenalized={3})
    for token in (1, 3, 1, 2):
        sampler.accept(token)
    occurrences = np.array([0.0, (0.81 + 1.0) * 0.9, 1.0, 0.0])
    seen = np.array([0, 1, 1, 1])
    expected = softmax(-(0.5 * seen + 2.0 * occurrences))
    np.testing.assert_allclose(sampler.distribution(np.zeros(4))[1], expected, rtol=1e-12)


def test_penalties_are_right_for_every_token_of_the_vocabulary() -> None:
    options = SamplingOptions(frequency_penalty=1.0, penalty_decay=1.0, top_p=1.0)
    sampler = Sampler(options, N_VOCAB)
    for token in reversed(range(N_VOCAB)):
        for _ in range(1 + token % 3):
            sampler.accept(token)
    expected = softmax(-(1.0 + np.arange(N_VOCAB) % 3))
    np.testing.assert_allclose(sampler.distribution(np.zeros(N_VOCAB))[1], expected, rtol=1e-12)


def test_runs_of_blanks_and_digits_are_not_penalized() -> None:
    unpenalized = unpenalized_tokens(WorldTokenizer(TEXTS))
    assert {TEXTS[token] for token in unpenalized} == {
        b"12", *(bytes([byte]) for byte in b" \t0123456789"), b" \t0"
    }  # fmt: skip
    assert unpenalized_tokens(WorldTokenizer([b"", b"a", b"7"])) == {2}
    assert unpenalized_tokens(ByteTokenizer()) == frozenset(b" \t0123456789")


# Filters


@pytest.mark.parametrize("spread", [3.0, 60.0])
def test_top_p_of_one_keeps_every_token(spread: float) -> None:
    """Where the official sampler may become greedy: its sum stays below 1."""
    logits = random_logits(3, n_vocab=65536, spread=spread)
    assert np.count_nonzero(probabilities(SamplingOptions(top_p=1.0), logits)) == 65536


@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=30),
    st.floats(0, 1, exclude_max=True),
)
def test_top_p_keeps_the_fewest_that_reach_it(scaled: list[int], top_p: float) -> None:
    logits = np.array(scaled) / 4
    kept = probabilities(SamplingOptions(top_p=top_p), logits) > 0
    p = softmax(logits)
    rounding = 1e-12
    assert p[kept].sum() >= top_p - rounding
    # Without its last tie it would not have reached it; and what is kept beats what is not.
    assert p[p > p[kept].min()].sum() < top_p + rounding
    assert p[kept].min() > p[~kept].max(initial=0)


def test_top_k_keeps_exactly_k_and_the_first_of_ties() -> None:
    logits = np.array([1.0, 2.0, 1.0, 3.0, 1.0])
    tokens, _ = Sampler(SamplingOptions(top_p=1.0, top_k=3), 5).distribution(logits)
    assert tokens.tolist() == [0, 1, 3]


def test_min_p_is_relative_to_the_likeliest() -> None:
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    p = probabilities(SamplingOptions(top_p=1.0, min_p=0.25), logits)
    np.testing.assert_allclose(p, np.array([0.5, 0.3, 0.15, 0]) / 0.95)


@pytest.mark.parametrize("typical_p", [0.05, 0.3, 0.5, 0.9, 0.999])
def test_typical_p_matches_its_definition(typical_p: float) -> None:
    logits = random_logits(11)
    p = softmax(logits)
    surprise = -np.log(p)
    order = np.argsort(np.abs(surprise - (p * surprise).sum()))
    n_kept = int(np.argmax(np.cumsum(p[order]) >= typical_p)) + 1
    expected = np.zeros(N_VOCAB)
    expected[order[:n_kept]] = p[order[:n_kept]] / p[order[:n_kept]].sum()
    ours = probabilities(SamplingOptions(top_p=1.0, typical_p=typical_p), logits)
    np.testing.assert_allclose(ours, expected, rtol=1e-9)


def test_typical_p_may_refuse_the_likeliest_even_when_cold() -> None:
    p = np.array([0.4] + [0.06] * 10)
    options = SamplingOptions(top_p=1.0, typical_p=0.3, temperature=0.001)
    assert probabilities(options, np.log(p)).tolist() == [0.0] + [0.1] * 10


@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 1e6])
def test_an_extreme_temperature_gives_a_distribution(temperature: float) -> None:
    p = probabilities(SamplingOptions(temperature=temperature, top_p=1.0), random_logits(1))
    assert p.sum() == pytest.approx(1.0)
    assert p.max() == pytest.approx(1.0 if temperature < 1 else 1 / N_VOCAB, rel=1e-3)


def test_the_temperature_lets_no_token_in_that_top_p_refused() -> None:
    logits = random_logits(2)
    cold = probabilities(SamplingOptions(temperature=0.5), logits)
    hot = probabilities(SamplingOptions(temperature=50.0), logits)
    np.testing.assert_array_equal(cold > 0, hot > 0)


def test_biases_are_added_and_banned_tokens_never_drawn() -> None:
    options = SamplingOptions(top_p=1.0, logit_bias={1: 2.0, 3: -1.0}, banned_tokens=(1, 2))
    p = probabilities(options, np.zeros(4))
    np.testing.assert_allclose(p, [1 / (1 + math.exp(-1)), 0, 0, 1 / (1 + math.e)])


# Drawing


def test_the_same_seed_gives_these_tokens_on_every_machine() -> None:
    sampler = Sampler(SamplingOptions(top_p=0.95), 16, seed=2026)
    logits = np.sin(np.arange(16)) * 2
    assert [sampler.sample(logits) for _ in range(16)] == [
        2, 9, 8, 7, 7, 14, 14, 2, 9, 2, 15, 15, 9, 14, 8, 14,
    ]  # fmt: skip


def test_draws_have_the_frequencies_of_the_distribution() -> None:
    logits = random_logits(4, n_vocab=20, spread=1.0)
    sampler = Sampler(SamplingOptions(top_p=0.9, temperature=1.3), 20, seed=5)
    n_draws = 20_000
    counts = np.bincount([sampler.sample(logits) for _ in range(n_draws)], minlength=20)
    tokens, p = sampler.distribution(logits)
    assert set(np.flatnonzero(counts)) <= set(tokens)
    # Five standard deviations of a binomial.
    np.testing.assert_array_less(
        np.abs(counts[tokens] - n_draws * p), 5 * np.sqrt(n_draws * p * (1 - p))
    )


@pytest.mark.parametrize(("bits", "expected"), [(0, 1), (2**64 - 1, 2)])
def test_the_first_and_last_numbers_draw_tokens_that_have_weight(
    monkeypatch: pytest.MonkeyPatch, bits: int, expected: int
) -> None:
    sampler = Sampler(SamplingOptions(top_p=1.0, temperature=0.01), 4)
    monkeypatch.setattr(sampler, "_random", SimpleNamespace(random_raw=lambda: bits))
    assert sampler.sample([0.0, 99.0, 99.0, 0.0]) == expected


def test_temperature_zero_takes_the_first_of_the_likeliest() -> None:
    logits = np.array([0.0, 5.0, 5.0, 1.0])
    sampler = Sampler(SamplingOptions(temperature=0, presence_penalty=1.0), 4)
    assert sampler.sample(logits) == 1
    sampler.accept(1)
    assert sampler.sample(logits) == 2
    assert sampler.distribution(logits)[0].tolist() == [2]


def test_sampling_leaves_the_logits_alone() -> None:
    options = SamplingOptions(presence_penalty=1.0, banned_tokens=[1], logit_bias={2: 3.0})
    logits = random_logits(9)
    before = logits.copy()
    logits.flags.writeable = False
    sampler = Sampler(options, N_VOCAB, seed=1)
    sampler.accept(3)
    sampler.sample(logits)
    np.testing.assert_array_equal(logits, before)


def test_a_clone_goes_on_alike_and_apart() -> None:
    def text(sampler: Sampler, n_tokens: int) -> list[int]:
        tokens = []
        for step in range(n_tokens):
            tokens.append(sampler.sample(random_logits(step, spread=0.5)))
            sampler.accept(tokens[-1])
        return tokens

    sampler = Sampler(SamplingOptions.official(), N_VOCAB, seed=3)
    text(sampler, 20)
    twin = sampler.clone()
    later = twin.clone()
    expected = text(sampler, 40)
    assert text(twin, 40) == expected
    assert text(later, 40) == expected


def test_logits_that_are_not_numbers_are_refused_in_one_line() -> None:
    for bad in (math.nan, math.inf):
        logits = random_logits(1)
        logits[7] = bad
        for temperature in (0.0, 1.0):
            sampler = Sampler(SamplingOptions(temperature=temperature), N_VOCAB)
            with pytest.raises(RwkvEdgeError, match=r"the model produced (NaN|infinite)"):
                sampler.sample(logits)


def test_banning_every_token_is_refused() -> None:
    sampler = Sampler(SamplingOptions(banned_tokens=range(4)), 4)
    with pytest.raises(InputError, match="every token is banned"):
        sampler.sample(np.zeros(4))


def test_logits_of_another_length_are_refused() -> None:
    with pytest.raises(InputError, match=r"logits are \[3\]; wanted is \[4\]"):
        Sampler(SamplingOptions(), 4).sample(np.zeros(3))


@pytest.mark.parametrize("token", [-1, 4])
def test_tokens_outside_the_vocabulary_are_refused(token: int) -> None:
    with pytest.raises(InputError, match="banned_tokens"):
        Sampler(SamplingOptions(banned_tokens=[token]), 4)
    with pytest.raises(InputError, match="logit_bias"):
        Sampler(SamplingOptions(logit_bias={token: 1.0}), 4)
    with pytest.raises(InputError, match="outside the vocabulary"):
        Sampler(SamplingOptions.official(), 4).accept(token)
    with pytest.raises(InputError, match="outside the vocabulary"):
        Sampler(SamplingOptions(), 4).accept(token)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 1.01),
        ("top_p", -0.5),
        ("top_p", math.nan),
        ("top_k", -1),
        ("top_k", 0.5),
        ("min_p", 2.0),
        ("typical_p", -1.0),
        ("penalty_decay", 1.1),
        ("presence_penalty", math.inf),
        ("frequency_penalty", math.nan),
        ("logit_bias", {3: math.nan}),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{name}.* is .*; it must be"):
        SamplingOptions(**{name: value})


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="seed is -1"):
        Sampler(SamplingOptions(), 4, seed=-1)
