"""`TRIE_TOKENIZER` with the official package's names, and which tokenizer a WORD_NAME means."""

from collections.abc import Iterable
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_edge.errors import InputError, RwkvEdgeError, UnsupportedModelError
from rwkv_edge.tokenizers.world import WorldTokenizer

if TYPE_CHECKING:
    from rwkv_edge.converters.vocabulary import Vocabulary

__all__ = ["TRIE_TOKENIZER"]

WORLD_NAME = "rwkv_vocab_v20230424"
# What the official package gives for bytes that are no text, and for ids that it does not know.
NO_TEXT = "\ufffd"


class TRIE_TOKENIZER:
    """A vocabulary in the World format, by the official package's names.

    file_name: lines of id, Python literal and length. Raises FormatError.
    """

    def __init__(self, file_name: str | PathLike[str]) -> None:
        from rwkv_edge.converters.vocabulary import read_vocabulary

        self._use(read_vocabulary(Path(file_name)))

    def _use(self, vocabulary: "Vocabulary") -> None:
        self.idx2token = dict(enumerate(vocabulary.tokens, vocabulary.first_id))
        self.token2idx = {token: i for i, token in self.idx2token.items()}
        self._tokenizer = WorldTokenizer([b""] * vocabulary.first_id + vocabulary.tokens)

    @classmethod
    def world(cls) -> "TRIE_TOKENIZER":
        """World's own vocabulary, out of whichever package carries it."""
        from rwkv_edge.converters.vocabulary import world_vocabulary

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


def load_tokenizer(word_name: str | PathLike[str]) -> TRIE_TOKENIZER:
    """The tokenizer that PIPELINE's WORD_NAME means: World, or a file.

    Raises FormatError, UnsupportedModelError, InputError.
    """
    name = fspath(word_name)
    if name == WORLD_NAME:
        return TRIE_TOKENIZER.world()
    if name == "cl100k_base":
        raise InputError("the tokenizer cl100k_base belongs to no RWKV model that can be run here")
    if name.endswith(".json"):
        raise UnsupportedModelError(
            f"{name}: this release reads no tokenizer.json; name a vocabulary in the World format, "
            f'or "{WORLD_NAME}"'
        )
    try:
        return TRIE_TOKENIZER(name)
    except RwkvEdgeError as error:
        if Path(name).exists():
            raise
        raise InputError(
            f'WORD_NAME {name!r} is neither "{WORLD_NAME}" nor a file with a vocabulary'
        ) from error
