"""Run quantized RWKV language models on a laptop CPU.

`Model.load` opens a GGUF; everything else hangs on it. Failures are `RwkvEdgeError`s of one line.
"""

from rwkv_edge.chat import Chat
from rwkv_edge.chat_templates import ChatTemplate, ThinkLength, ThinkMode
from rwkv_edge.errors import (
    BackendUnavailableError,
    FormatError,
    InputError,
    RwkvEdgeError,
    StateMismatchError,
    UnsupportedModelError,
)
from rwkv_edge.generation import Stream
from rwkv_edge.model import Model, ModelInfo
from rwkv_edge.reading import Position, Reading
from rwkv_edge.sampling import SamplingOptions
from rwkv_edge.state import State
from rwkv_edge.version import __version__

__all__ = [
    "BackendUnavailableError",
    "Chat",
    "ChatTemplate",
    "FormatError",
    "InputError",
    "Model",
    "ModelInfo",
    "Position",
    "Reading",
    "RwkvEdgeError",
    "SamplingOptions",
    "State",
    "StateMismatchError",
    "Stream",
    "ThinkLength",
    "ThinkMode",
    "UnsupportedModelError",
    "__version__",
]
