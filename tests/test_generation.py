"""Streams: the text, and a state that has seen that text and nothing else."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_edge import InputError, Model
from rwkv_edge.generation import END, LENGTH, STOP, Stream
from rwkv_edge.sampling import Sampler, SamplingOptions
from rwkv_edge.state import State

PROMPT = "Once upon a time"
# A state that read a text in other parts, or as other tokens of the same text where it is tiny.
CLOSE = 1e-5


def same_state(one: State, other: State) -> bool:
    """Equal up to the rounding of reading a text in one part or in several."""
    a, b = one.to_arrays(), other.to_arrays()
    return all(np.abs(a[name] - b[name]).max() <= CLOSE * np.ptp(b[name]) for name in b)


def scripted(model: Model, monkeypatch: pytest.MonkeyPatch, tokens: list[int]) -> None:
    """Let the sampler draw these tokens, whatever the logits are; then the same one forever."""
    left = iter(tokens)
    monkeypatch.setattr(Sampler, "sample", lambda *_: next(left, tokens[-1]))


def token_of(model: Model, text: bytes) -> int:
    (token,) = model.tokenizer.encode(text)
    return token


@pytest.fixture
def write(words_model: Model, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stream]:
    """A stream of `words_model` that says these tokens, given as texts."""

    def write(*texts: bytes, **options: Any) -> Stream:
        tokens = [token_of(words_model, text) if text else 319 for text in texts]
        scripted(words_model, monkeypatch, tokens)
        return words_model.stream(PROMPT, **{"max_tokens": len(texts), **options})

    return write


def read_tokens(model: Model, tokens: list[int]) -> State:
    return model.forward([*model.tokenizer.encode(PROMPT), *tokens])[1]


# Greedy text of a random model repeats itself: sampled, it holds all sorts of bytes.
@pytest.mark.parametrize("n_stop", [1, 2, 3, 5])
@pytest.mark.parametrize("where", [3, 17, 40])
def test_after_a_stop_text_the_state_has_read_the_prompt_and_the_visible_text_alone(
    words_model: Model, where: int, n_stop: int
) -> None:
    # Token 0 would end the document.
    options = SamplingOptions(top_p=1.0, banned_tokens={0})
    free = words_model.stream(PROMPT, max_tokens=60, seed=3, sampling=options)
    list(free)
    raw = words_model.tokenizer.decode_bytes(free.tokens)
    stop = raw[where : where + n_stop]
    assert len(stop) == n_stop
    stream = words_model.stream(PROMPT, max_tokens=60, seed=3, sampling=options, stop=[stop])
    text = "".join(stream)
    visible = raw[: raw.index(stop)]
    assert text == visible.decode("utf-8", "replace")
    assert stream.finish_reason == STOP
    assert words_model.tokenizer.decode_bytes(stream.tokens) == visible
    assert same_state(stream.state, read_tokens(words_model, stream.tokens))


@pytest.mark.parametrize(
    ("texts", "stop", "visible"),
    [
        ([b"H", b"i", b".\n", b"\n\nUser"], "\n\nUser", b"Hi.\n"),
        ([b"H", b"i", b".\n", b"\n", b"User"], "\n\nUser", b"Hi."),
        ([b"ab", b"xE", b"NDx"], "END", b"abx"),
        ([b"ab", b" the", b"END"], "END", b"ab the"),
        ([b"xE", b"NDx"], "END", b"x"),
        ([b"aab"], "ab", b"a"),
        ([b"aab"], "aab", b""),
        ([b"x", b"aab"], "b", b"xaa"),
        ([b"x", b"", b"END"], "END", b"x"),
        ([b"xE", b"", b"", b"NDx"], "END", b"x"),
        ([b"xE", b"xE", b"NDx"], "END", b"xEx"),
        ([b"\n", b"\n", b"\n", b"User"], "\n\nUser", b"\n"),
        ([b"\xe2\x82", b"\xac", b"END"], "END", "€".encode()),
    ],
)
def test_stop_texts_across_and_inside_tokens_are_taken_out_of_the_state(
    words_model: Model, write: Callable[..., Stream], texts: list[bytes], stop: str, visible: bytes
) -> None:
    stream = write(*texts, stop=[stop, "never said"], max_tokens=50)
    assert "".join(stream) == visible.decode()
    assert stream.finish_reason == STOP
    assert words_model.tokenizer.decode_bytes(stream.tokens) == visible
    assert same_state(stream.state, read_tokens(words_model, stream.tokens))


def test_a_stop_text_of_a_given_state_is_rolled_back_in_that_state(
    words_model: Model, write: Callable[..., Stream]
) -> None:
    _, state = words_model.forward(words_model.tokenizer.encode("What came before. "))
    expected = state.clone()
    stream = write(b"x", b"xE", b"NDx", stop=["END"], state=state, max_tokens=9)
    assert stream.state is state
    list(stream)
    words_model.forward([*words_model.tokenizer.encode(PROMPT), *stream.tokens], expected)
    assert same_state(state, expected)


@pytest.mark.parametrize("seed", range(6))
def test_whenever_a_stream_is_left_its_state_has_read_what_came_out(
    words_model: Model, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # They begin all the time, and never end.
    stops = [bytes([first, 1, 2, 3]) for first in range(4, 256)]
    options = SamplingOptions(top_p=1.0, banned_tokens={0})
    stream = words_model.stream(PROMPT, max_tokens=400, seed=seed, sampling=options, stop=stops)
    text = ""
    for _ in range(int(rng.integers(1, 60))):
        text += next(stream)
    stream.close()
    raw = words_model.tokenizer.decode_bytes(stream.tokens)
    assert text == raw.decode("utf-8", "replace")
    assert same_state(stream.state, read_tokens(words_model, stream.tokens))
    assert stream.finish_reason is None
    assert list(stream) == []


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    texts=st.lists(
        st.sampled_from(
            [b"a\xc3", b"\xc3\xa9", b"\xe2\x82", b"\xac", b"\xc3", b"\xed", b"\xa0", b"\xf0",
             b"\x9f", b"\xa9\xc3", b"a", b"ab", b"aab", b"xE", b"NDx", b""]
        ),
        min_size=1,
        max_size=25,
    )
)  # fmt: skip
def test_pieces_joined_are_the_decoded_text_and_agree_with_the_tokens_at_every_piece(
    words_model: Model, texts: list[bytes]
) -> None:
    tokens = [token_of(words_model, text) if text else 319 for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        scripted(words_model, patch, tokens)
        stream = words_model.stream(
            PROMPT, max_tokens=len(texts), stop=["aabb", "END!", "\xe9\xe9!"]
        )
        text = ""
        most_kept = 0
        for piece in stream:
            assert piece
            text += piece
            so_far = words_model.tokenizer.decode_bytes(stream.tokens)
            assert text == so_far.decode("utf-8", "replace")
            kept = [recent for recent in stream._recent if recent.before is not None]
            most_kept = max(most_kept, len(kept))
    assert text == b"".join(texts).decode("utf-8", "replace")
    assert most_kept <= 8
    assert stream.tokens == tokens
    assert same_state(stream.state, read_tokens(words_model, tokens))


@pytest.mark.parametrize(
    ("texts", "pieces"),
    [
        # Text comes out by whole tokens where the end of one is held back.
        ([b"H", b".\n", b"\n", b"x"], ["H", ".\n\nx"]),
        ([b"\n", b"\n", b"\n", b"x"], ["\n", "\n\nx"]),
        ([b"H", b"", b"xE", b"", b"xE", b"i"], ["H", "xE", "xEi"]),
        ([b"H", b"a\xc3", b"\xa9", b"i"], ["H", "aé", "i"]),
        ([b"\xe2\x82", b"\xe2\x82", b"\xac"], ["\ufffd", "€"]),
        ([b"a\xc3", b"a\xc3", b"\xc3\xa9", b"i"], ["a\ufffd", "a\ufffdé", "i"]),
        ([b"a", b"\xe2\x82", b"\xac"], ["a", "€"]),
        ([b"a\xc3", b"\xa9\xc3", b"\xa9", b"i"], ["aéé", "i"]),
        ([b"H", b"aab", b"i"], ["H", "aab", "i"]),
    ],
)
def test_at_every_piece_the_state_has_read_what_came_out(
    words_model: Model, write: Callable[..., Stream], texts: list[bytes], pieces: list[str]
) -> None:
    stream = write(*texts, stop=["\n\nUser", "END"])
    seen = b""
    for i, piece in enumerate(stream):
        assert piece == pieces[i]
        seen = words_model.tokenizer.decode_bytes(stream.tokens)
        assert seen.decode("utf-8", "replace") == "".join(pieces[: i + 1])
        assert same_state(stream.state, read_tokens(words_model, stream.tokens))
    assert seen == b"".join(texts)
    assert stream.finish_reason == LENGTH


def test_the_state_of_a_dropped_stream_can_go_its_own_way(
    words_model: Model, write: Callable[..., Stream]
) -> None:
    state = words_model.new_state()
    stream = write(b"H", b"a\xc3", b"\xa9", b"i", state=state)
    assert next(stream) == "H"
    words_model.forward(words_model.tokenizer.encode("x"), state)
    stream.close()
    del stream
    assert same_state(state, read_tokens(words_model, words_model.tokenizer.encode("Hx")))


def test_an_interrupted_stream_has_not_read_what_was_held_back(
    words_model: Model, write: Callable[..., Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = write(b"H", b"i", b"xE", b"NDx", b"x", stop=["END!"], max_tokens=50)
    assert [next(stream), next(stream)] == ["H", "i"]
    calls = 0
    sample = Sampler.sample

    def interrupted(*arguments: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return sample(*arguments)

    monkeypatch.setattr(Sampler, "sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    assert words_model.tokenizer.decode_bytes(stream.tokens) == b"Hi"
    assert same_state(stream.state, read_tokens(words_model, stream.tokens))


def test_nothing_runs_before_the_first_piece_is_asked_for(words_model: Model) -> None:
    state = words_model.new_state()
    stream = words_model.stream(PROMPT, state=state)
    stream.close()
    assert same_state(state, words_model.new_state())
    assert (stream.tokens, stream.finish_reason) == ([], None)
    assert stream.n_prompt_tokens == len(words_model.tokenizer.encode(PROMPT))


def test_max_tokens_are_made_and_read(words_model: Model) -> None:
    for n in (1, 2, 33):
        stream = words_model.stream(PROMPT, max_tokens=n, seed=5)
        text = "".join(stream)
        assert (len(stream.tokens), stream.finish_reason) == (n, LENGTH)
        assert text == words_model.tokenizer.decode(stream.tokens)
        assert same_state(stream.state, read_tokens(words_model, stream.tokens))


def test_text_held_back_comes_out_when_tokens_run_out(write: Callable[..., Stream]) -> None:
    stream = write(b"H", b"i", b"\n", b"\n", b"User", stop=["\n\nUser:"])
    assert "".join(stream) == "Hi\n\nUser"
    assert stream.finish_reason == LENGTH
    assert len(stream.tokens) == 5


def test_the_end_of_document_ends_the_text_and_is_not_read(
    words_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(words_model, monkeypatch, [*words_model.tokenizer.encode("Hi EN"), 0, 65])
    stream = words_model.stream(PROMPT, stop=["END"])
    assert "".join(stream) == "Hi EN"
    assert stream.finish_reason == END
    assert 0 not in stream.tokens
    assert same_state(stream.state, read_tokens(words_model, stream.tokens))


def test_the_text_is_the_same_with_and_without_a_stop_text_that_never_comes(
    words_model: Model,
) -> None:
    plain = words_model.generate(PROMPT, max_tokens=300, seed=8)
    stops = [bytes([first, 0, 0, 0]) for first in range(1, 256)]
    assert words_model.generate(PROMPT, max_tokens=300, seed=8, stop=stops) == plain


def test_the_same_seed_gives_the_same_text_and_another_another(tiny_model: Model) -> None:
    one, two, three = (tiny_model.generate(PROMPT, seed=seed) for seed in (7, 7, 8))
    assert one == two != three
    assert tiny_model.generate(PROMPT) != tiny_model.generate(PROMPT)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_any_number_of_threads_gives_the_same_text(q8_gguf: Path, temperature: float) -> None:
    texts = set()
    for threads in (1, 2, 3):
        with Model.load(q8_gguf, threads=threads) as model:
            texts.add(model.generate(PROMPT, max_tokens=200, temperature=temperature, seed=1))
    assert len(texts) == 1


def test_greedy_text_takes_the_likeliest_token_every_time(tiny_model: Model) -> None:
    stream = tiny_model.stream(PROMPT, max_tokens=30, temperature=0)
    list(stream)
    logits, state = tiny_model.forward(tiny_model.tokenizer.encode(PROMPT))
    for token in stream.tokens:
        assert token == logits.argmax()
        logits, _ = tiny_model.forward([token], state)


@pytest.mark.parametrize(
    "text", ["größer € 天地 🙂🙃", "👩‍👩‍👧‍👦", "\u07ff\u0800\uffff\U00010000\U0010ffff"]
)
def test_characters_of_many_bytes_come_out_whole(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    raw = text.encode()
    scripted(tiny_model, monkeypatch, list(raw))
    pieces = list(tiny_model.stream(PROMPT, max_tokens=len(raw)))
    assert pieces == list(text)


def test_only_tokens_that_a_bias_allows_come_out_and_never_as_half_a_character(
    tiny_model: Model,
) -> None:
    raw = "天€".encode()
    options = SamplingOptions(logit_bias=dict.fromkeys(raw, 1000.0))
    stream = tiny_model.stream(PROMPT, max_tokens=300, seed=1, sampling=options)
    pieces = list(stream)
    assert set(stream.tokens) <= set(raw)
    assert "".join(pieces) == bytes(stream.tokens).decode("utf-8", "replace")
    assert "�" in "".join(pieces)
    assert all(pieces)


def test_an_unfinished_character_at_the_end_is_one_replacement_character(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(tiny_model, monkeypatch, list("a🙂".encode()))
    stream = tiny_model.stream(PROMPT, max_tokens=3)
    assert list(stream) == ["a", "\ufffd"]
    assert len(stream.tokens) == 3


def test_banned_tokens_never_come_out(tiny_model: Model) -> None:
    free = tiny_model.stream(PROMPT, max_tokens=300, seed=2)
    list(free)
    banned = frozenset(free.tokens)
    assert len(banned) > 50
    options = SamplingOptions(banned_tokens=banned)
    stream = tiny_model.stream(PROMPT, max_tokens=300, seed=2, sampling=options)
    list(stream)
    assert not banned & set(stream.tokens)


def test_a_presence_penalty_keeps_a_greedy_text_from_repeating_a_token(tiny_model: Model) -> None:
    plain = tiny_model.stream(PROMPT, max_tokens=60, temperature=0)
    list(plain)
    assert len(set(plain.tokens)) < 60
    options = SamplingOptions(presence_penalty=1000.0)
    stream = tiny_model.stream(PROMPT, max_tokens=60, temperature=0, sampling=options)
    list(stream)
    counted = [token for token in stream.tokens if bytes([token]) not in b" \t0123456789"]
    assert len(set(counted)) == len(counted)


def test_options_by_name_override_those_of_sampling(tiny_model: Model) -> None:
    options = SamplingOptions(temperature=5.0, banned_tokens=frozenset(range(128, 256)))
    stream = tiny_model.stream(PROMPT, max_tokens=40, sampling=options, temperature=0)
    list(stream)
    greedy = dataclasses.replace(options, temperature=0)
    again = tiny_model.stream(PROMPT, max_tokens=40, sampling=greedy)
    list(again)
    assert stream.tokens == again.tokens
    assert max(stream.tokens) < 128


@pytest.mark.parametrize("prompt", ["", b"", [], np.array([], np.int32)])
def test_an_empty_prompt_is_refused(tiny_model: Model, prompt: Any) -> None:
    with pytest.raises(InputError, match="the prompt is empty"):
        tiny_model.stream(prompt)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": -5}, "max_tokens is -5"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_k": -1}, "top_k is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"stop": [""]}, "stop text is empty"),
        ({"sampling": SamplingOptions(banned_tokens={256})}, "banned_tokens has token 256"),
        ({"sampling": SamplingOptions(logit_bias={-1: 1.0})}, "logit_bias has token -1"),
    ],
)
def test_options_out_of_range_are_refused_at_once(
    tiny_model: Model, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        tiny_model.stream(PROMPT, **options)


def test_a_prompt_may_be_text_bytes_or_tokens(tiny_model: Model) -> None:
    texts = {
        tiny_model.generate(prompt, temperature=0, max_tokens=20)
        for prompt in (PROMPT, PROMPT.encode())
    }
    texts.add(tiny_model.generate(list(PROMPT.encode()), temperature=0, max_tokens=20))
    texts.add(tiny_model.generate(np.array(list(PROMPT.encode())), temperature=0, max_tokens=20))
    assert len(texts) == 1


def test_a_given_state_goes_on_where_it_was(tiny_model: Model) -> None:
    whole = tiny_model.generate("First, then second", temperature=0, max_tokens=20)
    _, state = tiny_model.forward(tiny_model.tokenizer.encode("First, then "))
    assert tiny_model.generate("second", temperature=0, max_tokens=20, state=state) == whole


def test_few_states_are_kept_however_long_a_stop_text_is_expected(
    words_model: Model, write: Callable[..., Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    n_clones = 0
    clone = State.clone

    def counted(state: State) -> State:
        nonlocal n_clones
        n_clones += 1
        return clone(state)

    monkeypatch.setattr(State, "clone", counted)
    # Padding has no text: a model that says nothing else would fill the memory with states.
    stream = write(b"E", *[b""] * 500, b"x", stop=["END"])
    assert "".join(stream) == "Ex"
    assert n_clones <= 2


@pytest.fixture(scope="module")
def trained_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """The checkpoint that ships with the package; what it says is up to its training."""
    from rwkv_edge.builtin import checkpoint_path
    from rwkv_edge.converters.convert import convert

    if not checkpoint_path().is_file():
        pytest.skip("the package is without its checkpoint")
    path = tmp_path_factory.mktemp("builtin") / "m.gguf"
    # In F32, where reading a text in one part or in many differs by float32 rounding alone.
    convert(checkpoint_path(), path, "F32")
    with Model.load(path) as model:
        yield model


@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
def test_a_trained_model_forgets_its_stop_text(trained_model: Model, place: float) -> None:
    options = {"max_tokens": 80, "temperature": 0.8, "seed": 4}
    free = trained_model.generate(PROMPT, **options)  # type: ignore[arg-type]
    raw = free.encode()
    start = int(place * len(raw))
    stop = raw[start : start + 6]
    stream = trained_model.stream(PROMPT, stop=[stop], **options)  # type: ignore[arg-type]
    text = "".join(stream)
    assert text.encode() == raw[: raw.index(stop)]
    assert stream.finish_reason == STOP
    assert trained_model.tokenizer.decode(stream.tokens) == text
    assert same_state(stream.state, read_tokens(trained_model, stream.tokens))
