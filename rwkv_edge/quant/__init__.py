"""Weight formats. A new one is a new file and one import line here."""

from rwkv_edge.quant.base import (
    QUANT_FORMATS,
    Bytes,
    Float32Array,
    QuantFormat,
    quant_format_of,
)
from rwkv_edge.quant.floats import BF16, F16, F32
from rwkv_edge.quant.q4_0 import Q4_0
from rwkv_edge.quant.q8_0 import Q8_0

__all__ = [
    "BF16",
    "F16",
    "F32",
    "Q4_0",
    "Q8_0",
    "QUANT_FORMATS",
    "Bytes",
    "Float32Array",
    "QuantFormat",
    "quant_format_of",
]
