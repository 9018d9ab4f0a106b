"""Texts of any size into a state: in constant memory, and stopped or gone on with anywhere."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from rwkv_edge.backend import Float32Array, StateArrays
from rwkv_edge.errors import FormatError, RwkvEdgeError, StateMismatchError, shown
from rwkv_edge.state import POSITION_KEY, State, load_state_file
from rwkv_edge.tokenizers.base import utf8

if TYPE_CHECKING:
    from rwkv_edge.model import Model

# What is asked of a file at once.
PIECE_BYTES = 1 << 16
# No document is as long; what claims to be is damage.
MAX_COUNT = 1 << 62
SHA256 = re.compile("[0-9a-f]{64}")

# A Path is opened; a str is text.
Text = str | bytes | Path | BinaryIO | Iterable[str | bytes]


@dataclass(frozen=True)
class Position:
    """How far a document was read.

    sha256: of its first n_bytes bytes, which are n_tokens tokens. n_after: tokens that the state
    has seen since, a prompt or an answer: from there the document cannot be gone on with.
    """

    n_bytes: int = 0
    n_tokens: int = 0
    sha256: str = hashlib.sha256().hexdigest()
    n_after: int = 0

    def to_json(self) -> str:
        """As a state file's metadata hold it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Position":
        """What `to_json` wrote; raises FormatError for anything else, naming no file."""
        try:
            found = json.loads(text)
        # Deep nesting recurses.
        except (ValueError, RecursionError):
            found = None
        counts = ("n_bytes", "n_tokens", "n_after")
        if (
            not isinstance(found, dict)
            or set(found) != {field.name for field in fields(cls)}
            or not all(type(found[name]) is int and 0 <= found[name] < MAX_COUNT for name in counts)
            or not isinstance(found["sha256"], str)
            or not SHA256.fullmatch(found["sha256"])
        ):
            raise FormatError(f"its position in a document is damaged: {shown(text)}")
        return cls(**found)


class Reading(Iterator[Position]):
    """An iterator that reads a document section by section, and gives the position after each.

    It may be left at any time, by an exception such as Ctrl-C as well: `state` has then seen
    exactly the text up to `position`. logits: after its last token, (n_vocab,); None while nothing
    was read. begin: where this reading began; is_finished: whether the document's end was reached.
    A text that is still being written ends where its end is when it is reached.
    """

    def __init__(
        self,
        model: "Model",
        text: Text,
        state: State,
        begin: Position | None = None,
        *,
        begins: bool = True,
    ) -> None:
        """Use `Model.read` or `Model.resume`. Reads what was read before, to see that it is it.

        begins: the state has seen nothing but what of this document was read before.

        Raises StateMismatchError if it is not, or if the state belongs to another model; OSError.
        """
        self.state = model.check_state(state)
        self.begin = begin or Position()
        self.is_finished = False
        self._model = model
        self._is_broken = False
        # Read from the document, but not yet by the model.
        self._ahead = bytearray()
        self._sha256, rest = skip(pieces_of(text), self.begin)
        self._sections = model.tokenizer.encode_stream(
            self._remembering(rest), begins=begins and self.begin.n_bytes == 0
        )
        self._reached: tuple[Position, Float32Array | None] = (self.begin, None)

    @property
    def position(self) -> Position:
        """Up to where the state has seen the document."""
        return self._reached[0]

    @property
    def logits(self) -> Float32Array | None:
        """After the last token that this reading read."""
        return self._reached[1]

    def __next__(self) -> Position:
        """Read the next section, some hundred tokens.

        Raises InputError for bytes that the vocabulary cannot express, RwkvEdgeError for logits
        that are no numbers, OSError.
        """
        if self._is_broken:
            raise RwkvEdgeError("the reading was interrupted; save it, and resume it from there")
        # Until all is done: what was read from the file then is lost to this reading.
        self._is_broken = True
        section = next(self._sections, None)
        if section is None:
            self.is_finished, self._is_broken = True, False
            raise StopIteration
        sha256 = self._sha256.copy()
        sha256.update(self._ahead[: section.n_bytes])
        at = self.position
        at = Position(
            at.n_bytes + section.n_bytes, at.n_tokens + len(section.tokens), sha256.hexdigest()
        )
        before = self.state.clone()
        try:
            logits = self.logits
            if section.tokens:
                logits, _ = self._model.forward(section.tokens, self.state)
                if not np.isfinite(logits).all():
                    raise RwkvEdgeError(
                        f"{self._model.path}: its logits are no numbers after {at.n_tokens:,} "
                        "tokens; use another model or backend"
                    )
            # One step, so that nothing comes between: position and state agree at all times.
            self._reached = (at, logits)
        except BaseException:
            if self._reached[0] is not at:
                # A model that was closed has no states any more.
                with suppress(RwkvEdgeError):
                    self.state.assign(before)
            raise
        self._sha256 = sha256
        del self._ahead[: section.n_bytes]
        self._is_broken = False
        return at

    def finish(self) -> Position:
        """Read all that is left; gives the position at the end."""
        for _ in self:
            pass
        return self.position

    def save(self, path: str | Path) -> None:
        """Write the state with the position, for `Model.resume`. Raises OSError."""
        self.state.save(path, self.position)

    def _remembering(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The same pieces, kept until the model has read them."""
        for piece in pieces:
            self._ahead += piece
            yield piece


def pieces_of(text: Text) -> Iterator[bytes]:
    """The bytes of a text; those of a pipe as they come."""
    if isinstance(text, (str, bytes)):
        yield utf8(text)
    elif isinstance(text, Path):
        with open(text, "rb") as file:
            yield from pieces_of(file)
    elif hasattr(text, "read"):
        # `read` would wait until a pipe has given as much as was asked for.
        read = getattr(text, "read1", text.read)
        while piece := read(PIECE_BYTES):
            yield utf8(piece)
    else:
        yield from map(utf8, text)


def skip(pieces: Iterator[bytes], position: Position) -> tuple["hashlib._Hash", Iterator[bytes]]:
    """The SHA-256 so far and the pieces after a position.

    Raises StateMismatchError if what is before it is not what was read.
    """
    sha256 = hashlib.sha256()
    left = position.n_bytes
    rest = b""
    while left and (piece := next(pieces, None)) is not None:
        sha256.update(piece[:left])
        rest = piece[left:]
        left -= len(piece) - len(rest)
    if left:
        raise StateMismatchError(
            f"{position.n_bytes:,} bytes of a document were read, but this one has only "
            f"{position.n_bytes - left:,}; give the same document, or begin anew"
        )
    if sha256.hexdigest() != position.sha256:
        raise StateMismatchError(
            f"another document was read: this one's first {position.n_bytes:,} bytes are not "
            "those; give the same document, or begin anew"
        )
    return sha256, itertools.chain([rest] if rest else [], pieces)


def load_reading(path: str | Path, model: "Model") -> tuple[StateArrays, Position]:
    """A state file that belongs to `model`, and where in a document it was saved.

    Raises as `load_state_file` does, and StateMismatchError if no document can be gone on with.
    """
    arrays, metadata = load_state_file(path, model)
    stored = metadata.get(POSITION_KEY)
    if stored is None:
        raise StateMismatchError(
            f"{path}: the state was not saved while a document was read; load it as a state"
        )
    try:
        position = Position.from_json(stored)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    if position.n_after:
        raise StateMismatchError(
            f"{path}: the state has seen {position.n_after:,} other tokens after its document, "
            "which so cannot be gone on with; load it as a state"
        )
    return arrays, position
