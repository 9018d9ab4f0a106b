"""PIPELINE on its own; tests/compat/test_official.py compares it with the official one."""

import random

import numpy as np
import pytest

from rwkv_edge import InputError, RwkvEdgeError
from rwkv_edge.compat import PIPELINE, PIPELINE_ARGS
from rwkv_edge.compat.pipeline import drop_all_but, likeliest_reaching
from rwkv_edge.compat.tensor import Tensor, softmax


class Fixed:
    """Gives the numbers that it was given."""

    def __init__(self, *numbers):
        self._numbers = iter(numbers)

    def random(self):
        return next(self._numbers)


class Scripted:
    """A model whose likeliest tokens are those of a list, whatever it reads."""

    def __init__(self, tokens, n_vocab=2048):
        self.tokens = list(tokens)
        self.n_vocab = n_vocab
        self.read = []

    def forward(self, tokens, state, full_output=False):
        self.read.append(list(tokens))
        if state is None:
            state = [0]
        elif len(tokens) == 1:
            state[0] += 1
        logits = np.zeros(self.n_vocab, np.float32)
        logits[self.tokens[state[0] % len(self.tokens)]] = 100
        return logits.view(Tensor), state


@pytest.fixture(scope="module")
def pipeline(builtin, builtin_vocabulary):
    return PIPELINE(builtin, builtin_vocabulary)


def greedy(**options):
    return PIPELINE_ARGS(temperature=0, alpha_frequency=0, alpha_presence=0, **options)


def ids(pipeline, text):
    """One token for each byte."""
    return [pipeline.tokenizer.token2idx[bytes([byte])] for byte in text.encode()]


def test_defaults_are_the_official_ones():
    assert vars(PIPELINE_ARGS()) == {
        "temperature": 1.0, "top_p": 0.85, "top_k": 0, "alpha_frequency": 0.2,
        "alpha_presence": 0.2, "alpha_decay": 0.996, "token_ban": [], "token_stop": [],
        "chunk_len": 256,
    }  # fmt: skip
    assert PIPELINE_ARGS().token_ban is not PIPELINE_ARGS().token_ban


def test_encoding_and_decoding_are_inverse(pipeline):
    text = "Naïve llamas, 12 of them.\n\n\U0001f999"
    assert pipeline.decode(pipeline.encode(text)) == text


def test_the_same_seed_gives_the_same_text_from_every_source(builtin, builtin_vocabulary):
    sources = {
        "numpy.random itself": lambda: np.random.seed(5),
        "RandomState": lambda: np.random.RandomState(5),
        "Generator": lambda: np.random.default_rng(5),
        "random.Random": lambda: random.Random(5),
    }
    texts = {}
    for name, make in sources.items():
        for _ in range(2):
            pipeline = PIPELINE(builtin, builtin_vocabulary, random=make())
            texts.setdefault(name, []).append(pipeline.generate("Once", 20))
    assert all(a == b and a for a, b in texts.values())
    # numpy.random and a RandomState of the same seed are one stream.
    assert texts["numpy.random itself"] == texts["RandomState"]
    assert len({a for a, _ in texts.values()}) == 3


