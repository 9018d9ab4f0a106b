"""A long text in bounded sections, each of which can be tokenized by itself."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# Where a tokenizer may cut after any token: so few that reading stops soon when it is told to, so
# many that a model reads them as fast as any.
SECTION_TOKENS = 256
# What is looked at at once.
BLOCK_BYTES = 1 << 14
# A section ends at the first good place after so many bytes, and has no more than so many.
SHORTEST_BYTES = 1 << 10
LONGEST_BYTES = 1 << 14
MAX_CHARACTER_BYTES = 4

# A line end between two characters, neither of which is white space: not in ASCII, and not
# U+0085, U+00A0, U+1680, U+2000 to U+200A, U+2028, U+2029, U+202F, U+205F or U+3000 either.
LONE_LINE_END = re.compile(
    rb"(?<![\x00-\x20])(?<!\xc2[\x85\xa0])(?<!\xe1\x9a\x80)(?<!\xe2\x80[\x80-\x8a\xa8\xa9\xaf])"
    rb"(?<!\xe2\x81\x9f)(?<!\xe3\x80\x80)\n"
    rb"(?!\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80)"
    rb"(?:[\x21-\x7f]|[\xc2-\xdf].|[\xe0-\xef]..|[\xf0-\xf4]...)",
    re.DOTALL,
)


class Section(NamedTuple):
    """A part of a text: its tokens, and how many bytes of the text they stand for."""

    tokens: list[int]
    n_bytes: int


def blocks(pieces: Iterable[bytes], n_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """The same text in blocks of n_bytes and a shorter one, wherever the pieces end."""
    pending: list[bytes] = []
    n_pending = 0
    for piece in pieces:
        start = 0
        while len(piece) - start >= n_bytes - n_pending:
            end = start + n_bytes - n_pending
            yield b"".join([*pending, piece[start:end]])
            pending, n_pending, start = [], 0, end
        if start < len(piece):
            pending.append(piece[start:])
            n_pending += len(piece) - start
    if pending:
        yield b"".join(pending)


def split_text(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The text, cut where tokenizers that first split it at white space cut it themselves.

    That is after a single line end between two other characters: the patterns of GPT-2 and its
    successors reach across none, whereas several line ends, or one with an indent, may be one
    token. A text without such places is cut at any line end, else at a space, else between
    characters, where tokens may differ from those of the whole. Where a section ends depends only
    on the text from its start on, not on the pieces.
    """
    pending = b""
    for block in blocks(pieces):
        pending += block
        while len(pending) > LONGEST_BYTES:
            end = section_end(pending)
            yield pending[:end]
            pending = pending[end:]
    while pending:
        end = section_end(pending)
        yield pending[:end]
        pending = pending[end:]


def section_end(text: bytes) -> int:
    """Where the first section of a text ends."""
    found = LONE_LINE_END.search(text, SHORTEST_BYTES, LONGEST_BYTES)
    if found is not None:
        return found.start() + 1
    if len(text) <= LONGEST_BYTES:
        return len(text)
    line_end = text.rfind(b"\n", SHORTEST_BYTES, LONGEST_BYTES)
    if line_end >= 0:
        return line_end + 1
    # A space belongs to the word after it.
    space = text.rfind(b" ", SHORTEST_BYTES, LONGEST_BYTES)
    if space >= 0:
        return space
    end = LONGEST_BYTES
    while end > LONGEST_BYTES - MAX_CHARACTER_BYTES and text[end] & 0xC0 == 0x80:
        end -= 1
    return end
