"""Text out of a model, piece by piece."""

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from rwkv_edge.errors import InputError
from rwkv_edge.sampling import Sampler
from rwkv_edge.state import State
from rwkv_edge.stops import Rollback, StopMatcher
from rwkv_edge.tokenizers import StreamingDecoder

if TYPE_CHECKING:
    from rwkv_edge.model import Model, Tokens

# Why a text ended: max_tokens were made, a stop text came, or the end-of-document token.
LENGTH, STOP, END = "length", "stop", "end"


class Stream(Iterator[str]):
    """An iterator over the pieces of a text as it is made; never half a character.

    tokens: what was generated so far, without what a stop text took back. n_prompt_tokens: how
    many were read before. finish_reason: "length", "stop" or "end" (of the document), None until
    then. state: has seen the prompt and exactly the text that came out, stop texts and the
    end-of-document token excluded; leaving early keeps it so.
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
    ) -> None:
        """Nothing runs until the first piece is asked for. Raises as `Model.stream` does."""
        if max_tokens < 1:
            raise InputError(f"max_tokens is {max_tokens}; it must be at least 1")
        self.state = model.check_state(state)
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self._model = model
        self._prompt = model.check_tokens(prompt)
        self.n_prompt_tokens = int(self._prompt.size)
        self._sampler = sampler
        self._max_tokens = max_tokens
        self._matcher = StopMatcher(stop)
        self._decoder = StreamingDecoder()
        # The state as it was before each token that the matcher holds back.
        self._snapshots: list[State] = []
        self._pieces = self._generate()

    def __next__(self) -> str:
        """The next piece, at least one character."""
        return next(self._pieces)

    def close(self) -> None:
        """End early; `finish_reason` stays None."""
        self._pieces.close()

    def _generate(self) -> Generator[str, None, None]:
        tokenizer = self._model.tokenizer
        logits, _ = self._model.forward(self._prompt, self.state)
        while len(self.tokens) < self._max_tokens:
            token = self._sampler.sample(logits)
            if token == tokenizer.end_of_document:
                self.finish_reason = END
                break
            self._sampler.accept(token)
            self.tokens.append(token)
            ready, stopped = self._matcher.push(tokenizer.token_bytes(token))
            if stopped:
                self.finish_reason = STOP
                self._roll_back(self._matcher.rollback)
            else:
                self._keep_snapshots()
                logits, _ = self._model.forward([token], self.state)
            text = self._decoder.push(ready)
            if text:
                yield text
            if stopped:
                break
        else:
            self.finish_reason = LENGTH
        held = b"" if self.finish_reason == STOP else self._matcher.flush()
        text = self._decoder.push(held) + self._decoder.flush()
        if text:
            yield text

    def _keep_snapshots(self) -> None:
        """Remember the state before the present token, if a stop text may have begun in it."""
        n_held = self._matcher.n_held_tokens
        if n_held:
            self._snapshots.append(self.state.clone())
        self._snapshots = self._snapshots[len(self._snapshots) - n_held :]

    def _roll_back(self, rollback: Rollback | None) -> None:
        """Take the stop text out of the state: back to before its first token, then what that held.

        The present token, the last of those to take back, was not read yet.
        """
        assert rollback is not None
        n_read = rollback.n_tokens - 1
        if n_read:
            self.state.assign(self._snapshots[-n_read])
        del self.tokens[len(self.tokens) - rollback.n_tokens :]
        if rollback.text_before:
            again = self._model.tokenizer.encode(rollback.text_before)
            self._model.forward(again, self.state)
            self.tokens += again
