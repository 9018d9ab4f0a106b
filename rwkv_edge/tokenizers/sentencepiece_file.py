"""What a sentencepiece `.model` says beside its pieces: a protobuf message, read field by field.

Source: sentencepiece, `sentencepiece_model.proto`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from rwkv_edge.errors import FormatError, UnsupportedModelError
from rwkv_edge.tokenizers.charsmap import check_charsmap

# Llama's takes 16 bytes a piece; the table of a normalizer is 240 kB.
BYTES_PER_ID = 256
SPARE_BYTES = 1 << 21
MAX_VARINT_BYTES = 10
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
# Fields of ModelProto ...
PIECES, TRAINER, NORMALIZER, DENORMALIZER = 1, 2, 3, 5
# ... of TrainerSpec ...
MODEL_TYPE, SPACE_AS_SUFFIX = 3, 24
# ... and of NormalizerSpec.
CHARSMAP, ADD_DUMMY_PREFIX, REMOVE_EXTRA_SPACES = 2, 3, 4


class ModelType(IntEnum):
    """How a model cuts: TrainerSpec.ModelType."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


@dataclass(frozen=True)
class SentencePieceSettings:
    """model_type: how it cuts. charsmap: the compiled normalizer, b"" for none.

    adds_space: a space is put before every text. drops_spaces: those at the ends are taken away,
    and several become one.
    """

    model_type: ModelType
    charsmap: bytes
    adds_space: bool
    drops_spaces: bool


def read_settings(model: bytes, n_vocab: int) -> SentencePieceSettings:
    """The settings of a model file, whose layout and table are checked on the way.

    Raises FormatError, UnsupportedModelError; the messages do not name the file.
    """
    limit = SPARE_BYTES + BYTES_PER_ID * n_vocab
    if len(model) > limit:
        raise FormatError(
            f"its sentencepiece model holds {len(model):,} bytes; at most {limit:,} are read for a "
            f"model of {n_vocab:,} ids"
        )
    # Of a message that is there twice, the later one's fields count, as in any protobuf.
    parts: dict[int, dict[int, int | bytes]] = {TRAINER: {}, NORMALIZER: {}, DENORMALIZER: {}}
    n_pieces = 0
    for number, value in fields(model):
        if number == PIECES:
            n_pieces += 1
        elif number in parts:
            if not isinstance(value, bytes):
                raise damaged("a part of it is no message")
            parts[number] |= dict(fields(value))
    if not 0 < n_pieces <= n_vocab:
        raise FormatError(
            f"its sentencepiece model has {n_pieces:,} pieces; the model has embeddings for "
            f"{n_vocab:,} ids; it belongs to another model"
        )
    trainer, normalizer = parts[TRAINER], parts[NORMALIZER]
    if trainer.get(SPACE_AS_SUFFIX) or parts[DENORMALIZER].get(CHARSMAP):
        raise UnsupportedModelError(
            "its sentencepiece model puts spaces after words or changes decoded text, "
            "which is not known here"
        )
    charsmap = normalizer.get(CHARSMAP, b"")
    if not isinstance(charsmap, bytes):
        raise damaged("its normalizer's table is no bytes")
    check_charsmap(charsmap)
    try:
        model_type = ModelType(int(trainer.get(MODEL_TYPE, ModelType.UNIGRAM)))
    except ValueError:
        raise damaged("its type does not exist") from None
    return SentencePieceSettings(
        model_type=model_type,
        charsmap=charsmap,
        adds_space=bool(normalizer.get(ADD_DUMMY_PREFIX, True)),
        drops_spaces=bool(normalizer.get(REMOVE_EXTRA_SPACES, True)),
    )


def model_that_goes_on(model: bytes) -> bytes:
    """The same model, which leaves the spaces of a text as they are.

    A message that is there twice is merged: the later one's fields count.
    """
    settings = bytes([ADD_DUMMY_PREFIX << 3 | VARINT, 0, REMOVE_EXTRA_SPACES << 3 | VARINT, 0])
    return model + bytes([NORMALIZER << 3 | LENGTH, len(settings)]) + settings


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field; raises FormatError."""
    position = 0
    while position < len(message):
        tag, position = varint(message, position)
        kind = tag & 7
        if kind == VARINT:
            value, position = varint(message, position)
            yield tag >> 3, value
            continue
        if kind == LENGTH:
            n_bytes, position = varint(message, position)
        elif kind in (FIXED32, FIXED64):
            n_bytes = 4 if kind == FIXED32 else 8
        else:
            raise damaged(f"a field of kind {kind}")
        if n_bytes > len(message) - position:
            raise damaged("it is cut off")
        yield tag >> 3, message[position : position + n_bytes]
        position += n_bytes


def varint(message: bytes, position: int) -> tuple[int, int]:
    """A number of 7 bits a byte, lowest first, and where it ends."""
    value = 0
    for number, byte in enumerate(message[position : position + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, position + number + 1
    raise damaged("a number has no end")


def damaged(problem: str) -> FormatError:
    """The error for a model that is no sentencepiece model."""
    return FormatError(f"its sentencepiece model is damaged: {problem}")
