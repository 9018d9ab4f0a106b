"""RWKV's own tokenizer: at every position the longest entry of the vocabulary that matches."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from rwkv_edge.errors import InputError
from rwkv_edge.tokenizers.base import Tokenizer, utf8

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
    def _trie(self) -> "Trie":
        from rwkv_edge.runtime.kernels.longest_match import Trie

        return Trie(self.vocabulary)

    def encode(self, text: str | bytes) -> list[int]:
        """The longest entry at every position; long texts by a compiled kernel.

        Raises InputError at a byte that no entry begins with (World has all 256).
        """
        encoded = utf8(text)
        if len(encoded) < SHORT_TEXT_BYTES:
            return self.encode_plainly(encoded)
        tokens, end = self._trie.match(encoded)
        if end < len(encoded):
            raise self._no_match(encoded, end)
        return tokens

    def encode_plainly(self, text: bytes) -> list[int]:
        """The definition of `encode`, in plain Python."""
        ids, lengths = self._ids, self._lengths
        tokens = []
        position = 0
        while position < len(text):
            for length in lengths[text[position]]:
                token = ids.get(text[position : position + length])
                if token is not None:
                    tokens.append(token)
                    position += length
                    break
            else:
                raise self._no_match(text, position)
        return tokens

    @staticmethod
    def _no_match(text: bytes, position: int) -> InputError:
        return InputError(
            f"no entry of the vocabulary begins the text at byte {position:,}"
            f" (0x{text[position]:02x}); this model cannot read it"
        )

    def token_bytes(self, token: int) -> bytes:
        """The text of one id, b"" if it has none. Raises InputError outside 0..n_vocab-1."""
        self.check_token(token)
        return self.vocabulary[token]
