"""The weight types that a conversion can be asked for, and how each stores every tensor.

The mixes and the fall-backs are llama.cpp's, as far as they concern RWKV. There, the names of
RWKV's matrices belong to no group but "other", whose format depends on the file type alone: so S, M
and L of one name differ in `general.file_type` and in nothing else.
"""

import difflib
from dataclasses import dataclass

import gguf

from rwkv_edge.arch import Role, TensorSpec
from rwkv_edge.errors import InputError
from rwkv_edge.quant import (
    BF16,
    F16,
    F32,
    IQ4_NL,
    IQ4_XS,
    Q2_K,
    Q3_K,
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_0,
    Q5_1,
    Q5_K,
    Q6_K,
    Q8_0,
    QuantFormat,
)

# The matrix that turns the last activations into logits.
HEAD = "output.weight"

Format = type[QuantFormat]
FileType = gguf.LlamaFileType


@dataclass(frozen=True)
class WeightType:
    """What a file of this type stores its tensors in, where their rows are whole blocks.

    most: the large matrices; head: the one that makes logits. low_rank: the small matrices, which
    llama.cpp's quantizer leaves as they are too, and which never go below 16 bits here. table: a
    row for each token, of which a token reads its own alone; never below 8 bits. file_type: what
    `general.file_type` says.
    """

    name: str
    file_type: gguf.LlamaFileType
    most: Format
    head: Format
    low_rank: Format = F16
    table: Format = Q8_0


WEIGHT_TYPES = {
    row.name: row
    for row in (
        WeightType("F32", FileType.ALL_F32, F32, F32, low_rank=F32, table=F32),
        WeightType("F16", FileType.MOSTLY_F16, F16, F16, table=F16),
        WeightType("BF16", FileType.MOSTLY_BF16, BF16, BF16, low_rank=BF16, table=BF16),
        WeightType("Q8_0", FileType.MOSTLY_Q8_0, Q8_0, Q8_0),
        WeightType("Q6_K", FileType.MOSTLY_Q6_K, Q6_K, Q6_K),
        WeightType("Q5_K_M", FileType.MOSTLY_Q5_K_M, Q5_K, Q6_K),
        WeightType("Q5_K_S", FileType.MOSTLY_Q5_K_S, Q5_K, Q6_K),
        WeightType("Q5_1", FileType.MOSTLY_Q5_1, Q5_1, Q6_K),
        WeightType("Q5_0", FileType.MOSTLY_Q5_0, Q5_0, Q6_K),
        WeightType("Q4_K_M", FileType.MOSTLY_Q4_K_M, Q4_K, Q6_K),
        WeightType("Q4_K_S", FileType.MOSTLY_Q4_K_S, Q4_K, Q6_K),
        WeightType("Q4_1", FileType.MOSTLY_Q4_1, Q4_1, Q6_K),
        # llama.cpp writes the head as Q6_K here too. This is the type for speed: of a 1.5B model
        # the head is a tenth, and it is read whole for each token.
        WeightType("Q4_0", FileType.MOSTLY_Q4_0, Q4_0, Q4_0),
        WeightType("IQ4_NL", FileType.MOSTLY_IQ4_NL, IQ4_NL, Q6_K),
        WeightType("IQ4_XS", FileType.MOSTLY_IQ4_XS, IQ4_XS, Q6_K),
        WeightType("Q3_K_L", FileType.MOSTLY_Q3_K_L, Q3_K, Q6_K),
        WeightType("Q3_K_M", FileType.MOSTLY_Q3_K_M, Q3_K, Q6_K),
        WeightType("Q3_K_S", FileType.MOSTLY_Q3_K_S, Q3_K, Q6_K),
        WeightType("Q2_K", FileType.MOSTLY_Q2_K, Q2_K, Q6_K),
        WeightType("Q2_K_S", FileType.MOSTLY_Q2_K_S, Q2_K, Q6_K),
    )
}
FILE_TYPES = {name: row.file_type for name, row in WEIGHT_TYPES.items()}
# For rows that are not whole blocks: a format of shorter ones, of no fewer bits.
FALLBACKS: dict[Format, Format] = {
    Q2_K: Q4_0,
    Q3_K: Q4_0,
    IQ4_XS: IQ4_NL,
    Q4_K: Q5_0,
    Q5_K: Q5_1,
    Q6_K: Q8_0,
}


def weight_type_of(name: str) -> WeightType:
    """The weight type of this name; raises InputError with the choices."""
    found = WEIGHT_TYPES.get(name)
    if found is not None:
        return found
    near = difflib.get_close_matches(name, WEIGHT_TYPES, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise InputError(f"weight type {name}: wanted one of {', '.join(WEIGHT_TYPES)}{hint}")


def wanted_format(spec: TensorSpec, weight_type: str) -> Format:
    """How a tensor is stored if its rows are whole blocks."""
    row = WEIGHT_TYPES[weight_type]
    if spec.role is Role.MATRIX:
        return row.head if spec.name == HEAD else row.most
    others: dict[Role, Format] = {
        Role.VECTOR: F32,
        Role.LORA: row.low_rank,
        Role.TABLE: row.table,
    }
    return others[spec.role]


def format_of(spec: TensorSpec, weight_type: str) -> Format:
    """How a tensor is stored when the user asks for `weight_type`."""
    quant = wanted_format(spec, weight_type)
    while spec.shape[-1] % quant.block_len:
        quant = FALLBACKS.get(quant, F16)
    return quant
