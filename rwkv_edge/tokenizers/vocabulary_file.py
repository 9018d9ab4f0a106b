"""Vocabulary files in the World format, and where World's own is found."""

import ast
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from rwkv_edge.errors import FormatError, UnsupportedModelError, shown
from rwkv_edge.tokenizers.base import Tokenizer
from rwkv_edge.tokenizers.byte_level import N_BYTES, ByteTokenizer
from rwkv_edge.tokenizers.world import WorldTokenizer

WORLD_FILE = "rwkv_vocab_v20230424.txt"
# Packages that carry it. Neither is imported: one is an extension module, the other wants torch.
WORLD_PACKAGES = ("pyrwkv_tokenizer", "rwkv")
WORLD_N_TOKENS = 65529
# The longest World token is 128 bytes.
MAX_TOKEN_BYTES = 1024
MAX_VOCABULARY_BYTES = 64 << 20

# `<id> <literal> <bytes>`; the literal may hold spaces and, in a bad file, anything.
LINE = re.compile(r"(\d{1,9}) (b?(?:'.*'|\".*\")) (\d{1,9})", re.DOTALL)

# Most lines: a literal without escapes, quotes and control characters, which means what it shows.
PLAIN_LINE = re.compile(r"(\d{1,9}) '([^'\\\x00-\x1f\x7f-\x9f\ud800-\udfff]+)' (\d{1,9})")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, and where they came from.

    kind: "world" (longest match, id 0 ends a document) or "bytes" (id is the byte).
    tokens: bytes of the ids from `first_id` on; id 0 is not among them where it ends a document.
    origin: for the summary: a path, or the name of a package.
    """

    kind: str
    tokens: list[bytes]
    first_id: int
    origin: str

    @property
    def is_world(self) -> bool:
        """True for RWKV's own World vocabulary, whose models know the chat format."""
        return self.first_id == 1 and len(self.tokens) == WORLD_N_TOKENS

    @property
    def n_ids(self) -> int:
        """One past the largest id."""
        return self.first_id + len(self.tokens)

    def tokenizer(self, n_vocab: int) -> Tokenizer:
        """The tokenizer of a model of `n_vocab` ids. Raises FormatError if there are too few."""
        if self.n_ids > n_vocab:
            raise FormatError(
                f"{self.origin}: has ids up to {self.n_ids - 1}; the model has embeddings for "
                f"{n_vocab} ids; it belongs to another model"
            )
        if self.kind == "bytes":
            return ByteTokenizer(n_vocab)
        texts = [b""] * self.first_id + self.tokens
        return WorldTokenizer(texts + [b""] * (n_vocab - self.n_ids))


def byte_vocabulary() -> Vocabulary:
    """All 256 bytes, id 0 included: nothing ends a document."""
    return Vocabulary("bytes", [bytes([i]) for i in range(N_BYTES)], 0, "bytes")


def world_vocabulary() -> Vocabulary:
    """The World vocabulary out of whichever package carries it; raises UnsupportedModelError."""
    for package in WORLD_PACKAGES:
        found = importlib.util.find_spec(package)
        for folder in (found and found.submodule_search_locations) or ():
            path = Path(folder) / WORLD_FILE
            if path.is_file():
                tokens = read_vocabulary(path).tokens
                if len(tokens) != WORLD_N_TOKENS:
                    raise FormatError(
                        f"{path}: has {len(tokens)} tokens, wanted {WORLD_N_TOKENS}; "
                        f"install {package} again"
                    )
                return Vocabulary("world", tokens, 1, package)
    raise UnsupportedModelError(
        "the World vocabulary is not installed: pip install pyrwkv-tokenizer, "
        f"or name a file such as {WORLD_FILE}"
    )


def read_vocabulary(path: Path) -> Vocabulary:
    """Parse a file of lines `<id> <Python literal of str or bytes> <length in bytes>`.

    Ids count up by one, from 1 (id 0 then ends a document) or from 0. Raises FormatError.
    """
    try:
        if path.stat().st_size > MAX_VOCABULARY_BYTES:
            raise FormatError(f"{path}: is larger than any vocabulary ({MAX_VOCABULARY_BYTES} B)")
        # Only \n ends a line here: tokens hold other characters that Unicode counts as line ends.
        with open(path, encoding="utf-8", newline="\n") as file:
            lines = [line.rstrip("\r\n") for line in file]
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: is not a vocabulary: not UTF-8 text") from error
    tokens: list[bytes] = []
    known: set[bytes] = set()
    first_id = 1
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            token_id, token = parse_line(line)
            if not tokens and token_id in {0, 1}:
                first_id = token_id
            wanted = first_id + len(tokens)
            if token_id != wanted:
                raise ValueError(f"id {token_id}, wanted {wanted}: ids count up without gaps")
            if token in known:
                raise ValueError("repeats the token of an earlier line")
        except ValueError as error:
            raise FormatError(f"{path}: line {number}: {error}") from error
        known.add(token)
        tokens.append(token)
    if not tokens:
        raise FormatError(f"{path}: holds no tokens")
    is_bytes = tokens == byte_vocabulary().tokens and first_id == 0
    return Vocabulary("bytes" if is_bytes else "world", tokens, first_id, str(path))


def parse_line(line: str) -> tuple[int, bytes]:
    """One line to an id and its bytes; raises ValueError."""
    plain = PLAIN_LINE.fullmatch(line)
    # Python's own parser takes ten times as long, and every conversion waits for 65,529 lines.
    if plain is not None:
        token = plain[2].encode("utf-8")
        if len(token) == int(plain[3]) <= MAX_TOKEN_BYTES:
            return int(plain[1]), token
    match = LINE.fullmatch(line) if len(line) < 8 * MAX_TOKEN_BYTES else None
    if match is None:
        raise ValueError("not `<id> <literal> <length>`")
    try:
        literal = ast.literal_eval(match[2])
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"not a Python literal: {shown(match[2][:40])}") from error
    try:
        token = literal.encode("utf-8") if isinstance(literal, str) else literal
    except UnicodeEncodeError as error:
        raise ValueError("half a surrogate pair") from error
    if not isinstance(token, bytes):
        raise ValueError(f"not a str or bytes literal: {shown(match[2][:40])}")
    if len(token) != int(match[3]):
        raise ValueError(f"the token has {len(token)} bytes, the line says {match[3]}")
    if not 0 < len(token) <= MAX_TOKEN_BYTES:
        raise ValueError(f"a token has 1 to {MAX_TOKEN_BYTES} bytes, not {len(token)}")
    return int(match[1]), token
