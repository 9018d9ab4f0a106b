"""Tokenizer files of every kind, told apart by what is in them."""

import re
from pathlib import Path

from rwkv_edge.errors import (
    BackendUnavailableError,
    FormatError,
    RwkvEdgeError,
    UnsupportedModelError,
)
from rwkv_edge.gguf_reader import require_no_pipe
from rwkv_edge.tokenizers.base import Tokenizer
from rwkv_edge.tokenizers.huggingface import HuggingFaceTokenizer
from rwkv_edge.tokenizers.sentence_pieces import SentencePieceTokenizer
from rwkv_edge.tokenizers.vocabulary_file import MAX_VOCABULARY_BYTES, read_vocabulary

# No known tokenizer has more than 262,144.
MAX_IDS = 1 << 20
# What tells the kinds apart lies in the first bytes.
HEAD_BYTES = 256
WORLD_LINE = re.compile(rb"\s*\d+ b?['\"]")
# A protobuf message whose first field is a piece, whose first field is a text.
SENTENCEPIECE_START = re.compile(
    rb"\n[\x04-\x7f][\n\x15\x18]|\n[\x80-\xff][\x00-\x7f]\n", re.DOTALL
)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def kind_of(path: Path) -> str:
    """ "world", "huggingface" or "sentencepiece", by the first bytes of a file.

    Raises FormatError for anything else.
    """
    require_no_pipe(path)
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    if WORLD_LINE.match(head):
        return "world"
    if head.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"{"):
        return "huggingface"
    if SENTENCEPIECE_START.match(head):
        return "sentencepiece"
    raise FormatError(
        f"{path}: is no tokenizer; wanted a vocabulary in the World format (lines such as "
        "1 'a' 1), a Hugging Face tokenizer.json, or a sentencepiece .model"
    )


def load_tokenizer(path: str | Path, n_vocab: int | None = None) -> Tokenizer:
    """The tokenizer in a file, for a model of `n_vocab` ids; None for as many as the file has.

    A vocabulary in the World format, a Hugging Face `tokenizer.json` or a sentencepiece `.model`;
    the name does not matter. Ids past those of the file have no text.
    Raises FormatError, UnsupportedModelError, and BackendUnavailableError if the package that
    reads it is not installed.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "world":
        vocabulary = read_vocabulary(path)
        return vocabulary.tokenizer(vocabulary.n_ids if n_vocab is None else n_vocab)
    n_most = MAX_IDS if n_vocab is None else n_vocab
    tokenizer: HuggingFaceTokenizer | SentencePieceTokenizer
    try:
        if kind == "huggingface":
            tokenizer = HuggingFaceTokenizer(text_of(path), n_most)
        else:
            tokenizer = SentencePieceTokenizer(content_of(path), n_most)
    except (FormatError, UnsupportedModelError, BackendUnavailableError) as error:
        raise named(error, path) from None
    if n_vocab is None:
        tokenizer.drop_padding(tokenizer.n_ids)
    return tokenizer


def named(error: RwkvEdgeError, path: Path) -> RwkvEdgeError:
    """The error with the file before it."""
    message = str(error)
    return error if message.startswith(str(path)) else type(error)(f"{path}: {message}")


def content_of(path: Path) -> bytes:
    """A file of a size that a tokenizer can have; raises FormatError."""
    try:
        if path.stat().st_size > MAX_VOCABULARY_BYTES:
            raise FormatError(f"{path}: is larger than any tokenizer ({MAX_VOCABULARY_BYTES} B)")
        return path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error


def text_of(path: Path) -> str:
    """The same as text."""
    try:
        return content_of(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FormatError(f"{path}: is no tokenizer: not UTF-8 text") from None
