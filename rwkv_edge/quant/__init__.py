"""Weight formats. A new one is a new file and one import line here."""

from rwkv_edge.quant.base import (
    QUANT_FORMATS,
    Bytes,
    Float32Array,
    QuantFormat,
    quant_format_of,
)
from rwkv_edge.quant.floats import BF16, F16, F32
from rwkv_edge.quant.iq4_nl import IQ4_NL
from rwkv_edge.quant.iq4_xs import IQ4_XS
from rwkv_edge.quant.q2_k import Q2_K
from rwkv_edge.quant.q3_k import Q3_K
from rwkv_edge.quant.q4_0 import Q4_0
from rwkv_edge.quant.q4_1 import Q4_1
from rwkv_edge.quant.q4_k import Q4_K
from rwkv_edge.quant.q5_0 import Q5_0
from rwkv_edge.quant.q5_1 import Q5_1
from rwkv_edge.quant.q5_k import Q5_K
from rwkv_edge.quant.q6_k import Q6_K
from rwkv_edge.quant.q8_0 import Q8_0

__all__ = [
    "BF16",
    "F16",
    "F32",
    "IQ4_NL",
    "IQ4_XS",
    "Q2_K",
    "Q3_K",
    "Q4_0",
    "Q4_1",
    "Q4_K",
    "Q5_0",
    "Q5_1",
    "Q5_K",
    "Q6_K",
    "Q8_0",
    "QUANT_FORMATS",
    "Bytes",
    "Float32Array",
    "QuantFormat",
    "quant_format_of",
]
