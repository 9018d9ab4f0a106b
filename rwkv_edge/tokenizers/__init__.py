"""Tokenizers: text to ids and back."""

from rwkv_edge.tokenizers.base import Tokenizer
from rwkv_edge.tokenizers.byte_level import ByteTokenizer
from rwkv_edge.tokenizers.files import load_tokenizer
from rwkv_edge.tokenizers.gguf_vocabulary import escape_token, tokenizer_from_gguf, unescape_token
from rwkv_edge.tokenizers.huggingface import HuggingFaceTokenizer
from rwkv_edge.tokenizers.sections import Section
from rwkv_edge.tokenizers.sentence_pieces import SentencePieceTokenizer
from rwkv_edge.tokenizers.streaming import StreamingDecoder
from rwkv_edge.tokenizers.world import WorldTokenizer

__all__ = [
    "ByteTokenizer",
    "HuggingFaceTokenizer",
    "Section",
    "SentencePieceTokenizer",
    "StreamingDecoder",
    "Tokenizer",
    "WorldTokenizer",
    "escape_token",
    "load_tokenizer",
    "tokenizer_from_gguf",
    "unescape_token",
]
