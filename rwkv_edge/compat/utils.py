"""What the official package keeps under this name."""

from rwkv_edge.compat.pipeline import PIPELINE, PIPELINE_ARGS

__all__ = ["PIPELINE", "PIPELINE_ARGS"]
