"""RWKV's own tokenizer: at every position the longest entry of the vocabulary that matches."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from rwkv_edge.errors import InputError
from rwkv_edge.tokenizers.base import Tokenizer, utf8
from rwkv_edge.tokenizers.sections import SECTION_TOKENS, Section, blocks

if TYPE_CHECKING:
    from rwkv_edge.runtime.kernels.longest_match import Trie

# Below this a text is encoded before compiled kernels could be loaded.
SHORT_TEXT_BYTES = 2048


class WorldTokenizer(Tokenizer):
    """Greedy longest match over bytes, for the World vocabulary and any other.

    vocabulary: text of every id; b"" for an id without text. Of two ids with one text the last
    is given. Id 0 ends a document if it has no text, as in World.
    Source: `TRIE_TOKENIZER` of the official `rwkv` package.
    """

    def __init__(self, vocabulary: Sequence[bytes]) -> None:
        """Keeps the vocabulary; what encoding needs is built by the first text."""
        self.vocabulary = vocabulary
        self.n_vocab = len(vocabulary)
        self.end_of_document = 0 if self.n_vocab and not vocabulary[0] else None

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        ids = {text: token for token, text in enumerate(self.vocabulary)}
        ids.pop(b"", None)
        return ids

    @cached_property
    def _lengths(self) -> list[list[int]]:
        """By first byte: the lengths of the entries that begin with it, longest first."""
        lengths: list[list[int]] = [[] for _ in range(256)]
        for first, length in sorted({(text[0], -len(text)) for text in self._ids}):
            lengths[first].append(-length)
        return lengths

    @cached_property
    def _longest(self) -> int:
        """Bytes of the longest entry."""
        return max(map(len, self.vocabulary), default=0)

    @cached_property
    def _trie(self) -> "Trie":
        from rwkv_edge.runtime.kernels.longest_match import Trie

        return Trie(self.vocabulary)

    def encode(self, text: str | bytes) -> list[int]:
        """The longest entry at every position; long texts by a compiled kernel.

        Raises InputError at a byte that no entry begins with (World has all 256).
        """
        encoded = utf8(text)
        tokens, end = self._match(encoded)
        if end < len(encoded):
            raise no_match(encoded[end], end)
        return tokens

    def encode_plainly(self, text: bytes) -> list[int]:
        """The definition of `encode`, in plain Python."""
        tokens, end = self._match_plainly(text)
        if end < len(text):
            raise no_match(text[end], end)
        return tokens

    def encode_stream(self, pieces: Iterable[bytes], begins: bool = True) -> Iterator[Section]:
        """Exactly the tokens of `encode` of the whole.

        A token depends only on the bytes from its own first one on, and on no more of them than
        the longest entry has. So all tokens that begin so far before the end of what is there are
        right; the rest is looked at again when more is there. What stood before does not matter.
        """
        del begins
        tokens: list[int] = []
        pending = b""
        n_done = 0
        for block in blocks(pieces):
            pending += block
            found, end = self._match(pending)
            last_sure = len(pending) - self._longest
            if end <= last_sure:
                raise no_match(pending[end], n_done + end)
            while found and end - len(self.vocabulary[found[-1]]) > last_sure:
                end -= len(self.vocabulary[found.pop()])
            tokens += found
            pending = pending[end:]
            n_done += end
            n_whole = len(tokens) // SECTION_TOKENS * SECTION_TOKENS
            yield from self._sections(tokens[:n_whole])
            del tokens[:n_whole]
        found, end = self._match(pending)
        if end < len(pending):
            raise no_match(pending[end], n_done + end)
        yield from self._sections(tokens + found)

    def _sections(self, tokens: list[int]) -> Iterator[Section]:
        for start in range(0, len(tokens), SECTION_TOKENS):
            part = tokens[start : start + SECTION_TOKENS]
            yield Section(part, sum(len(self.vocabulary[token]) for token in part))

    def _match(self, text: bytes) -> tuple[list[int], int]:
        """The tokens of `text` and where they end: at its end unless nothing matches there."""
        return self._match_plainly(text) if len(text) < SHORT_TEXT_BYTES else self._trie.match(text)

    def _match_plainly(self, text: bytes) -> tuple[list[int], int]:
        ids, lengths = self._ids, self._lengths
        tokens = []
        position = 0
        while position < len(text):
            for length in lengths[text[position]]:
                # The end of the text may leave less than `length` bytes of it.
                entry = text[position : position + length]
                if entry in ids:
                    tokens.append(ids[entry])
                    position += len(entry)
                    break
            else:
                break
        return tokens, position

    def token_bytes(self, token: int) -> bytes:
        """The text of one id, b"" if it has none. Raises InputError outside 0..n_vocab-1."""
        self.check_token(token)
        return self.vocabulary[token]


def no_match(byte: int, position: int) -> InputError:
    """The error for a byte that no entry begins with."""
    return InputError(
        f"no entry of the vocabulary begins the text at byte {position:,}"
        f" (0x{byte:02x}); this model cannot read it"
    )
