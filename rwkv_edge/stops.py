"""Stop texts, matched on the bytes of a stream of tokens.

On bytes, because a stop text lies across tokens as it likes: 34 tokens of World contain a blank
line, and one that ends a sentence may hold the first byte of the stop text as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rwkv_edge.errors import InputError


@dataclass(frozen=True)
class Rollback:
    """What brings a model's state back to just before the stop text.

    n_tokens: how many of the tokens pushed last hold a byte of the stop text or come after it.
    text_before: what the first of them holds before it; to be read again, as tokens of its own.
    """

    n_tokens: int
    text_before: bytes


class StopMatcher:
    """Finds where a text ends: before the stop text that is complete first.

    Of stop texts that end at one byte, the longest counts. Where tokens begin makes no difference.
    """

    def __init__(self, stops: str | bytes | Sequence[str | bytes]) -> None:
        """Stop texts, a str in UTF-8; none at all lets everything pass.

        Raises InputError for an empty one.
        """
        several = [stops] if isinstance(stops, (str, bytes)) else stops
        self._stops = [
            stop.encode("utf-8", "surrogatepass") if isinstance(stop, str) else bytes(stop)
            for stop in several
        ]
        if not all(self._stops):
            raise InputError("a stop text is empty; it would end every text before it begins")
        self._longest = max(map(len, self._stops), default=0)
        # The latest tokens, whole, as many as reach into the bytes that are held back.
        self._tokens: list[bytes] = []
        self._n_held = 0
        self.rollback: Rollback | None = None

    @property
    def stopped(self) -> bool:
        """Whether a stop text was found; `rollback` says how far to go back."""
        return self.rollback is not None

    @property
    def n_held_tokens(self) -> int:
        """How many of the latest tokens reach into what is held back."""
        return len(self._tokens)

    def push(self, token_bytes: bytes) -> tuple[bytes, bool]:
        """Take the bytes of one token; gives what is certain to belong to the text, and `stopped`.

        Bytes that may begin a stop text are held back. Once stopped, nothing more comes.
        """
        if self.stopped:
            return b"", True
        self._tokens.append(token_bytes)
        recent = b"".join(self._tokens)
        text = recent[len(recent) - self._n_held - len(token_bytes) :]
        start = self._find(text)
        if start is not None:
            self._keep_tokens(len(text) - start)
            recent = b"".join(self._tokens)
            before = recent[: len(recent) - (len(text) - start)]
            self.rollback = Rollback(len(self._tokens), before)
            return text[:start], True
        self._n_held = self._possible_beginning(text)
        self._keep_tokens(self._n_held)
        return text[: len(text) - self._n_held], False

    def flush(self) -> bytes:
        """What is held back when the text ends without a stop text. The matcher starts anew."""
        recent = b"".join(self._tokens)
        held = b"" if self.stopped else recent[len(recent) - self._n_held :]
        self._tokens, self._n_held, self.rollback = [], 0, None
        return held

    def _find(self, text: bytes) -> int | None:
        """Where the stop text begins that ends first, if one is complete."""
        places = [(text.find(stop), len(stop)) for stop in self._stops]
        found = [(start + length, start) for start, length in places if start >= 0]
        return min(found)[1] if found else None

    def _possible_beginning(self, text: bytes) -> int:
        """How many bytes at the end of `text` may become a stop text."""
        for n_bytes in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[len(text) - n_bytes :]
            if any(stop.startswith(end) for stop in self._stops):
                return n_bytes
        return 0

    def _keep_tokens(self, n_bytes: int) -> None:
        """Forget the tokens that end before the last `n_bytes`."""
        n_tokens = 0
        while n_bytes > 0:
            n_tokens += 1
            n_bytes -= len(self._tokens[-n_tokens])
        del self._tokens[: len(self._tokens) - n_tokens]
