"""How much memory a model takes in the numba engine, by its shape and weight types alone.

Nothing here imports numba, so that a file can be described at once. The tests hold it against what
the engine really reserves.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rwkv_edge.arch import Role, Shape, TensorSpec, architecture_of
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.quant import QuantFormat

FLOAT_BYTES = 4
BITS = 8
# The embedding is no matrix here: it stays in the file, as other tables do.
EMBEDDING = "token_embd.weight"
# The matrix that is laid out by columns, see `runtime.arch.weights`.
BY_COLUMNS = "channel_mix_value.weight"
# Rows and columns that matrices are padded to, of plain numbers and of quantized weights, and those
# of quantized weights by columns.
PLAIN_PADDING = (32, 32)
QUANTIZED_PADDING = (32, 64)
COLUMNS_PADDING = (128, 1)
# In memory a weight takes the bits that it takes in the file, and some formats these more: scales
# that the file packs tightly are whole bytes there, and by columns so are some codes.
MORE_BITS = {"Q3_K": 3 / 16, "Q4_K": 1 / 8, "Q5_K": 1 / 8, "Q6_K": 1 / 16, "IQ4_XS": 1 / 8}
MORE_BITS_BY_COLUMNS = MORE_BITS | {"Q5_K": 25 / 8, "Q6_K": 2}
# Tokens that pass through the model together, and what each of them needs beside weights: rows of
# float32, and rows that are quantized too (float32, a byte, and a scale and a sum for 32 of them).
# These are the most that any version has.
BLOCK_TOKENS = 128
SCRATCH_ROWS = 13
SCRATCH_INPUTS = 7
SCRATCH_HIDDEN = 6
INPUT_BYTES = FLOAT_BYTES + 1 + 2 * FLOAT_BYTES / 32
# Python 3.11 with numpy, numba, all kernels and the World tokenizer, on x86-64 Linux.
PROGRAM_BYTES = 190_000_000


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a process takes to run a model. resident: all but `mapped`, added up.

    weights: packed for the kernels. state: of one conversation. scratch: for blocks of tokens.
    program: Python, its libraries, compiled kernels. mapped: tables in the file of which single
    rows are read; the system keeps as much of them in memory as it likes.
    """

    resident: int
    weights: int
    state: int
    scratch: int
    program: int
    mapped: int


def estimate_memory(
    hyperparameters: Hyperparameters, formats: Mapping[str, type[QuantFormat]]
) -> MemoryEstimate:
    """formats: of every tensor of the architecture, by its GGUF name."""
    architecture = architecture_of(hyperparameters.version)
    specs = architecture.tensors(hyperparameters)
    weights = mapped = 0
    for spec in specs:
        quant = formats[spec.name]
        if spec.name == EMBEDDING or spec.role is Role.TABLE:
            mapped += math.prod(spec.shape[:-1]) * quant.row_bytes(spec.shape[-1])
        elif spec.role is Role.VECTOR:
            weights += math.prod(spec.shape) * FLOAT_BYTES
        else:
            weights += packed_bytes(spec.name, spec.shape, quant)
    state_shapes = architecture.state_shapes(hyperparameters)
    state = sum(map(math.prod, state_shapes.values())) * FLOAT_BYTES
    scratch = scratch_bytes(hyperparameters, specs)
    return MemoryEstimate(
        resident=weights + state + scratch + PROGRAM_BYTES,
        weights=weights,
        state=state,
        scratch=scratch,
        program=PROGRAM_BYTES,
        mapped=mapped,
    )


def packed_bytes(name: str, shape: Shape, quant: type[QuantFormat]) -> int:
    """A matrix in the arena, without what aligns it to a cache line."""
    is_quantized = quant.block_len > 1
    row_unit, column_unit = QUANTIZED_PADDING if is_quantized else PLAIN_PADDING
    more_bits = MORE_BITS
    if is_quantized and name.endswith(BY_COLUMNS):
        row_unit, column_unit = COLUMNS_PADDING
        more_bits = MORE_BITS_BY_COLUMNS
    n_rows = up_to(math.prod(shape[:-1]), row_unit)
    n_columns = up_to(shape[-1], max(column_unit, quant.block_len))
    more = more_bits.get(quant.__name__, 0) * n_columns / BITS
    return n_rows * (quant.row_bytes(n_columns) + int(more))


def scratch_bytes(hyperparameters: Hyperparameters, specs: list[TensorSpec]) -> int:
    """What a block of tokens needs, as much as it does in the neediest version."""
    hp = hyperparameters
    width, n_ffn = up_to(hp.n_embd, COLUMNS_PADDING[0]), up_to(hp.n_ffn, QUANTIZED_PADDING[1])
    max_rank = max((min(s.shape[-2:]) for s in specs if s.role is Role.LORA), default=0)
    rank = up_to(max_rank, QUANTIZED_PADDING[1])
    of_inputs = SCRATCH_INPUTS * width + SCRATCH_HIDDEN * rank + n_ffn
    of_token = SCRATCH_ROWS * width * FLOAT_BYTES + of_inputs * INPUT_BYTES
    if any(spec.role is Role.TABLE for spec in specs):
        # What a table's row makes of the channel mix.
        of_token += n_ffn * FLOAT_BYTES
    return int(BLOCK_TOKENS * of_token) + hp.n_vocab * FLOAT_BYTES


def up_to(n: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-n // unit) * unit
