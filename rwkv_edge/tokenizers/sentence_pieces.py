"""Tokenizers out of a sentencepiece `.model`."""

from functools import cached_property
from typing import Any

from rwkv_edge.errors import BackendUnavailableError, FormatError, InputError, shown
from rwkv_edge.tokenizers.base import utf8
from rwkv_edge.tokenizers.pieces import PieceTokenizer
from rwkv_edge.tokenizers.sentencepiece_file import model_that_goes_on, read_settings

SPACE_MARK = "▁"
# Pieces named by a byte: <0x0A>.
BYTE_DIGITS = slice(3, 5)


class SentencePieceTokenizer(PieceTokenizer):
    """Unigram or BPE over characters, ▁ for a space, often with pieces for single bytes.

    model: the file as it is. A character without any piece becomes the unknown id, whose text is
    what the library shows for it. White space is what the file's normalizer leaves of it, and a
    ▁ in a text counts as a space.
    n_ids: one past the largest id.
    """

    def __init__(self, model: bytes, n_vocab: int) -> None:
        """A tokenizer for a model of n_vocab ids.

        Raises FormatError, UnsupportedModelError, BackendUnavailableError; the messages do not
        name the file.
        """
        library = import_sentencepiece()
        self.model = model
        self.settings = read_settings(model, n_vocab)
        self._library = library
        self.processor = loaded(library, model)
        self.n_ids = n_ids = int(self.processor.vocab_size())
        if n_ids > n_vocab:
            raise FormatError(
                f"its sentencepiece model has {n_ids:,} pieces; the model has embeddings for "
                f"{n_vocab:,} ids; it belongs to another model"
            )
        byte_ids: dict[int, int] = {}
        try:
            texts = [self._text(token, byte_ids) for token in range(n_ids)]
        except UnicodeDecodeError:
            raise FormatError("its sentencepiece model holds a piece that is no UTF-8") from None
        end = int(self.processor.eos_id())
        super().__init__(
            texts + [b""] * (n_vocab - n_ids),
            end_of_document=end if end >= 0 and self.processor.is_control(end) else None,
            byte_ids=byte_ids,
            drops_first_space=self.settings.adds_space,
            unknown=int(self.processor.unk_id()),
        )

    def _text(self, token: int, byte_ids: dict[int, int]) -> bytes:
        """The text of one id; that of a byte goes into byte_ids. Raises UnicodeDecodeError."""
        piece = self.piece(token)
        if self.processor.is_byte(token):
            byte = int(piece[BYTE_DIGITS], 16)
            byte_ids[byte] = token
            return bytes([byte])
        if self.processor.is_unknown(token):
            return str(self.processor.decode([token])).encode("utf-8")
        if self.processor.is_control(token):
            return b""
        return piece.replace(SPACE_MARK, " ").encode("utf-8")

    def encode_beginning(self, text: str | bytes) -> list[int]:
        """As `encode`, but the spaces at the text's end stay: more comes. Raises InputError."""
        if not self.settings.drops_spaces:
            return self.encode(text)
        added = b" " if self.settings.adds_space else b""
        return self.encode_more(added + utf8(text).lstrip(b" "))

    def piece(self, token: int) -> str:
        """What the file calls an id."""
        return str(self.processor.id_to_piece(token))

    @cached_property
    def _goes_on(self) -> Any:
        return loaded(self._library, model_that_goes_on(self.model))

    def _cut(self, text: str, begins: bool) -> list[int]:
        processor = self.processor if begins else self._goes_on
        try:
            ids: list[int] = processor.encode(text)
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"the sentencepiece package refuses this text: {shown(str(error))}"
            ) from None
        return ids


def import_sentencepiece() -> Any:
    """The sentencepiece package, or BackendUnavailableError."""
    try:
        import sentencepiece
    except ImportError as error:
        raise BackendUnavailableError(
            "a sentencepiece model needs the sentencepiece package; "
            f'pip install "rwkv-edge[spm]" ({error})'
        ) from None
    return sentencepiece


def loaded(library: Any, model: bytes) -> Any:
    """The library's processor of a model; raises FormatError."""
    processor = library.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    # Which one depends on the release.
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        raise FormatError(f"its sentencepiece model is refused: {shown(str(error))}") from None
    return processor
