"""Conversations: turns in a template, answers as they come, undo and branches by cloned states."""

import weakref
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_edge.chat_template_file import TEMPLATE_SUFFIX, read_chat_template
from rwkv_edge.chat_templates import (
    CHAT_TEMPLATES,
    AnswerSplitter,
    ChatTemplate,
    ThinkLength,
    ThinkMode,
)
from rwkv_edge.errors import InputError
from rwkv_edge.generation import Stream
from rwkv_edge.sampling import SamplingOptions
from rwkv_edge.state import State

if TYPE_CHECKING:
    from rwkv_edge.model import Model

# How many turns can be taken back. Each costs one state (13 MB for a 1.5B model), so the memory of
# a long conversation stays constant.
UNDO_DEPTH = 4


@dataclass(frozen=True)
class Turn:
    """What the user said and what came back; finish_reason as of `Stream`, None if left early."""

    user: str
    answer: str
    thinking: str
    finish_reason: str | None


@dataclass(frozen=True)
class _Moment:
    """All that a turn changes."""

    state: State
    unread: str
    turns: tuple[Turn, ...]
    # Whether nothing was read yet.
    is_first: bool = False


class Chat:
    """One conversation with a model. `turns` is what was said; not shared between threads."""

    def __init__(
        self,
        model: "Model",
        system: str | None = None,
        *,
        template: str | Path | ChatTemplate | None = None,
        sampling: SamplingOptions | None = None,
        seed: int | None = None,
        max_tokens: int = 2000,
    ) -> None:
        """system: what precedes the conversation. template: a name, a JSON file, or None for the
        one that the model's file names. max_tokens: of one answer. Raises InputError, FormatError.
        """
        self.model = model
        self.template = find_template(model.chat_template if template is None else template)
        self.sampling = sampling or SamplingOptions()
        self.seed = seed
        self.max_tokens = max_tokens
        self._system = self.template.system(system)
        # `unread` is text that belongs to the conversation and is fed with the next turn.
        self._now = _Moment(model.new_state(), self._system, (), is_first=True)
        self._before: deque[_Moment] = deque(maxlen=UNDO_DEPTH)
        # Weak, so that an answer whose iterator is dropped has ended then.
        self._answering: weakref.ref[Generator[str, None, None]] | None = None

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns so far."""
        return self._now.turns

    @property
    def state(self) -> State:
        """What the model remembers: everything up to the end of the last answer."""
        return self._now.state

    def send(
        self,
        text: str,
        think: ThinkMode = ThinkMode.NONE,
        length: ThinkLength = ThinkLength.UNSAID,
        *,
        show_thinking: bool = False,
    ) -> Generator[str, None, None]:
        """Say something; gives the pieces of the answer as they come.

        The turn counts from the first piece on, also if the iteration is left early: then the
        answer is what came until then, and has ended at the next call of a method here, at the
        latest. Thinking is kept in `turns`, and comes out only with show_thinking. Raises
        InputError at once for an empty text.
        """
        if not self.template.clean(text):
            raise InputError("there is nothing to say; write something first")
        self._end_answer()
        answer = self._answer(text, think, length, show_thinking)
        self._answering = weakref.ref(answer)
        return answer

    def _answer(
        self, text: str, think: ThinkMode, length: ThinkLength, show_thinking: bool
    ) -> Generator[str, None, None]:
        now = self._now
        prompt = now.unread + self.template.turn(text, think, length)
        # Another seed for every turn, so that the same question is not answered the same way.
        seed = None if self.seed is None else self.seed + len(now.turns)
        stream = self.model.stream(
            self._encode(prompt),
            max_tokens=self.max_tokens,
            sampling=self.sampling,
            seed=seed,
            stop=self.template.stops,
            state=now.state,
        )
        before = replace(now, state=now.state.clone())
        splitter = AnswerSplitter(think)
        thinking: list[str] = []
        answer: list[str] = []
        try:
            for piece in stream:
                thought, shown = splitter.push(piece)
                thinking.append(thought)
                answer.append(shown)
                visible = piece if show_thinking else shown
                if visible:
                    yield visible
            thought, shown = splitter.flush()
            thinking.append(thought)
            answer.append(shown)
            if shown and not show_thinking:
                yield shown
        finally:
            stream.close()
            if stream.tokens or stream.finish_reason:
                self._before.append(before)
                self._finish(stream, text, "".join(thinking), "".join(answer))
            else:
                # Ctrl-C while the question was read, or a failure: it was not said.
                self._now = before

    def _encode(self, text: str) -> list[int]:
        """The tokens of what is read next."""
        tokenizer = self.model.tokenizer
        return tokenizer.encode(text) if self._now.is_first else tokenizer.encode_more(text)

    def _finish(self, stream: Stream, text: str, thinking: str, answer: str) -> None:
        turn = Turn(text, answer, thinking, stream.finish_reason)
        self._now = _Moment(stream.state, self.template.separator, (*self._now.turns, turn))

    def _end_answer(self) -> None:
        """End an answer that was left early, but whose iterator is still held."""
        answer = self._answering() if self._answering is not None else None
        if answer is not None:
            answer.close()

    def undo(self) -> bool:
        """Take the last turn back, as if it had not been; False if there is none to take back.

        The last four turns can be taken back.
        """
        self._end_answer()
        if not self._before:
            return False
        self._now = self._before.pop()
        return True

    def branch(self) -> "Chat":
        """A conversation that goes on from here on its own; what came before cannot be undone."""
        self._end_answer()
        other = Chat(
            self.model,
            template=self.template,
            sampling=self.sampling,
            seed=self.seed,
            max_tokens=self.max_tokens,
        )
        other._system = self._system
        other._now = replace(self._now, state=self._now.state.clone())
        return other

    def reset(self) -> None:
        """Start over after the system text."""
        self._end_answer()
        self._now = _Moment(self.model.new_state(), self._system, (), is_first=True)
        self._before.clear()

    def save(self, path: str | Path) -> None:
        """Write the state as of the end of the last turn; `turns` are not kept. Raises OSError."""
        self._end_answer()
        state = self._now.state.clone()
        if self._now.unread:
            self.model.forward(self._encode(self._now.unread), state)
        state.save(path)

    def load(self, path: str | Path) -> None:
        """Go on from a saved state. Raises FormatError, StateMismatchError, OSError."""
        self._end_answer()
        self._now = _Moment(self.model.load_state(path), "", ())
        self._before.clear()


def find_template(template: str | Path | ChatTemplate) -> ChatTemplate:
    """A template by its name, or out of a file that is called *.json.

    Raises InputError for one that does not exist, FormatError for a file that is none.
    """
    if isinstance(template, ChatTemplate):
        return template
    if isinstance(template, str) and template in CHAT_TEMPLATES:
        return CHAT_TEMPLATES[template]
    path = Path(template)
    if path.suffix.lower() == TEMPLATE_SUFFIX:
        return read_chat_template(path)
    known = ", ".join(CHAT_TEMPLATES)
    raise InputError(
        f"chat template {str(template)!r} does not exist; there are {known}, and files that are "
        f"called *{TEMPLATE_SUFFIX}"
    )
