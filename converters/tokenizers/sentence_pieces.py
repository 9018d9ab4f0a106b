"""A sentencepiece `.model` in a GGUF: the file itself, and what llama.cpp makes of it."""

import gguf

from rwkv_edge.converters.tokenizers.base import EmbeddedTokenizer, add_ends, pad_tokens
from rwkv_edge.tokenizers.gguf_vocabulary import SENTENCEPIECE_KEY
from rwkv_edge.tokenizers.sentence_pieces import SentencePieceTokenizer
from rwkv_edge.tokenizers.sentencepiece_file import ModelType


class EmbeddedSentencePiece(EmbeddedTokenizer):
    """llama.cpp reads it as "t5" (Unigram) or "llama" (BPE)."""

    kind = "sentencepiece"

    def __init__(self, tokenizer: SentencePieceTokenizer, origin: str) -> None:
        self.tokenizer = tokenizer
        self.origin = origin
        self.n_ids = tokenizer.n_ids

    def add_keys(self, writer: gguf.GGUFWriter, n_vocab: int) -> None:
        """The file under a key of this project, then tokens, scores, types and settings."""
        tokenizer = self.tokenizer
        settings = tokenizer.settings
        n_padding = n_vocab - tokenizer.n_ids
        ids = range(tokenizer.n_ids)
        tokens, types = pad_tokens(
            [tokenizer.piece(token) for token in ids] + [None] * n_padding,
            [self._type(token) for token in ids] + [gguf.TokenType.UNUSED] * n_padding,
        )
        scores = [float(tokenizer.processor.get_score(token)) for token in ids]
        is_unigram = settings.model_type is ModelType.UNIGRAM
        writer.add_tokenizer_model("t5" if is_unigram else "llama")
        writer.add_token_list(tokens)
        writer.add_token_scores(scores + [0.0] * n_padding)
        writer.add_token_types(types)
        writer.add_add_space_prefix(settings.adds_space)
        writer.add_remove_extra_whitespaces(settings.drops_spaces)
        if settings.charsmap:
            writer.add_precompiled_charsmap(settings.charsmap)
        writer.add_unk_token_id(int(tokenizer.processor.unk_id()))
        add_ends(writer, tokenizer.end_of_document)
        writer.add_array(SENTENCEPIECE_KEY, tokenizer.model)

    def _type(self, token: int) -> int:
        processor = self.tokenizer.processor
        if processor.is_unknown(token):
            return int(gguf.TokenType.UNKNOWN)
        if processor.is_control(token):
            return int(gguf.TokenType.CONTROL)
        if processor.is_byte(token):
            return int(gguf.TokenType.BYTE)
        if processor.is_unused(token):
            return int(gguf.TokenType.UNUSED)
        return int(gguf.TokenType.NORMAL)
