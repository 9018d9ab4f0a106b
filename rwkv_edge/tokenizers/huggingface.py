"""Tokenizers out of a Hugging Face `tokenizer.json`: GPT-NeoX's, of Pile and Raven models."""

import re
from typing import Any

from rwkv_edge.errors import (
    BackendUnavailableError,
    FormatError,
    InputError,
    RwkvEdgeError,
    UnsupportedModelError,
)
from rwkv_edge.tokenizers.huggingface_json import (
    SPACE_MARK,
    Json,
    content_that_goes_on,
    first_line,
    parse_tokenizer_json,
    prepared_json,
    scheme_of,
)
from rwkv_edge.tokenizers.pieces import PieceTokenizer, inexpressible

# What ends a document, by the first of these that there is: the file itself does not say.
ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|eos|>")
BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")
NEOX_N_IDS = 50277
NEOX_END = "<|endoftext|>"
# 0xC0, 0xC1 and 0xF5 to 0xFF occur in no UTF-8; GPT-NeoX has no ids for them.
UTF8_BYTES = frozenset([*range(0xC0), *range(0xC2, 0xF5)])


def byte_alphabet() -> dict[str, int]:
    """GPT-2's characters that stand for bytes: those that can be seen for themselves, then others.

    Source: GPT-2, `bytes_to_unicode`.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in visible}
    hidden = (byte for byte in range(256) if byte not in visible)
    return alphabet | {chr(0x100 + number): byte for number, byte in enumerate(hidden)}


BYTE_OF = byte_alphabet()


class HuggingFaceTokenizer(PieceTokenizer):
    """BPE over bytes, or BPE and Unigram over characters with ▁ for a space.

    json: the file as it is. pieces: text of every id as the file spells it, None for padding.
    control: ids without text, which no text becomes; unknown: the id of what has no other, also
    without text, or None; added: ids that are looked for before anything else, such as
    GPT-NeoX's runs of spaces. n_ids: one past the largest id.
    """

    def __init__(self, json: str, n_vocab: int) -> None:
        """A tokenizer for a model of n_vocab ids.

        Raises FormatError, UnsupportedModelError, BackendUnavailableError; the messages do not
        name the file.
        """
        library = import_tokenizers()
        self.json = json
        self.content = parse_tokenizer_json(json, n_vocab)
        self.scheme = scheme_of(self.content)
        control, end = control_tokens(self.content)
        self._begins = loaded(library, prepared_json(self.content, control))
        self._goes_on = self._begins
        more = content_that_goes_on(self.content)
        if more != self.content:
            self._goes_on = loaded(library, prepared_json(more, control))
        ids: dict[str, int] = self._begins.get_vocab(with_added_tokens=True)
        self.n_ids = max(ids.values(), default=-1) + 1
        self.added = check_added_ids(self.content, ids)
        self.unknown = self._find_unknown(ids)
        known = {ids[text] for text in control if text in ids}
        self.control = frozenset(known - {self.unknown})
        self.pieces: list[str | None] = [None] * n_vocab
        for text, token in ids.items():
            self.pieces[token] = text
        texts = [self._text(token) for token in range(n_vocab)]
        byte_ids = self._find_byte_ids(ids)
        # Ids that a text must not name: a library that looks for pieces finds these too.
        self._named = set(self.control)
        if not self.scheme.is_byte_level:
            self._named.update(byte_ids.values())
            if self.unknown is not None:
                self._named.add(self.unknown)
        # What the library would leave out without a word.
        self._missing = UTF8_BYTES - byte_ids.keys() if self.unknown is None else frozenset[int]()
        if not self.scheme.is_byte_level:
            if self._missing and self.content["model"]["type"] == "BPE":
                raise UnsupportedModelError(
                    "its tokenizer.json has neither an unknown token nor all bytes: it would drop "
                    "characters"
                )
            self._missing = frozenset()
        super().__init__(
            texts,
            end_of_document=None if end is None else ids.get(end),
            byte_ids=byte_ids,
            drops_first_space=self.scheme.drops_first_space,
        )

    @property
    def is_neox(self) -> bool:
        """True for the tokenizer of Pile and Raven models."""
        return self.n_ids == NEOX_N_IDS and self.pieces[0] == NEOX_END

    def _find_unknown(self, ids: dict[str, int]) -> int | None:
        model = self.content["model"]
        if model["type"] == "Unigram":
            return model.get("unk_id") if isinstance(model.get("unk_id"), int) else None
        name = model.get("unk_token")
        return ids.get(name) if isinstance(name, str) else None

    def _find_byte_ids(self, ids: dict[str, int]) -> dict[int, int]:
        """The id of every byte that has one."""
        if self.scheme.is_byte_level:
            return {byte: ids[char] for char, byte in BYTE_OF.items() if char in ids}
        if not self.content["model"].get("byte_fallback"):
            return {}
        names = {byte: f"<0x{byte:02X}>" for byte in range(256)}
        return {byte: ids[name] for byte, name in names.items() if name in ids}

    def _text(self, token: int) -> bytes:
        piece = self.pieces[token]
        if piece is None or token in self.control or token == self.unknown:
            return b""
        if token not in self.added:
            if self.scheme.is_byte_level:
                if all(char in BYTE_OF for char in piece):
                    return bytes(BYTE_OF[char] for char in piece)
            else:
                byte = BYTE_PIECE.fullmatch(piece)
                if byte and self.content["model"].get("byte_fallback"):
                    return bytes.fromhex(byte[1])
                piece = piece.replace(SPACE_MARK, " ")
        return piece.encode("utf-8", "surrogatepass")

    def _cut(self, text: str, begins: bool) -> list[int]:
        if self._missing and not self._missing.isdisjoint(text.encode("utf-8")):
            raise inexpressible(
                next(c for c in text if not self._missing.isdisjoint(c.encode("utf-8")))
            )
        encoder = self._begins if begins else self._goes_on
        try:
            encoding = encoder.encode(text, add_special_tokens=False)
        except BaseException as error:
            raise failure(error, InputError) from None
        ids: list[int] = encoding.ids
        if self._named.isdisjoint(ids):
            return ids
        tokens: list[int] = []
        for token, (start, end) in zip(ids, encoding.offsets, strict=True):
            named = token in self._named and (
                token in self.control or text[start:end] == self.pieces[token]
            )
            if not named:
                tokens.append(token)
            elif end - start < 2:
                raise inexpressible(text[start:end])
            else:
                # Cut in two, it is no name any more.
                middle = (start + end) // 2
                tokens += self._cut(text[start:middle], False) + self._cut(text[middle:end], False)
        return tokens


def control_tokens(content: Json) -> tuple[set[str], str | None]:
    """Which texts are none, and which of them ends a document."""
    added = content.get("added_tokens") or []
    control = {token["content"] for token in added if token.get("special")}
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):
        vocabulary = {entry[0] for entry in vocabulary}
    known = {token["content"] for token in added} | {end for end in ENDS if end in vocabulary}
    end = next((end for end in ENDS if end in known), None)
    return control | ({end} if end else set()), end


def check_added_ids(content: Json, ids: dict[str, int]) -> frozenset[int]:
    """The ids of added tokens; raises FormatError where the library gives other ones."""
    added = content.get("added_tokens") or []
    for token in added:
        if ids.get(token["content"]) != token["id"]:
            raise FormatError(
                f"the added token {token['content']!r:.80} in its tokenizer.json has the id "
                f"{token['id']}, its place is {ids.get(token['content'])}"
            )
    return frozenset(token["id"] for token in added)


def import_tokenizers() -> Any:
    """The tokenizers package, or BackendUnavailableError."""
    try:
        import tokenizers
    except ImportError as error:
        raise BackendUnavailableError(
            "a tokenizer.json needs the tokenizers package; "
            f'pip install "rwkv-edge[neox]" ({first_line(error)})'
        ) from None
    return tokenizers


def loaded(library: Any, json: str) -> Any:
    """The library's tokenizer, which reads control tokens as the text that they are spelled as."""
    try:
        tokenizer = library.Tokenizer.from_str(json)
    except BaseException as error:
        raise failure(error, FormatError) from None
    tokenizer.encode_special_tokens = True
    return tokenizer


def failure(error: BaseException, kind: type[RwkvEdgeError]) -> BaseException:
    """What the library raised as an error of ours: its panics are no `Exception`s."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        what = "this text" if kind is InputError else "its tokenizer.json"
        return kind(f"the tokenizers package refuses {what}: {first_line(error)}")
    return error
