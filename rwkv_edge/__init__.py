"""Run quantized RWKV language models on a laptop CPU."""

from rwkv_edge.version import __version__

__all__ = ["__version__"]
