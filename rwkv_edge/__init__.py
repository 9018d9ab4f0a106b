"""Run quantized RWKV language models on a laptop CPU.

`Model.load` opens a GGUF; everything else hangs on it. Failures are `RwkvEdgeError`s of one line.
"""

from rwkv_edge.errors import (
    BackendUnavailableError,
    FormatError,
    InputError,
    RwkvEdgeError,
    StateMismatchError,
    UnsupportedModelError,
)
from rwkv_edge.model import Model, ModelInfo
from rwkv_edge.state import State
from rwkv_edge.version import __version__

__all__ = [
    "BackendUnavailableError",
    "FormatError",
    "InputError",
    "Model",
    "ModelInfo",
    "RwkvEdgeError",
    "State",
    "StateMismatchError",
    "UnsupportedModelError",
    "__version__",
]
