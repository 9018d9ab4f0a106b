"""The tokenizer of models over bytes."""

from collections.abc import Iterable, Iterator

from rwkv_edge.tokenizers.base import Tokenizer, utf8
from rwkv_edge.tokenizers.sections import SECTION_TOKENS, Section, blocks

N_BYTES = 256


class ByteTokenizer(Tokenizer):
    """Ids 0 to 255 are the bytes themselves; a model's further ids are padding without text."""

    end_of_document = None

    def __init__(self, n_vocab: int = N_BYTES) -> None:
        """A tokenizer for a model of `n_vocab` ids, 256 or more."""
        if n_vocab < N_BYTES:
            raise ValueError(f"{n_vocab} ids cannot stand for {N_BYTES} bytes")
        self.n_vocab = n_vocab

    def encode(self, text: str | bytes) -> list[int]:
        """The bytes of `text`."""
        return list(utf8(text))

    def encode_stream(self, pieces: Iterable[bytes], begins: bool = True) -> Iterator[Section]:
        """The bytes of the pieces."""
        del begins  # which makes no difference
        for block in blocks(pieces, SECTION_TOKENS):
            yield Section(list(block), len(block))

    def token_bytes(self, token: int) -> bytes:
        """The byte of one id. Raises InputError outside 0..n_vocab-1."""
        self.check_token(token)
        return bytes((token,)) if token < N_BYTES else b""
