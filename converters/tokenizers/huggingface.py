"""A Hugging Face `tokenizer.json` in a GGUF: the file itself, and what llama.cpp makes of it."""

import gguf

from rwkv_edge.converters.tokenizers.base import EmbeddedTokenizer, add_ends, pad_tokens
from rwkv_edge.tokenizers.gguf_vocabulary import HUGGINGFACE_KEY
from rwkv_edge.tokenizers.huggingface import HuggingFaceTokenizer

# How llama.cpp calls the pattern by which GPT-2 and GPT-NeoX part words.
GPT2_PATTERN = "gpt-2"


class EmbeddedHuggingFace(EmbeddedTokenizer):
    """llama.cpp reads it as "gpt2" (BPE over bytes), "t5" (Unigram) or "llama" (other BPE).

    Its ids are near the file's, not always the same: it knows neither the normalizer nor every
    pattern. This package reads the file itself.
    """

    kind = "huggingface"

    def __init__(self, tokenizer: HuggingFaceTokenizer, origin: str) -> None:
        self.tokenizer = tokenizer
        self.origin = origin
        self.n_ids = tokenizer.n_ids
        self.chat_template = "raven" if tokenizer.is_neox else None

    def add_keys(self, writer: gguf.GGUFWriter, n_vocab: int) -> None:
        """The file under `tokenizer.huggingface.json`, then tokens, types, merges or scores."""
        tokenizer = self.tokenizer
        model = tokenizer.content["model"]
        tokens, types = pad_tokens(tokenizer.pieces, [self._type(i) for i in range(n_vocab)])
        if tokenizer.scheme.is_byte_level and model["type"] == "BPE":
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre(GPT2_PATTERN)
            writer.add_token_list(tokens)
            writer.add_token_merges(
                [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
            )
        else:
            writer.add_tokenizer_model("t5" if model["type"] == "Unigram" else "llama")
            writer.add_token_list(tokens)
            writer.add_token_scores(self._scores(n_vocab))
            writer.add_add_space_prefix(tokenizer.scheme.drops_first_space)
        writer.add_token_types(types)
        if tokenizer.unknown is not None:
            writer.add_unk_token_id(tokenizer.unknown)
        add_ends(writer, tokenizer.end_of_document)
        writer.add_string(HUGGINGFACE_KEY, tokenizer.json)

    def _type(self, token: int) -> int:
        tokenizer = self.tokenizer
        if token == tokenizer.unknown:
            return int(gguf.TokenType.UNKNOWN)
        if token in tokenizer.control:
            return int(gguf.TokenType.CONTROL)
        if token in tokenizer.added:
            return int(gguf.TokenType.USER_DEFINED)
        if not tokenizer.scheme.is_byte_level and token in tokenizer.byte_ids.values():
            return int(gguf.TokenType.BYTE)
        return int(gguf.TokenType.NORMAL)

    def _scores(self, n_vocab: int) -> list[float]:
        """Unigram's own; for merges, earlier ids first, as in files made from sentencepiece."""
        model = self.tokenizer.content["model"]
        if model["type"] == "Unigram":
            scores = [float(score) for _, score in model["vocab"]]
            return scores + [0.0] * (n_vocab - len(scores))
        return [-float(token) for token in range(n_vocab)]
