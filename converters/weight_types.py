"""The weight types that a conversion can be asked for, and how each stores every tensor."""

import gguf

from rwkv_edge.arch import Role, TensorSpec
from rwkv_edge.quant import BF16, F16, F32, Q8_0, QUANT_FORMATS, QuantFormat

# `general.file_type`: how llama.cpp calls a file by most of its weights.
FILE_TYPES = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "BF16": gguf.LlamaFileType.MOSTLY_BF16,
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
# What the low-rank matrices are stored in, by weight type: they never go below 16 bits.
LORA_FORMATS: dict[str, type[QuantFormat]] = {"F32": F32, "BF16": BF16}
# What tables of a row for each token are stored in, where it is not the weight type.
TABLE_FORMATS: dict[str, type[QuantFormat]] = {"Q4_0": Q8_0}


def format_of(spec: TensorSpec, weight_type: str) -> type[QuantFormat]:
    """How a tensor is stored when the user asks for `weight_type`."""
    if spec.role is Role.VECTOR:
        return F32
    if spec.role is Role.LORA:
        return LORA_FORMATS.get(weight_type, F16)
    quant = QUANT_FORMATS[weight_type]
    if spec.role is Role.TABLE:
        quant = TABLE_FORMATS.get(weight_type, quant)
    return quant if spec.shape[-1] % quant.block_len == 0 else F16
