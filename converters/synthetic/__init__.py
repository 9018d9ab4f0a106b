"""Random checkpoints of any version and shape: for benchmarks, and for tests without a trained one.

The magnitudes are those of a trained model: activations neither explode nor vanish over many
layers, and most of the channel mix's activations are zero (how many can be chosen).
"""

from rwkv_edge.converters.synthetic.base import ZEROS
from rwkv_edge.converters.synthetic.versions import SYNTHETIC_VERSIONS, synthetic_hyperparameters
from rwkv_edge.converters.synthetic.writer import CHUNK_WEIGHTS, FORMATS, write_synthetic

__all__ = [
    "CHUNK_WEIGHTS",
    "FORMATS",
    "SYNTHETIC_VERSIONS",
    "ZEROS",
    "synthetic_hyperparameters",
    "write_synthetic",
]
