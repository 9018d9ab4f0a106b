"""What every tokenizer does: text to token ids, and token ids back to bytes."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from rwkv_edge.errors import InputError
from rwkv_edge.tokenizers.sections import Section, split_text


def utf8(text: str | bytes) -> bytes:
    """The bytes that are tokenized: bytes as they are, a str as UTF-8.

    A lone surrogate (half an emoji out of broken JSON) becomes its three bytes, so that no str is
    refused; decoding gives U+FFFD for each of them.
    """
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)


class Tokenizer(ABC):
    """Texts as sequences of ids in 0..n_vocab-1.

    end_of_document: the id that ends a document, None where the vocabulary has none. It has no
    text: `encode` never gives it, whatever the text says.
    """

    n_vocab: int
    end_of_document: int | None

    @abstractmethod
    def encode(self, text: str | bytes) -> list[int]:
        """The ids of `text` (a str is taken as UTF-8), which `decode_bytes` turns back exactly.

        Tokenizers out of foreign files give back what their own rules make of the text, see
        `PieceTokenizer`. Raises InputError where the vocabulary cannot express a byte.
        """

    def encode_more(self, text: str | bytes) -> list[int]:
        """As `encode`, of a text that goes on where another one ended.

        They differ where a tokenizer begins every text with a space of its own. Raises InputError.
        """
        return self.encode(text)

    def encode_beginning(self, text: str | bytes) -> list[int]:
        """As `encode`, of a text that goes on with another one, for `encode_more`.

        They differ where a tokenizer drops the spaces at a text's end. Raises InputError.
        """
        return self.encode(text)

    def encode_stream(self, pieces: Iterable[bytes], begins: bool = True) -> Iterator[Section]:
        """The tokens of a text that comes in pieces, in sections, in constant memory.

        begins: nothing stands before the text. The tokens are those of `encode` of the whole as far
        as `split_text` says; World and bytes are exact. What follows a section has the same tokens
        and sections if it is read by itself, not as the beginning, and where pieces end makes no
        difference. Raises InputError as `encode` does.
        """
        encode = self.encode_beginning if begins else self.encode_more
        for text in split_text(pieces):
            yield Section(encode(text), len(text))
            encode = self.encode_more

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """The text of one id; b"" for control ids and padding.

        Raises InputError outside 0..n_vocab-1.
        """

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The texts of `tokens`, joined. Raises InputError for an id outside 0..n_vocab-1."""
        return b"".join(map(self.token_bytes, tokens))

    def decode(self, tokens: Iterable[int]) -> str:
        """As `decode_bytes`, read as UTF-8 with U+FFFD where it is not."""
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def check_token(self, token: int) -> None:
        """Raise InputError unless `token` is an id of this vocabulary."""
        if not 0 <= token < self.n_vocab:
            raise InputError(f"token {token} is outside the vocabulary, 0 to {self.n_vocab - 1}")
