"""`TRIE_TOKENIZER` with the official package's names, and which tokenizer a WORD_NAME means."""

from collections.abc import Iterable
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_edge.errors import InputError
from rwkv_edge.tokenizers.world import WorldTokenizer

if TYPE_CHECKING:
    from rwkv_edge.tokenizers.vocabulary_file import Vocabulary

__all__ = ["TRIE_TOKENIZER"]

WORLD_NAME = "rwkv_vocab_v20230424"
# What the official package gives for bytes that are no text, and for ids that it does not know.
NO_TEXT = "\ufffd"


class TRIE_TOKENIZER:
    """A vocabulary in the World format, by the official package's names.

    file_name: lines of id, Python literal and length. Raises FormatError.
    """

    def __init__(self, file_name: str | PathLike[str]) -> None:
        from rwkv_edge.tokenizers.vocabulary_file import read_vocabulary

        self._use(read_vocabulary(Path(file_name)))

    def _use(self, vocabulary: "Vocabulary") -> None:
        self.idx2token = dict(enumerate(vocabulary.tokens, vocabulary.first_id))
        self.token2idx = {token: i for i, token in self.idx2token.items()}
        self._tokenizer = WorldTokenizer([b""] * vocabulary.first_id + vocabulary.tokens)

    @classmethod
    def world(cls) -> "TRIE_TOKENIZER":
        """World's own vocabulary, out of whichever package carries it."""
        from rwkv_edge.tokenizers.vocabulary_file import world_vocabulary

        tokenizer = cls.__new__(cls)
        tokenizer._use(world_vocabulary())
        return tokenizer

    def encodeBytes(self, src: bytes) -> list[int]:  # noqa: N802
        """The ids of bytes: the longest entry at every position. Raises InputError."""
        return self._tokenizer.encode(src)

    def decodeBytes(self, tokens: Iterable[int]) -> bytes:  # noqa: N802
        """The bytes of the ids; raises KeyError for one that stands for none, such as 0."""
        return b"".join(self.idx2token[token] for token in tokens)

    def encode(self, src: str) -> list[int]:
        """The ids of a text. Raises InputError."""
        return self._tokenizer.encode(src)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of the ids; a single U+FFFD for all of it if any part of it is none."""
        try:
            return self.decodeBytes(tokens).decode("utf-8")
        except (UnicodeDecodeError, KeyError):
            return NO_TEXT

    def printTokens(self, tokens: Iterable[int]) -> None:  # noqa: N802
        """Print each token's text and id, for people to look at."""
        for token in tokens:
            raw = self.idx2token[token]
            try:
                shown: str | bytes = raw.decode("utf-8")
            except UnicodeDecodeError:
                shown = raw
            print(f"{shown!r}{token}", end=" ")
        print()


class FileTokenizer:
    """A `20B_tokenizer.json`, or a tokenizer file of another kind, by `encode` and `decode`.

    Unlike in the official package, no text becomes a control id. Raises FormatError,
    UnsupportedModelError, and BackendUnavailableError if a package is missing that reads it.
    """

    def __init__(self, file_name: str | PathLike[str]) -> None:
        from rwkv_edge.tokenizers import load_tokenizer as load_any

        self._tokenizer = load_any(fspath(file_name))

    def encode(self, src: str) -> list[int]:
        """The ids of a text."""
        return self._tokenizer.encode(src)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of the ids, with U+FFFD where it is none; ids without a text have none."""
        tokenizer = self._tokenizer
        return tokenizer.decode(token for token in tokens if 0 <= token < tokenizer.n_vocab)


def load_tokenizer(word_name: str | PathLike[str]) -> TRIE_TOKENIZER | FileTokenizer:
    """The tokenizer that PIPELINE's WORD_NAME means: World, or a file of any kind.

    Raises FormatError, UnsupportedModelError, BackendUnavailableError, InputError.
    """
    from rwkv_edge.tokenizers.files import kind_of

    name = fspath(word_name)
    if name == WORLD_NAME:
        return TRIE_TOKENIZER.world()
    if name == "cl100k_base":
        raise InputError("the tokenizer cl100k_base belongs to no RWKV model that can be run here")
    if not Path(name).exists():
        raise InputError(
            f'WORD_NAME {name!r} is neither "{WORLD_NAME}" nor a file with a vocabulary'
        )
    return TRIE_TOKENIZER(name) if kind_of(Path(name)) == "world" else FileTokenizer(name)
