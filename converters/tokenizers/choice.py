"""Which tokenizer belongs to a checkpoint."""

from pathlib import Path

from rwkv_edge.converters.tokenizers.base import EmbeddedTokenizer
from rwkv_edge.converters.tokenizers.huggingface import EmbeddedHuggingFace
from rwkv_edge.converters.tokenizers.sentence_pieces import EmbeddedSentencePiece
from rwkv_edge.converters.tokenizers.vocabulary import EmbeddedVocabulary
from rwkv_edge.errors import FormatError, UnsupportedModelError
from rwkv_edge.tokenizers.byte_level import N_BYTES
from rwkv_edge.tokenizers.files import kind_of, load_tokenizer
from rwkv_edge.tokenizers.huggingface import NEOX_N_IDS, HuggingFaceTokenizer
from rwkv_edge.tokenizers.sentence_pieces import SentencePieceTokenizer
from rwkv_edge.tokenizers.vocabulary_file import (
    byte_vocabulary,
    read_vocabulary,
    world_vocabulary,
)

# Embeddings of World models are padded to this.
WORLD_N_VOCAB = 65536
# A file of this name beside `model.pth` holds its vocabulary: `model.vocab.txt`.
BESIDE_SUFFIX = ".vocab.txt"
NEOX_FILE = "20B_tokenizer.json"
# Names that tokenizers have beside checkpoints, whatever those are called.
BESIDE_NAMES = (NEOX_FILE, "tokenizer.json", "tokenizer.model")


def choose_tokenizer(source: Path, n_vocab: int, chosen: str | Path | None) -> EmbeddedTokenizer:
    """The tokenizer of a checkpoint: a file that the caller names or that is called as it is,
    else what the number of embeddings says, else a file of a usual name beside it.

    Raises FormatError, UnsupportedModelError, BackendUnavailableError.
    """
    beside, *usual = files_beside(source)
    if chosen is None and beside.is_file():
        chosen = beside
    if chosen is not None:
        return tokenizer_in(Path(chosen), source, n_vocab)
    if n_vocab == WORLD_N_VOCAB:
        return EmbeddedVocabulary(world_vocabulary())
    if n_vocab == N_BYTES:
        return EmbeddedVocabulary(byte_vocabulary())
    for path in usual:
        if path.is_file():
            return tokenizer_in(path, source, n_vocab)
    if n_vocab == NEOX_N_IDS:
        raise UnsupportedModelError(
            f"{source}: has {n_vocab} embeddings, as Pile and Raven models have, whose tokenizer "
            f"is not here; get {NEOX_FILE} of GPT-NeoX-20B and put it at "
            f"{source.with_name(NEOX_FILE)}, or name it to the conversion"
        )
    raise UnsupportedModelError(
        f"{source}: has {n_vocab} embeddings; vocabularies are known for {WORLD_N_VOCAB} (World), "
        f"{NEOX_N_IDS} (GPT-NeoX) and {N_BYTES} (bytes); name a tokenizer file, or put it at "
        f"{beside} or {source.with_name(BESIDE_NAMES[1])}"
    )


def files_beside(source: Path) -> list[Path]:
    """Where the tokenizer of a checkpoint may lie, whether it is there or not."""
    own = source.with_name(source.stem + BESIDE_SUFFIX)
    return [own, *(source.with_name(name) for name in BESIDE_NAMES)]


def tokenizer_in(path: Path, source: Path, n_vocab: int) -> EmbeddedTokenizer:
    """The tokenizer in a file, of whatever kind; raises as `choose_tokenizer` does."""
    if kind_of(path) == "world":
        vocabulary = read_vocabulary(path)
        if vocabulary.n_ids > n_vocab:
            raise FormatError(
                f"{path}: has ids up to {vocabulary.n_ids - 1}; {source} has embeddings for "
                f"{n_vocab} ids; it belongs to another model"
            )
        return EmbeddedVocabulary(vocabulary)
    tokenizer = load_tokenizer(path, n_vocab)
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return EmbeddedHuggingFace(tokenizer, str(path))
    assert isinstance(tokenizer, SentencePieceTokenizer)
    return EmbeddedSentencePiece(tokenizer, str(path))
