"""Text out of a model, piece by piece."""

import codecs
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkv_edge.backend import Float32Array
from rwkv_edge.errors import InputError, RwkvEdgeError
from rwkv_edge.sampling import Sampler
from rwkv_edge.state import State
from rwkv_edge.stops import Rollback, StopMatcher

if TYPE_CHECKING:
    from rwkv_edge.model import Model, Tokens

# Why a text ended: max_tokens were made, a stop text came, or the end-of-document token.
LENGTH, STOP, END = "length", "stop", "end"


# The most bytes that a character can lack its end with.
MAX_UNFINISHED = 3


@dataclass
class _Recent:
    """A token whose text has not come out, and the state before it, if it may be taken back."""

    token: int
    text: bytes
    before: State | None = None


class Stream(Iterator[str]):
    """An iterator over the pieces of a text as it is made; never half a character.

    tokens: what was generated so far, without what a stop text took back. n_prompt_tokens: how
    many were read before. finish_reason: "length", "stop" or "end" (of the document), None until
    then. state: has seen the prompt and exactly the text that came out so far, whenever that is;
    stop texts, and the end-of-document token, it never keeps.
    """

    def __init__(
        self,
        model: "Model",
        prompt: "Tokens",
        state: State,
        sampler: Sampler,
        *,
        max_tokens: int,
        stop: Sequence[str | bytes] = (),
        logits: Float32Array | None = None,
    ) -> None:
        """Nothing runs until the first piece is asked for. Raises as `Model.stream` does."""
        if max_tokens < 1:
            raise InputError(f"max_tokens is {max_tokens}; it must be at least 1")
        n_vocab = model.hyperparameters.n_vocab
        if logits is not None and logits.shape != (n_vocab,):
            raise InputError(f"logits have shape {logits.shape}; this model's have ({n_vocab},)")
        self.state = model.check_state(state)
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self._model = model
        # None: the state has seen all there is, and these are the logits after it.
        self._prompt = model.check_tokens(prompt) if len(prompt) or logits is None else None
        self._logits = logits
        self.n_prompt_tokens = len(prompt)
        self._sampler = sampler
        self._max_tokens = max_tokens
        self._matcher = StopMatcher(stop)
        # The latest tokens: from the first on that reaches into a possible stop text, or into a
        # character whose end is to come. Their text comes out by whole tokens, so that the state
        # can be as it was then.
        self._recent: list[_Recent] = []
        # Text that is no stop text, but has not come out; and how many bytes may yet become one.
        self._waiting = b""
        self._n_held = 0
        self._pieces = self._generate()

    def __next__(self) -> str:
        """The next piece, at least one character."""
        return next(self._pieces)

    def close(self) -> None:
        """End early; `finish_reason` stays None."""
        self._pieces.close()

    def _generate(self) -> Generator[str, None, None]:
        try:
            yield from self._all_pieces()
        except GeneratorExit:
            raise
        except BaseException:
            # Ctrl-C, or a failure. A model that was closed has no states any more.
            with suppress(RwkvEdgeError):
                self._take_back(len(self._recent))
            raise

    def _all_pieces(self) -> Iterator[str]:
        tokenizer = self._model.tokenizer
        logits = self._first_logits()
        while len(self.tokens) < self._max_tokens:
            token = self._sampler.sample(logits)
            if token == tokenizer.end_of_document:
                self.finish_reason = END
                break
            self._sampler.accept(token)
            text = tokenizer.token_bytes(token)
            self.tokens.append(token)
            self._recent.append(_Recent(token, text))
            ready, stopped = self._matcher.push(text)
            self._waiting += ready
            if stopped:
                self.finish_reason = STOP
                self._roll_back(self._matcher.rollback)
                break
            self._n_held += len(text) - len(ready)
            self._forget_what_can_come_out()
            # A token without text never is the first to be taken back.
            if self._recent and text:
                self._recent[-1].before = self.state.clone()
            logits, _ = self._model.forward([token], self.state)
            yield from self._hand_out()
        else:
            self.finish_reason = LENGTH
        self._recent.clear()
        held = b"" if self.finish_reason == STOP else self._matcher.flush()
        last = (self._waiting + held).decode("utf-8", "replace")
        if last:
            yield last

    def _first_logits(self) -> Float32Array:
        if self._prompt is not None:
            return self._model.forward(self._prompt, self.state)[0]
        assert self._logits is not None
        return self._logits

    def _forget_what_can_come_out(self) -> None:
        """Drop the tokens that end before what is held back, and before unfinished characters."""
        n_bytes = self._n_held + n_unfinished(self._waiting)
        n_late = 0
        for n_dropped in range(len(self._recent), 0, -1):
            end = len(self._waiting) + self._n_held - n_late
            if n_late >= n_bytes and is_boundary(self._waiting, end):
                del self._recent[:n_dropped]
                return
            n_late += len(self._recent[n_dropped - 1].text)

    def _hand_out(self) -> Iterator[str]:
        """Give out the text before the recent tokens, with the state as it was before them."""
        n_late = sum(len(recent.text) for recent in self._recent) - self._n_held
        n_ready = len(self._waiting) - n_late
        piece = self._waiting[:n_ready].decode("utf-8", "replace")
        self._waiting = self._waiting[n_ready:]
        if not piece:
            return
        if not self._recent:
            yield piece
            return
        ahead = self.state.clone()
        tokens = [recent.token for recent in self._recent]
        self._take_back(len(tokens))
        yield piece
        self.state.assign(ahead)
        self.tokens += tokens

    def _take_back(self, n_tokens: int) -> None:
        """Take the latest tokens out of the state and of `tokens`."""
        if not n_tokens:
            return
        before = self._recent[-n_tokens].before
        # None: the present token is the only one, and was not read yet.
        if before is not None:
            self.state.assign(before)
        del self.tokens[len(self.tokens) - n_tokens :]

    def _roll_back(self, rollback: Rollback | None) -> None:
        """Take the stop text out: back to before its first token, then what that held before it."""
        assert rollback is not None
        self._take_back(rollback.n_tokens)
        self._recent.clear()
        if rollback.text_before:
            again = self._model.tokenizer.encode_more(rollback.text_before)
            self._model.forward(again, self.state)
            self.tokens += again


def n_unfinished(text: bytes) -> int:
    """How many bytes at the end are the beginning of a character whose end may be to come."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(text[-MAX_UNFINISHED:])
    pending, _ = decoder.getstate()
    return len(pending)


def is_boundary(text: bytes, position: int) -> bool:
    """True if no character lies across `position`: both parts are decoded as the whole would be."""
    is_continued = position < len(text) and text[position] & 0xC0 == 0x80
    return not (is_continued and n_unfinished(text[:position]))
