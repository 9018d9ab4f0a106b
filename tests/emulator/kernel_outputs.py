"""What kernels give for fixed inputs, on whatever CPU they run. See `test_foreign_tiers.py`."""

import re
from typing import Any

import numpy as np

from rwkv_edge.quant import IQ4_NL, Q4_0, Q4_K, Q6_K, Q8_0, QuantFormat
from rwkv_edge.runtime.kernels.activations import (
    Activations,
    new_activations,
    quantize,
    quantize_rows,
)
from rwkv_edge.runtime.kernels.columns import list_active, new_active_columns
from rwkv_edge.runtime.kernels.matmul import PACKED_FORMATS
from rwkv_edge.runtime.kernels.panel import new_panels
from rwkv_edge.runtime.kernels.wkv7 import wkv7_step
from tests.runtime.kernels.packed_matrices import pack_rows

# Between them sums of nibbles, of six bits and of bytes, with a table, with least values and with
# scales of halves: the others combine the same. Their codes are unpacked by `test_codes.py`, which
# runs on these tiers too.
QUANTIZED = (Q4_0, Q8_0, Q4_K, Q6_K, IQ4_NL)
KERNELS = {quant.__name__: PACKED_FORMATS[quant][0].multiply for quant in QUANTIZED}
# Tokens: one full tile of AMX, and five more.
N_ROWS, N_COLUMNS, N_TOKENS, HEAD_SIZE = 40, 256, 21, 64


def whole_numbers(shape: tuple[int, int]) -> np.ndarray:
    """Whole numbers up to 127 whose blocks all hold 127, so that every scale is 1."""
    numbers = np.random.default_rng(5).integers(-127, 128, shape).astype(np.float32)
    numbers[:, ::32] = 127
    return numbers


def random_blocks(quant_format: type[QuantFormat]) -> np.ndarray:
    """Rows of any codes and small scales; the halves are ones, so that weights are whole numbers.

    Sums of products are then exact in float32: whole numbers below 2 ** 24.
    """
    random = np.random.default_rng(7)
    raw = random.integers(0, 256, (N_ROWS, quant_format.row_bytes(N_COLUMNS)), np.uint8)
    blocks = quant_format.blocks(raw, N_COLUMNS)
    for name in ("scale", "least"):
        if name in (quant_format.block.names or ()):
            blocks[name] = np.float16(1).view(np.uint16)
    return raw


def outputs() -> dict[str, np.ndarray]:
    """Arrays by name. Products are of whole numbers with scales of 1: they must be equal."""
    x = new_activations(1, N_TOKENS, N_COLUMNS)
    x.values[0] = whole_numbers((N_TOKENS, N_COLUMNS))
    x = Activations(*(array[0] for array in x))
    quantize_rows(x, N_TOKENS, 0, N_COLUMNS)
    panel = new_panels(1)[0]
    found = {}
    for quant_format in QUANTIZED:
        name = quant_format.__name__
        raw = random_blocks(quant_format)
        dense, columns = PACKED_FORMATS[quant_format]
        for packed in (dense, columns) if columns is not dense else (dense,):
            matrix = pack_rows(raw, quant_format, N_COLUMNS, by_columns=packed.reads_columns)
            active = new_active_columns(1, N_COLUMNS)
            list_active(x.codes[0], active, 0, packed.part_len, 0, N_COLUMNS)
            n_rows = int(matrix.matrix[0]["n_rows"])
            for n_tokens in (1, N_TOKENS):
                y = np.full((n_tokens, n_rows), np.nan, np.float32)
                operands = (matrix.weights, matrix.matrix[0], x, active, n_tokens, y)
                packed.multiply(*operands, 0, n_rows, panel)
                layout = " by columns" if packed.reads_columns else ""
                found[f"product {name}{layout}, {n_tokens} tokens"] = y
    found |= quantized() | recurrence()
    return found


def quantized() -> dict[str, np.ndarray]:
    values = np.random.default_rng(6).standard_normal(N_COLUMNS).astype(np.float32)
    codes = np.zeros(N_COLUMNS, np.int8)
    scales, sums = np.zeros(N_COLUMNS // 32, np.float32), np.zeros(N_COLUMNS // 32, np.int32)
    half_sums = np.zeros(N_COLUMNS // 16, np.int32)
    quantize(values, codes, scales, sums, half_sums, 0, N_COLUMNS)
    return {"codes": codes, "scales": scales, "sums": sums, "half_sums": half_sums}


def recurrence() -> dict[str, np.ndarray]:
    random = np.random.default_rng(8)
    r, k, v, a, b = random.standard_normal((5, HEAD_SIZE)).astype(np.float32)
    w = random.uniform(0.5, 1, HEAD_SIZE).astype(np.float32)
    state = random.standard_normal((HEAD_SIZE, HEAD_SIZE)).astype(np.float32)
    y = np.zeros(HEAD_SIZE, np.float32)
    wkv7_step(r, w, k, v, a, b, state, y)
    return {"state": state, "y": y}


def dot_instructions(kernel: Any) -> set[str]:
    """The dot products of bytes in a kernel's assembly, with the kind of register they are on."""
    (compiled,) = kernel.overloads.values()
    assembly = compiled.library.get_asm_str()
    found = re.findall(r"\{?\w*\}?\s*(vpdpbusd|vpmaddubsw|vpmaddwd)\s.*%([xyz]mm)", assembly)
    return {f"{instruction} {register}" for instruction, register in found}
