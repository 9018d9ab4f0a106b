"""What a tokenizer is on its way into a GGUF."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import gguf


class EmbeddedTokenizer(ABC):
    """A tokenizer that a GGUF will hold whole, beside the keys that llama.cpp wants.

    kind: one of `rwkv_edge.tokenizers.gguf_vocabulary.KINDS`. origin: for the summary, a path or
    the name of a package. n_ids: one past the largest id. chat_template: the name of the template
    that models with this tokenizer were trained on, None if that says nothing.
    """

    kind: str
    origin: str
    n_ids: int
    chat_template: str | None = None
    # Whether ids beyond the last are part of every model with this tokenizer.
    is_padded_always = False

    @abstractmethod
    def add_keys(self, writer: gguf.GGUFWriter, n_vocab: int) -> None:
        """Write all keys but the kind and the template; ids up to n_vocab are padding."""


def pad_tokens(texts: Sequence[str | None], types: Sequence[int]) -> tuple[list[str], list[int]]:
    """Texts and types of all ids; None is an id without text, under a name of its own."""
    known = {text for text in texts if text is not None}
    padded, kinds = [], []
    for token, (text, kind) in enumerate(zip(texts, types, strict=True)):
        name = f"[PAD{token}]"
        # llama.cpp dies of two ids with one text.
        while text is None and name in known:
            name = f"[{name}]"
        padded.append(name if text is None else text)
        kinds.append(int(gguf.TokenType.UNUSED) if text is None else int(kind))
    return padded, kinds


def add_ends(writer: gguf.GGUFWriter, end_of_document: int | None) -> None:
    """Which id begins and ends documents for llama.cpp, which puts none before a text."""
    if end_of_document is not None:
        writer.add_bos_token_id(end_of_document)
        writer.add_eos_token_id(end_of_document)
        # llama.cpp would choose one itself, by its text.
        writer.add_eot_token_id(end_of_document)
    writer.add_add_bos_token(False)
