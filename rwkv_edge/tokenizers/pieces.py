"""What tokenizers out of foreign files share: pieces of known text, cut by another library."""

import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence

from rwkv_edge.errors import InputError
from rwkv_edge.tokenizers.base import Tokenizer, utf8

# How "surrogateescape" shows bytes that are no UTF-8: U+DC80 to U+DCFF.
NO_UTF8 = re.compile("([\udc80-\udcff]+)")
REPLACEMENT = "\ufffd"


class PieceTokenizer(Tokenizer):
    """A tokenizer whose library cuts characters, not bytes; the text of every id is known.

    Where its file has a normalizer, `decode_bytes` gives the normalized text back: NFC for
    GPT-NeoX; often other white space for sentencepiece. Bytes that are no UTF-8 become the ids that
    stand for single bytes; without such an id, U+FFFD.

    Some files begin every text with a space that is not there, so that its first word is spelled
    as any other. `encode` does so, `decode_bytes` takes it away again; `token_bytes` gives every
    space, as is right for a text that goes on. Text that follows other text is for `encode_more`,
    which neither adds nor drops a space; joined, its ids can be others than those of the whole.
    """

    def __init__(
        self,
        texts: Sequence[bytes],
        *,
        end_of_document: int | None,
        byte_ids: Mapping[int, int],
        drops_first_space: bool,
        unknown: int | None = None,
    ) -> None:
        """texts: of every id. byte_ids: the id of a byte, for those that have one.

        unknown: the id whose text is no piece of a text; its spaces are never dropped.
        """
        self.texts = texts
        self.n_vocab = len(texts)
        self.end_of_document = end_of_document
        self.byte_ids = byte_ids
        self._drops_first_space = drops_first_space
        self._unknown = unknown

    @abstractmethod
    def _cut(self, text: str, begins: bool) -> list[int]:
        """The ids of some whole characters; begins: nothing stands before them."""

    def encode(self, text: str | bytes) -> list[int]:
        """The ids that the file itself gives; never a control id, whatever the text says.

        Raises InputError where the vocabulary cannot express a character.
        """
        return self._encode(utf8(text), True)

    def encode_more(self, text: str | bytes) -> list[int]:
        """The ids of a text that goes on: no space is added before it or dropped around it."""
        return self._encode(utf8(text), False)

    def _encode(self, text: bytes, begins: bool) -> list[int]:
        tokens: list[int] = []
        parts = NO_UTF8.split(text.decode("utf-8", "surrogateescape"))
        for number, part in enumerate(parts):
            if number % 2:
                for byte in part.encode("utf-8", "surrogateescape"):
                    token = self.byte_ids.get(byte)
                    tokens += self._cut(REPLACEMENT, False) if token is None else [token]
            elif part:
                tokens += self._cut(part, begins and number == 0)
        return tokens

    def drop_padding(self, n_ids: int) -> None:
        """Have no ids from n_ids on, none of which has a text."""
        self.texts = self.texts[:n_ids]
        self.n_vocab = n_ids

    def token_bytes(self, token: int) -> bytes:
        """The text of one id, b"" if it has none. Raises InputError outside 0..n_vocab-1."""
        self.check_token(token)
        return self.texts[token]

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The text that `tokens` are from its beginning on. Raises InputError."""
        given = list(tokens)
        text = super().decode_bytes(given)
        first = next((token for token in given if self.texts[token]), None)
        if self._drops_first_space and first != self._unknown:
            return text.removeprefix(b" ")
        return text


def inexpressible(character: str) -> InputError:
    """The error for what a vocabulary has no id for."""
    return InputError(f"the vocabulary has no id for {character!r}; this model cannot read it")
