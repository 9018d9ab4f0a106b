"""Vocabularies in the World format, and bytes, as a GGUF states them."""

import gguf

from rwkv_edge.converters.tokenizers.base import EmbeddedTokenizer, add_ends, pad_tokens
from rwkv_edge.tokenizers.gguf_vocabulary import escape_token
from rwkv_edge.tokenizers.vocabulary_file import Vocabulary

END_OF_DOCUMENT = "<s>"
# llama.cpp knows the template of World models by this name.
WORLD_CHAT_TEMPLATE = "rwkv-world"


class EmbeddedVocabulary(EmbeddedTokenizer):
    """A list of byte strings: llama.cpp's own keys hold all of it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.kind = vocabulary.kind
        self.origin = vocabulary.origin
        self.n_ids = vocabulary.n_ids
        self.chat_template = "world" if vocabulary.is_world else None
        self.is_padded_always = vocabulary.is_world

    def add_keys(self, writer: gguf.GGUFWriter, n_vocab: int) -> None:
        """The vocabulary as llama.cpp reads it."""
        ends_documents = self.vocabulary.first_id == 1
        texts: list[str | None] = [END_OF_DOCUMENT] if ends_documents else []
        types = [gguf.TokenType.CONTROL] if ends_documents else []
        texts += [escape_token(token) for token in self.vocabulary.tokens]
        types += [gguf.TokenType.NORMAL] * len(self.vocabulary.tokens)
        n_padding = n_vocab - len(texts)
        tokens, kinds = pad_tokens(
            texts + [None] * n_padding, types + [gguf.TokenType.UNUSED] * n_padding
        )
        writer.add_tokenizer_model("rwkv")
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
        # Not 261, "\n\n", which llama.cpp's own converter writes: any blank line would end a text.
        add_ends(writer, 0 if ends_documents else None)
        if self.vocabulary.is_world:
            writer.add_chat_template(WORLD_CHAT_TEMPLATE)
