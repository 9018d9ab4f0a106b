"""Tokenizers on their way into a GGUF."""

from rwkv_edge.converters.tokenizers.base import EmbeddedTokenizer
from rwkv_edge.converters.tokenizers.choice import choose_tokenizer, files_beside

__all__ = ["EmbeddedTokenizer", "choose_tokenizer", "files_beside"]
