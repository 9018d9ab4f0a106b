"""Tokenizers inside GGUF files.

A vocabulary in the World format is a list of texts, escaped as llama.cpp reads them: the repr of
a token's bytes with the quotes off, ASCII, whatever the bytes are. Tokenizers of other makers lie
in the GGUF as the very file that they came in.
"""

import re
from collections.abc import Mapping, Sequence
from enum import IntEnum

import numpy as np

from rwkv_edge.errors import MAX_SHOWN, FormatError, UnsupportedModelError, shown
from rwkv_edge.tokenizers.base import Tokenizer, utf8
from rwkv_edge.tokenizers.byte_level import N_BYTES, ByteTokenizer
from rwkv_edge.tokenizers.huggingface import HuggingFaceTokenizer
from rwkv_edge.tokenizers.sentence_pieces import SentencePieceTokenizer
from rwkv_edge.tokenizers.world import WorldTokenizer

MODEL_KEY = "tokenizer.ggml.model"
TOKENS_KEY = "tokenizer.ggml.tokens"
TYPES_KEY = "tokenizer.ggml.token_type"
# The whole of a `tokenizer.json`, a text. Source: the GGUF specification.
HUGGINGFACE_KEY = "tokenizer.huggingface.json"
# This project's own: one of KINDS; without it, what the other keys say.
KIND_KEY = "rwkv_edge.tokenizer"
# The whole of a sentencepiece `.model`, an array of bytes.
SENTENCEPIECE_KEY = "rwkv_edge.tokenizer.sentencepiece"
KINDS = ("world", "bytes", "huggingface", "sentencepiece")

# World holds 0.6 MB; what reads a vocabulary takes memory in proportion.
MAX_TEXT_BYTES = 1 << 23

# `\x` and two lower-case hexadecimal digits, or any other character, which stands for itself
# unless CONTROL names it. A group that is missing is damage.
ESCAPE = re.compile(rb"\\(?:x([0-9a-f]{2})|([^x]))?", re.DOTALL)
CONTROL = {b"n": b"\n", b"r": b"\r", b"t": b"\t"}
# Anything that the codec "unicode_escape" reads otherwise than `unescape_token`, or not at all.
UNUSUAL = re.compile(rb"\\(?!['\"nrt]|x[0-9a-f]{2})")
# A character that is no byte parts texts that are unescaped together: none of them can hold it.
BETWEEN = "\u0100"
ESCAPED_BETWEEN = b"\\u0100"
# How many go together: so many that the calls cost nothing, so few that they take little memory.
TEXTS_AT_ONCE = 4096


