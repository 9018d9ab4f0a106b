"""The keys of a GGUF that is converted to another: all that it says beside its tensors."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from rwkv_edge.chat_templates import TEMPLATE_KEY
from rwkv_edge.converters.tokenizers import EmbeddedTokenizer
from rwkv_edge.errors import BackendUnavailableError, FormatError, UnsupportedModelError
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.gguf_types import ValueType
from rwkv_edge.tokenizers import tokenizer_from_gguf
from rwkv_edge.tokenizers.gguf_vocabulary import (
    KIND_KEY,
    MODEL_KEY,
    SENTENCEPIECE_KEY,
    kind_in_gguf,
)

NAME_KEY = "general.name"
# What the new file says itself.
WRITTEN_ANEW = frozenset(
    {
        "general.architecture",
        NAME_KEY,
        "general.file_type",
        "general.quantization_version",
        "general.alignment",
    }
)
TOKENIZER_PREFIX = "tokenizer."
# Those that belong to the tokenizer and do not begin so. The first two are written with any.
TOKENIZER_KEYS = frozenset({KIND_KEY, TEMPLATE_KEY, SENTENCEPIECE_KEY})


@dataclass(frozen=True)
class TypedValue:
    """A key's value and its type; item: the type of an array's items."""

    value: object
    kind: ValueType
    item: ValueType | None

    def add_to(self, writer: gguf.GGUFWriter, key: str) -> None:
        """Write it under `key`, as it was."""
        value = self.value
        if isinstance(value, np.ndarray):
            value = value.tolist()
        # gguf-py writes no empty arrays.
        if value != []:
            item = None if self.item is None else gguf.GGUFValueType(self.item)
            writer.add_key_value(key, value, gguf.GGUFValueType(self.kind), sub_type=item)


@dataclass(frozen=True)
class CarriedKeys:
    """What a GGUF says. general: keys of no tokenizer; words: those of its tokenizer."""

    path: Path
    metadata: Mapping[str, object]
    general: Mapping[str, TypedValue]
    words: Mapping[str, TypedValue]

    @property
    def name(self) -> str | None:
        """What the model is called, if the file says."""
        name = self.metadata.get(NAME_KEY)
        return name if isinstance(name, str) else None

    def tokenizer(self, n_vocab: int) -> EmbeddedTokenizer | None:
        """The tokenizer that the file holds, which must be whole; None if it holds none.

        Raises FormatError, UnsupportedModelError.
        """
        if MODEL_KEY not in self.metadata:
            return None
        try:
            # One that takes a package that is not installed is carried over unseen.
            with contextlib.suppress(BackendUnavailableError):
                tokenizer_from_gguf(self.metadata, n_vocab)
            return CarriedTokenizer(self, n_vocab)
        except (FormatError, UnsupportedModelError) as error:
            raise type(error)(f"{self.path}: {error}; name a tokenizer file") from None


class CarriedTokenizer(EmbeddedTokenizer):
    """A tokenizer key by key as another GGUF holds it."""

    def __init__(self, keys: CarriedKeys, n_vocab: int) -> None:
        self._keys = keys
        self.kind = kind_in_gguf(keys.metadata)
        self.origin = str(keys.path)
        # Padding is part of what is carried.
        self.n_ids = n_vocab
        template = keys.metadata.get(TEMPLATE_KEY)
        self.chat_template = template if isinstance(template, str) else None

    def add_keys(self, writer: gguf.GGUFWriter, n_vocab: int) -> None:
        """All of them but the kind and the name of the template, which every file gets."""
        for key, value in self._keys.words.items():
            if key not in (KIND_KEY, TEMPLATE_KEY):
                value.add_to(writer, key)


def carried_keys(file: GgufFile) -> CarriedKeys:
    """Every key of a GGUF that a file made from it shall have, too."""
    general: dict[str, TypedValue] = {}
    words: dict[str, TypedValue] = {}
    for key, value in file.metadata.items():
        if key in WRITTEN_ANEW:
            continue
        is_word = key.startswith(TOKENIZER_PREFIX) or key in TOKENIZER_KEYS
        (words if is_word else general)[key] = TypedValue(value, *file.types[key])
    return CarriedKeys(file.path, dict(file.metadata), general, words)
