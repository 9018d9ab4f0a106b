"""Conversations: what is fed, what is taken back, and what goes its own way."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkv_edge import InputError, Model, StateMismatchError
from rwkv_edge.chat import UNDO_DEPTH, Chat
from rwkv_edge.chat_templates import WORLD, ThinkLength, ThinkMode
from rwkv_edge.errors import FormatError, RwkvEdgeError
from rwkv_edge.generation import END, LENGTH, STOP
from rwkv_edge.sampling import Sampler, SamplingOptions
from rwkv_edge.state import State

CLOSE = 1e-5


def same_state(one: State, other: State) -> bool:
    """Equal up to the rounding of reading a text in one part or in several."""
    a, b = one.to_arrays(), other.to_arrays()
    return all(np.abs(a[name] - b[name]).max() <= CLOSE * np.ptp(b[name]) for name in b)


def same_logits(model: Model, one: State, other: State) -> bool:
    """To the bit, whatever comes next."""
    tokens = model.tokenizer.encode("\n\nUser: and now?")
    return np.array_equal(model.forward(tokens, one.clone())[0],
                          model.forward(tokens, other.clone())[0])  # fmt: skip


@pytest.fixture(scope="module")
def model(f32_gguf: Path) -> Iterator[Model]:
    """Over bytes: every text is fed as its bytes."""
    with Model.load(f32_gguf, threads=1) as model:
        yield model


@pytest.fixture
def fed(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The texts of all prompts that streams are asked to continue, and of all that is encoded."""
    texts: list[bytes] = []
    encode = type(model.tokenizer).encode

    def recorded(tokenizer: Any, text: str | bytes) -> list[int]:
        texts.append(text.encode() if isinstance(text, str) else text)
        return encode(tokenizer, text)

    monkeypatch.setattr(type(model.tokenizer), "encode", recorded)
    return texts


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Answers to give, whatever the logits are."""

    def script(*answers: str) -> None:
        left = iter("".join(answers).encode())
        monkeypatch.setattr(Sampler, "sample", lambda *_: next(left))

    return script


def after(model: Model, text: str) -> State:
    return model.forward(model.tokenizer.encode(text))[1]


STOPPED = "\n\nUser"


def test_turns_are_fed_in_the_words_of_the_template(
    model: Model, fed: list[bytes], script: Callable[..., None]
) -> None:
    chat = model.chat("Be kind.")
    script(" Hello!" + STOPPED, " Fine.\n\nThanks." + STOPPED)
    assert "".join(chat.send("Hi")) == "Hello!"
    assert "".join(chat.send("How\n\n\nare you? ")) == "Fine.\n\nThanks."
    prompts = [text.decode() for text in fed if b"User" in text]
    assert prompts == [
        "System: Be kind.\n\nUser: Hi\n\nAssistant:",
        "\n\nUser: How\nare you?\n\nAssistant:",
    ]
    assert [(turn.user, turn.answer, turn.thinking, turn.finish_reason) for turn in chat.turns] == [
        ("Hi", "Hello!", "", STOP),
        ("How\n\n\nare you? ", "Fine.\n\nThanks.", "", STOP),
    ]
    whole = (
        "System: Be kind.\n\nUser: Hi\n\nAssistant: Hello!\n\n"
        "User: How\nare you?\n\nAssistant: Fine.\n\nThanks."
    )
    assert same_state(chat.state, after(model, whole))


def test_without_a_system_text_the_first_turn_begins_the_conversation(
    model: Model, fed: list[bytes], script: Callable[..., None]
) -> None:
    for system in (None, "", "  \n"):
        fed.clear()
        script(" x" + STOPPED)
        list(model.chat(system).send("Hi"))
        assert b"User: Hi\n\nAssistant:" in fed


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\t \r\n"])
def test_an_empty_text_is_refused_at_once_and_is_no_turn(model: Model, text: str) -> None:
    chat = model.chat()
    with pytest.raises(InputError, match="nothing to say"):
        chat.send(text)
    assert chat.turns == ()
    assert not chat.undo()


def test_nothing_is_said_before_the_first_piece_is_asked_for(model: Model) -> None:
    chat = model.chat()
    before = chat.state.to_arrays()
    pieces = chat.send("Hi")
    assert chat.turns == ()
    del pieces
    assert all(np.array_equal(a, before[name]) for name, a in chat.state.to_arrays().items())


@pytest.mark.parametrize("n_turns", [1, 3])
def test_undo_returns_to_the_very_state_before(model: Model, n_turns: int) -> None:
    chat = model.chat("Be kind.", seed=1, max_tokens=30)
    for i in range(2):
        list(chat.send(f"Question {i}"))
    kept, turns = chat.state.clone(), chat.turns
    for i in range(n_turns):
        list(chat.send(f"Another {i}"))
    assert not same_logits(model, chat.state, kept)
    for _ in range(n_turns):
        assert chat.undo()
    assert chat.turns == turns
    assert same_logits(model, chat.state, kept)


def test_after_undo_the_same_question_is_answered_as_it_was(model: Model) -> None:
    chat = model.chat(seed=4, max_tokens=40)
    list(chat.send("First"))
    one = "".join(chat.send("Second"))
    chat.undo()
    assert "".join(chat.send("Second")) == one
    chat.undo()
    assert "".join(chat.send("Third")) != one


def test_the_first_turn_can_be_taken_back_and_the_system_text_stays(
    model: Model, fed: list[bytes], script: Callable[..., None]
) -> None:
    chat = model.chat("Be kind.")
    script(" a" + STOPPED, " b" + STOPPED)
    list(chat.send("One"))
    assert chat.undo()
    assert chat.turns == ()
    fed.clear()
    list(chat.send("Two"))
    assert b"System: Be kind.\n\nUser: Two\n\nAssistant:" in fed
    assert same_state(chat.state, after(model, "System: Be kind.\n\nUser: Two\n\nAssistant: b"))


def test_no_more_than_four_turns_can_be_taken_back(model: Model) -> None:
    chat = model.chat(seed=1, max_tokens=3)
    for i in range(10):
        list(chat.send(f"Question {i}"))
    assert UNDO_DEPTH == 4
    assert [chat.undo() for _ in range(6)] == [True] * 4 + [False] * 2
    assert [turn.user for turn in chat.turns] == [f"Question {i}" for i in range(6)]


def test_a_long_conversation_keeps_no_more_states_than_a_short_one(model: Model) -> None:
    import gc

    def n_states() -> int:
        gc.collect()
        return sum(isinstance(thing, State) for thing in gc.get_objects())

    chat = model.chat(seed=1, max_tokens=5)
    counts = []
    for i in range(25):
        list(chat.send(f"Question {i}"))
        counts.append(n_states())
    assert counts[24] == counts[5]
    assert counts[24] - counts[0] == UNDO_DEPTH - 1


def test_a_branch_and_its_origin_go_their_own_ways(model: Model) -> None:
    chat = model.chat("Be kind.", seed=2, max_tokens=20)
    list(chat.send("One"))
    branch = chat.branch()
    kept = chat.state.clone()
    assert same_logits(model, branch.state, kept)
    assert branch.turns == chat.turns
    list(branch.send("Two, in the branch"))
    assert same_logits(model, chat.state, kept)
    assert len(chat.turns) == 1
    one = "".join(chat.send("Three"))
    assert [turn.user for turn in branch.turns] == ["One", "Two, in the branch"]
    assert [turn.user for turn in chat.turns] == ["One", "Three"]
    assert branch.undo()
    assert "".join(branch.send("Three")) == one
    # What the branch was made of is not its own to take back.
    assert branch.undo()
    assert not branch.undo()


def test_a_branch_of_a_fresh_conversation_has_its_system_text(
    model: Model, fed: list[bytes], script: Callable[..., None]
) -> None:
    script(" a" + STOPPED)
    list(model.chat("Be kind.").branch().send("Hi"))
    assert b"System: Be kind.\n\nUser: Hi\n\nAssistant:" in fed


def test_reset_begins_anew_after_the_system_text(
    model: Model, fed: list[bytes], script: Callable[..., None]
) -> None:
    chat = model.chat("Be kind.")
    script(" a" + STOPPED, " b" + STOPPED)
    list(chat.send("One"))
    chat.reset()
    assert chat.turns == ()
    assert not chat.undo()
    fed.clear()
    list(chat.send("Two"))
    assert b"System: Be kind.\n\nUser: Two\n\nAssistant:" in fed
    assert same_state(chat.state, after(model, "System: Be kind.\n\nUser: Two\n\nAssistant: b"))


def test_an_answer_left_early_is_what_came_until_then(
    model: Model, script: Callable[..., None]
) -> None:
    chat = model.chat()
    script(" Hello, you there!", " b" + STOPPED)
    text = ""
    for piece in chat.send("Hi"):
        text += piece
        if text == "Hello":
            break
    (turn,) = chat.turns
    assert (turn.answer, turn.finish_reason) == ("Hello", None)
    assert same_state(chat.state, after(model, "User: Hi\n\nAssistant: Hello"))


@pytest.mark.parametrize("go_on", ["undo", "branch", "reset", "save", "load", "send"])
def test_an_answer_whose_iterator_is_still_held_ends_with_the_next_call(
    model: Model, script: Callable[..., None], tmp_path: Path, go_on: str
) -> None:
    chat = model.chat()
    model.new_state().save(tmp_path / "fresh.state")
    script(" Hello, you there!", " b" + STOPPED)
    pieces = chat.send("Hi")
    assert next(pieces) == "H"
    hello = "User: Hi\n\nAssistant: H"
    if go_on == "undo":
        assert chat.undo()
        assert chat.turns == ()
        assert same_logits(model, chat.state, model.new_state())
    elif go_on == "branch":
        branch = chat.branch()
        assert [turn.answer for turn in branch.turns] == ["H"]
        assert same_state(branch.state, after(model, hello))
    elif go_on == "reset":
        chat.reset()
        assert chat.turns == ()
        assert same_logits(model, chat.state, model.new_state())
    elif go_on == "save":
        chat.save(tmp_path / "a.state")
        assert same_state(model.load_state(tmp_path / "a.state"), after(model, hello + "\n\n"))
    elif go_on == "load":
        chat.load(tmp_path / "fresh.state")
        assert chat.turns == ()
        assert same_logits(model, chat.state, model.new_state())
    else:
        script(" b" + STOPPED)
        assert "".join(chat.send("Go on")) == "b"
        assert [turn.answer for turn in chat.turns] == ["H", "b"]
        wanted = hello + "\n\nUser: Go on\n\nAssistant: b"
        assert same_state(chat.state, after(model, wanted))
    assert list(pieces) == []


def test_a_question_that_could_not_be_read_was_not_asked(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = model.chat(seed=1, max_tokens=5)
    list(chat.send("One"))
    kept, turns = chat.state.clone(), chat.turns
    forward = Model.forward

    def interrupted(model: Model, tokens: Any, *arguments: Any, **options: Any) -> Any:
        forward(model, tokens[:3], *arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Model, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(chat.send("Two"))
    assert chat.turns == turns
    assert same_logits(model, chat.state, kept)
    assert [chat.undo(), chat.undo()] == [True, False]


def test_a_failure_to_begin_leaves_nothing_to_undo(words_gguf: Path) -> None:
    with Model.load(words_gguf, "reference") as model:
        bad = SamplingOptions(banned_tokens={10**6})
        chat = model.chat(sampling=bad)
        with pytest.raises(InputError, match="banned_tokens"):
            list(chat.send("Hi"))
        assert chat.turns == ()
        assert not chat.undo()


def test_an_interrupted_answer_counts_with_what_came(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = model.chat()
    left = iter(b" Hey")

    def sample(*_: object) -> int:
        for token in left:
            return token
        raise KeyboardInterrupt

    monkeypatch.setattr(Sampler, "sample", sample)
    with pytest.raises(KeyboardInterrupt):
        list(chat.send("Hi"))
    assert [(turn.answer, turn.finish_reason) for turn in chat.turns] == [("Hey", None)]
    assert same_state(chat.state, after(model, "User: Hi\n\nAssistant: Hey"))
    assert chat.undo()


def test_max_tokens_bound_an_answer_and_the_next_turn_follows(
    model: Model, script: Callable[..., None]
) -> None:
    chat = model.chat(max_tokens=4)
    script(" abc", " d" + STOPPED[:2])
    assert "".join(chat.send("Hi")) == "abc"
    assert chat.turns[0].finish_reason == LENGTH
    list(chat.send("More"))
    wanted = "User: Hi\n\nAssistant: abc\n\nUser: More\n\nAssistant: d\n\n"
    assert same_state(chat.state, after(model, wanted))


def test_the_end_of_document_ends_an_answer(
    words_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([*words_model.tokenizer.encode(" ok"), 0])
    monkeypatch.setattr(Sampler, "sample", lambda *_: next(left))
    chat = words_model.chat()
    assert "".join(chat.send("Hi")) == "ok"
    assert chat.turns[0].finish_reason == END
    assert same_state(chat.state, after(words_model, "User: Hi\n\nAssistant: ok"))


THOUGHT = ">\nHm, let me see.\n</think>\n\nYes."


def test_thinking_is_kept_apart_and_not_shown(
    model: Model, fed: list[bytes], script: Callable[..., None]
) -> None:
    chat = model.chat()
    script(THOUGHT + STOPPED)
    assert "".join(chat.send("Hi", ThinkMode.THINK, ThinkLength.A_BIT)) == "Yes."
    assert b"User: Hi (think a bit)\n\nAssistant: <think" in fed
    (turn,) = chat.turns
    assert (turn.answer, turn.thinking) == ("Yes.", "Hm, let me see.")
    wanted = "User: Hi (think a bit)\n\nAssistant: <think" + THOUGHT
    assert same_state(chat.state, after(model, wanted))


def test_thinking_comes_out_when_asked_for(model: Model, script: Callable[..., None]) -> None:
    chat = model.chat()
    script(THOUGHT + STOPPED)
    assert "".join(chat.send("Hi", ThinkMode.THINK, show_thinking=True)) == THOUGHT
    assert (chat.turns[0].answer, chat.turns[0].thinking) == ("Yes.", "Hm, let me see.")


@pytest.mark.parametrize("think", [ThinkMode.FAKE, ThinkMode.FAKE_SHORT])
def test_a_faked_thought_is_no_part_of_the_answer(
    model: Model, script: Callable[..., None], think: ThinkMode
) -> None:
    chat = model.chat()
    script(">\nYes." + STOPPED)
    assert "".join(chat.send("Hi", think)) == "Yes."
    assert chat.turns[0].thinking == ""


def test_a_paragraph_inside_thinking_does_not_end_the_answer(
    model: Model, script: Callable[..., None]
) -> None:
    chat = model.chat()
    script(">\nOne.\n\nTwo, said the user.\n</think>\nYes.\n\nAnd no." + STOPPED)
    assert "".join(chat.send("Hi", ThinkMode.THINK)) == "Yes.\n\nAnd no."
    assert chat.turns[0].thinking == "One.\n\nTwo, said the user."


def test_a_saved_conversation_goes_on_as_it_would_have(
    model: Model, tmp_path: Path, f32_gguf: Path
) -> None:
    chat = model.chat("Be kind.", max_tokens=30, sampling=SamplingOptions(temperature=0))
    list(chat.send("One"))
    chat.save(tmp_path / "talk.state")
    saved = (tmp_path / "talk.state").read_bytes()
    wanted = "".join(chat.send("Two"))
    with Model.load(f32_gguf, threads=1) as again:
        other = again.chat(max_tokens=30, sampling=SamplingOptions(temperature=0))
        other.load(tmp_path / "talk.state")
        assert other.turns == ()
        assert not other.undo()
        assert "".join(other.send("Two")) == wanted
    assert (tmp_path / "talk.state").read_bytes() == saved


def test_saving_does_not_change_the_conversation(model: Model, tmp_path: Path) -> None:
    chat = model.chat(seed=3, max_tokens=10)
    list(chat.send("One"))
    kept, turns = chat.state.clone(), chat.turns
    chat.save(tmp_path / "a.state")
    chat.save(tmp_path / "b.state")
    assert same_logits(model, chat.state, kept)
    assert chat.turns == turns
    assert chat.undo()


def test_a_state_that_cannot_be_loaded_leaves_the_conversation_alone(
    model: Model, other_gguf: Path, tmp_path: Path
) -> None:
    chat = model.chat(seed=3, max_tokens=10)
    list(chat.send("One"))
    kept, turns = chat.state.clone(), chat.turns
    (tmp_path / "bad.state").write_bytes(b"nonsense")
    with Model.load(other_gguf, "reference") as other:
        other.new_state().save(tmp_path / "other.state")
    for name, error in (
        ("bad.state", FormatError),
        ("other.state", StateMismatchError),
        ("no.state", OSError),
    ):
        with pytest.raises(error):
            chat.load(tmp_path / name)
    assert chat.turns == turns
    assert same_logits(model, chat.state, kept)
    assert chat.undo()


def test_the_same_seed_gives_the_same_conversation(model: Model) -> None:
    def conversation(seed: int) -> list[str]:
        chat = model.chat(seed=seed, max_tokens=20)
        return ["".join(chat.send(text)) for text in ("Hi", "Hi", "Bye")]

    one = conversation(1)
    assert conversation(1) == one
    assert conversation(2) != one
    assert one[0] != one[1]


def test_another_template_may_be_given_and_must_exist(model: Model) -> None:
    assert Chat(model, template=WORLD).template is WORLD
    assert model.chat(template="world").template is WORLD
    with pytest.raises(InputError, match="chat template 'llama' does not exist; there are world"):
        model.chat(template="llama")


def test_a_template_with_other_words_is_fed_in_those(
    model: Model, fed: list[bytes], script: Callable[..., None]
) -> None:
    import dataclasses

    template = dataclasses.replace(
        WORLD, user_prefix="Q: ", assistant_prefix="A:", stops=("\n\nQ",)
    )
    chat = model.chat(template=template)
    script(" yes\n\nQ")
    assert "".join(chat.send("Well")) == "yes"
    assert b"Q: Well\n\nA:" in fed


def test_a_turn_on_a_closed_model_fails_and_is_no_turn(f32_gguf: Path) -> None:
    model = Model.load(f32_gguf, "reference")
    chat = model.chat(max_tokens=50)
    pieces = chat.send("Hi")
    next(pieces)
    model.close()
    with pytest.raises(RwkvEdgeError, match="is closed"):
        list(pieces)
    with pytest.raises(RwkvEdgeError, match="is closed"):
        list(chat.send("Still there?"))
    assert [turn.user for turn in chat.turns] == ["Hi"]


def test_only_the_beginning_of_a_conversation_is_encoded_as_one(
    words_model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Some tokenizers put a space before every text: it must not come into the middle of one."""
    tokenizer = type(words_model.tokenizer)
    calls: list[tuple[str, str]] = []
    encode = tokenizer.encode
    for name in ("encode", "encode_more"):

        def spy(self: Any, text: str, name: str = name) -> list[int]:
            calls.append((name, text))
            return encode(self, text)

        monkeypatch.setattr(tokenizer, name, spy)
    chat = words_model.chat("Be brief.", max_tokens=3, sampling=SamplingOptions(temperature=0))
    for text in ("One", "Two"):
        "".join(chat.send(text))
    chat.save(tmp_path / "a.state")
    chat.undo()
    "".join(chat.send("Three"))
    chat.undo()
    chat.undo()
    "".join(chat.send("Four"))
    prompts = [(name, text) for name, text in calls if "User: " in text or text == "\n\n"]
    assert [name for name, _ in prompts] == [
        "encode", "encode_more", "encode_more", "encode_more", "encode",
    ]  # fmt: skip
    assert prompts[0][1] == "System: Be brief.\n\nUser: One\n\nAssistant:"
    calls.clear()
    loaded = words_model.chat(max_tokens=3)
    loaded.load(tmp_path / "a.state")
    "".join(loaded.send("Five"))
    assert ("encode_more", "User: Five\n\nAssistant:") in calls


def test_a_prompt_after_a_state_is_text_that_goes_on(
    words_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = type(words_model.tokenizer)
    monkeypatch.setattr(tokenizer, "encode_more", lambda self, text: [70])
    _, state = words_model.forward([66])
    assert words_model.stream("whatever", state=state).n_prompt_tokens == 1
    assert words_model.stream("whatever").n_prompt_tokens == len("whatever")