def test_a_draw_takes_one_number_and_is_where_the_probabilities_reach_it(pipeline):
    logits = np.log([0.1, 0.2, 0.3, 0.4]).astype(np.float32)
    source = Fixed(0.0, 0.099, 0.101, 0.299, 0.301, 0.599, 0.601, 0.999)
    ours = PIPELINE(None, "rwkv_vocab_v20230424", random=source)
    assert [ours.sample_logits(logits, top_p=0.999) for _ in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(StopIteration):
        source.random()


def test_logits_stay_as_they_are(pipeline):
    logits = np.linspace(-3, 3, 2048).astype(np.float32)
    before = logits.copy()
    pipeline.sample_logits(logits, temperature=0.5, top_p=0.5, top_k=3)
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("n", [1, 3, 255, 256, 257, 5000])
@pytest.mark.parametrize("top_p", [0.0, 0.3, 0.85, 0.999, 1.0, 2.0])
def test_the_cutoff_is_that_of_all_probabilities_sorted(n, top_p):
    p = softmax(np.random.default_rng(n).standard_normal(n).astype(np.float32))
    descending = np.sort(p)[::-1]
    reached = np.cumsum(descending) >= top_p
    # Of none, argmax gives the first: the official sampler is then greedy.
    assert likeliest_reaching(p, top_p) == descending[reached.argmax()]


def test_exactly_k_are_kept_also_of_equal_ones():
    for numbers in ([5, 1, 4, 2, 3], [1, 1, 1, 1, 1], [2, 1, 2, 1, 2]):
        for k in range(1, 5):
            p = np.array(numbers, np.float32)
            drop_all_but(p, k)
            kept = sorted(p[p > 0])
            assert kept == sorted(numbers)[-k:]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused(pipeline, value):
    logits = np.full(2048, value, np.float32)
    with pytest.raises(RwkvEdgeError, match="nothing can be drawn"):
        pipeline.sample_logits(logits)
    logits[1:] = 0
    if value > -np.inf or np.isnan(value):
        with pytest.raises(RwkvEdgeError, match="nothing can be drawn"):
            pipeline.sample_logits(logits)


def test_a_temperature_that_leaves_nothing_is_refused(pipeline):
    with pytest.raises(InputError, match="0 takes the likeliest"):
        pipeline.sample_logits(np.linspace(0, 1, 2048), temperature=1e-4)


def test_long_prompts_are_read_in_chunks_and_give_the_same_text(builtin, builtin_vocabulary):
    prompt = "The quick brown fox. " * 20
    texts = []
    for chunk_len in (1, 7, 256):
        pipeline = PIPELINE(builtin, builtin_vocabulary)
        texts.append(pipeline.generate(prompt, 20, greedy(chunk_len=chunk_len)))
    assert texts[0] == texts[1] == texts[2]
    script = Scripted(ids(pipeline, "ab"))
    pipeline = PIPELINE(script, builtin_vocabulary)
    pipeline.generate(prompt, 3, greedy(chunk_len=50))
    n_tokens = len(pipeline.encode(prompt))
    assert [len(part) for part in script.read] == [50] * (n_tokens // 50) + [
        *([n_tokens % 50] if n_tokens % 50 else []), 1, 1,
    ]  # fmt: skip


def test_pieces_are_whole_characters_and_make_up_the_text(builtin_vocabulary):
    pipeline = PIPELINE(Scripted([1]), builtin_vocabulary)
    text = "é\U0001f999z"
    pipeline.model = Scripted(ids(pipeline, text))
    pieces = []
    assert pipeline.generate("go", 7, greedy(), callback=pieces.append) == text
    assert pieces == ["é", "\U0001f999", "z"]
    # What is not whole at the end is left out.
    pipeline.model = Scripted(ids(pipeline, text))
    assert pipeline.generate("go", 5, greedy()) == "é"


def test_stops_end_the_text_and_are_no_part_of_it(builtin_vocabulary):
    pipeline = PIPELINE(Scripted([1]), builtin_vocabulary)
    script = Scripted(ids(pipeline, "abc"))
    pipeline.model = script
    stop = script.tokens[2]
    assert pipeline.generate("go", 30, greedy(token_stop=[stop])) == "ab"


def test_banned_tokens_are_never_drawn(pipeline):
    free = pipeline.generate("Once upon", 12, greedy())
    banned = set(pipeline.encode(free))
    other = pipeline.generate("Once upon", 12, greedy(token_ban=banned))
    assert not banned & set(pipeline.encode(other))
    args = greedy()
    for kind in ([], (), set()):
        args.token_ban = kind
        assert pipeline.generate("Once upon", 12, args) == free
    with pytest.raises(InputError, match="token_ban"):
        pipeline.generate("Once upon", 1, greedy(token_ban=[2048]))


def test_penalties_are_those_of_the_equations(builtin_vocabulary):
    """Every distribution against one computed with the whole history at hand."""
    n_vocab, decay, presence, frequency = 2048, 0.9, 0.7, 0.3
    tokens = {"a": 0, "b": 0, "1": 0}
    base = np.random.default_rng(0).standard_normal(n_vocab).astype(np.float32)

    class Flat:
        def forward(self, read, state):
            return base.copy().view(Tensor), state

    pipeline = PIPELINE(Flat(), builtin_vocabulary)
    tokens = ids(pipeline, "ab1a1ba")
    seen = []
    draws = iter(tokens)

    def draw(logits, temperature, top_p, top_k):
        seen.append(np.array(logits))
        return next(draws)

    pipeline.sample_logits = draw
    pipeline.generate(
        "go", len(tokens), PIPELINE_ARGS(alpha_frequency=frequency, alpha_presence=presence,
                                         alpha_decay=decay)
    )  # fmt: skip
    for n, logits in enumerate(seen):
        wanted = base.astype(np.float64)
        for token in set(tokens[:n]):
            ages = [n - 1 - i for i in range(n) if tokens[i] == token]
            counts = 0 if token == tokens[2] else sum(decay**age for age in ages)
            wanted[token] -= presence + frequency * counts
        np.testing.assert_allclose(logits, wanted, atol=1e-6)


def test_a_state_goes_on_from_where_it_was(pipeline, builtin):
    whole = pipeline.generate("Once upon a time there", 15, greedy())
    _, state = builtin.forward(pipeline.encode("Once upon"), None)
    assert pipeline.encode("Once upon") + pipeline.encode(" a time there") == pipeline.encode(
        "Once upon a time there"
    )
    assert pipeline.generate(" a time there", 15, greedy(), state=state) == whole


def test_nothing_to_read_or_to_write_is_met(pipeline):
    assert pipeline.generate("Once", 0) == ""
    with pytest.raises(InputError, match="empty"):
        pipeline.generate("", 5)
    with pytest.raises(InputError, match="chunk_len"):
        pipeline.generate("Once", 5, PIPELINE_ARGS(chunk_len=0))