class TokenType(IntEnum):
    """What `tokenizer.ggml.token_type` says of an id. Source: llama.cpp, `llama_token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


WITHOUT_TEXT = frozenset(map(int, (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.UNUSED)))


def escape_token(token: bytes) -> str:
    """The text of a token as it is stored in a GGUF; `unescape_token` gives the bytes back."""
    return repr(token)[2:-1]


def unescape_token(text: str | bytes) -> bytes:
    r"""The bytes of a stored token: \n, \r, \t, \xHH; any other escaped character is itself.

    Raises FormatError where the text ends inside an escape, or \x is not followed by two
    lower-case hexadecimal digits (llama.cpp reads something else out of upper-case ones).
    Source: llama.cpp, `llama_unescape_rwkv_token`.
    """
    stored = utf8(text)

    def meaning(escape: re.Match[bytes]) -> bytes:
        digits, character = escape.groups()
        if digits is not None:
            return bytes.fromhex(digits.decode("ascii"))
        if character is None:
            text = shown(stored[:MAX_SHOWN].decode("utf-8", "replace"))
            raise FormatError(f"token text {text} has a damaged escape at byte {escape.start()}")
        return CONTROL.get(character, character)

    return ESCAPE.sub(meaning, stored)


def unescape_tokens(stored: Sequence[str | bytes]) -> list[bytes]:
    """`unescape_token` of each, fast: opening a model waits for it."""
    texts = [text if type(text) is bytes else utf8(text) for text in stored]
    # A pair of backslashes is one character; what is left of it must not become part of another.
    if UNUSUAL.search(b"\n".join(texts).replace(b"\\\\", b"!")):
        return [unescape_token(text) for text in texts]
    tokens: list[bytes] = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        joined = ESCAPED_BETWEEN.join(texts[start : start + TEXTS_AT_ONCE])
        unescaped = joined.decode("unicode_escape").split(BETWEEN)
        tokens += [text.encode("latin-1") for text in unescaped]
    return tokens


def kind_in_gguf(metadata: Mapping[str, object]) -> str:
    """Which of KINDS a file holds. Raises FormatError for none, UnsupportedModelError."""
    model = metadata.get(MODEL_KEY)
    if model is None:
        raise FormatError(f"key {MODEL_KEY} is missing, so the model has no tokenizer")
    if model != "rwkv" and HUGGINGFACE_KEY not in metadata and SENTENCEPIECE_KEY not in metadata:
        raise UnsupportedModelError(
            f"its tokenizer is {shown(model)}; only 'rwkv' can be used here, and what "
            f"{HUGGINGFACE_KEY} holds"
        )
    kind = metadata.get(KIND_KEY, "world" if model == "rwkv" else "huggingface")
    if kind not in KINDS:
        raise UnsupportedModelError(
            f"key {KIND_KEY} is {shown(kind)}; known are {', '.join(KINDS)}"
        )
    return str(kind)


def tokenizer_from_gguf(metadata: Mapping[str, object], n_vocab: int) -> Tokenizer:
    """The tokenizer that a model's metadata describe, with ids 0..n_vocab-1.

    Ids past the stored tokens have no text. Raises UnsupportedModelError for another kind of
    tokenizer, FormatError for damage, BackendUnavailableError if it needs a package that is not
    installed; the messages do not name the file.
    """
    kind = kind_in_gguf(metadata)
    if kind == "huggingface":
        json = metadata.get(HUGGINGFACE_KEY)
        if not isinstance(json, str):
            raise FormatError(f"key {HUGGINGFACE_KEY} is missing or not a text")
        return HuggingFaceTokenizer(json, n_vocab)
    if kind == "sentencepiece":
        stored_model = metadata.get(SENTENCEPIECE_KEY)
        if not isinstance(stored_model, np.ndarray) or stored_model.dtype != np.uint8:
            raise FormatError(f"key {SENTENCEPIECE_KEY} is missing or not an array of bytes")
        return SentencePieceTokenizer(stored_model.tobytes(), n_vocab)
    stored = _stored_tokens(metadata, n_vocab)
    if kind == "bytes":
        if n_vocab < N_BYTES:
            raise FormatError(f"a tokenizer of bytes needs {N_BYTES} ids; the model has {n_vocab}")
        return ByteTokenizer(n_vocab)
    vocabulary = unescape_tokens(stored)
    for token in _ids_without_text(metadata, len(stored)):
        vocabulary[token] = b""
    vocabulary += [b""] * (n_vocab - len(vocabulary))
    return WorldTokenizer(vocabulary)


def _stored_tokens(metadata: Mapping[str, object], n_vocab: int) -> Sequence[str | bytes]:
    stored = metadata.get(TOKENS_KEY)
    if not isinstance(stored, (list, tuple)) or not stored:
        raise FormatError(f"key {TOKENS_KEY} is missing or not a list of texts")
    if not set(map(type, stored)) <= {bytes, str}:
        raise FormatError(f"key {TOKENS_KEY} holds something that is not text")
    if len(stored) > n_vocab:
        raise FormatError(f"it holds {len(stored):,} tokens; the model has {n_vocab:,} ids")
    if sum(map(len, stored)) > MAX_TEXT_BYTES:
        raise FormatError(f"its tokens hold more than {MAX_TEXT_BYTES:,} bytes of text")
    return stored


def _ids_without_text(metadata: Mapping[str, object], n_tokens: int) -> list[int]:
    types = metadata.get(TYPES_KEY)
    if not isinstance(types, (list, tuple, np.ndarray)) or len(types) != n_tokens:
        raise FormatError(f"key {TYPES_KEY} is not a list of {n_tokens:,} numbers, one a token")
    if isinstance(types, np.ndarray):
        types = types.tolist()
    return [token for token, kind in enumerate(types) if kind in WITHOUT_TEXT]
