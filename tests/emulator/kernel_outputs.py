"""What kernels give for fixed inputs, on whatever CPU they run. See `test_foreign_tiers.py`."""

import re
from typing import Any

import numpy as np

from rwkv_edge.quant import Q4_0, Q8_0
from rwkv_edge.runtime.kernels.activations import (
    Activations,
    new_activations,
    quantize,
    quantize_rows,
)
from rwkv_edge.runtime.kernels.columns import list_active, new_active_columns
from rwkv_edge.runtime.kernels.matmul_q4_0 import matmul_q4_0, matmul_q4_0_columns
from rwkv_edge.runtime.kernels.matmul_q8_0 import matmul_q8_0, matmul_q8_0_columns
from rwkv_edge.runtime.kernels.panel import new_panels
from rwkv_edge.runtime.kernels.wkv7 import wkv7_step
from tests.runtime.kernels.test_matmul import pack

KERNELS = {"Q4_0": matmul_q4_0, "Q8_0": matmul_q8_0}
BY_COLUMNS = {"Q4_0": matmul_q4_0_columns, "Q8_0": matmul_q8_0_columns}
# Tokens: one full tile of AMX, and five more.
N_ROWS, N_COLUMNS, N_TOKENS, HEAD_SIZE = 48, 192, 21, 64


def whole_numbers(lowest: int, highest: int, shape: tuple[int, int]) -> np.ndarray:
    """Whole numbers whose blocks all have the largest magnitude, so that every scale is 1."""
    numbers = np.random.default_rng(5).integers(lowest, highest + 1, shape).astype(np.float32)
    numbers[:, ::32] = lowest
    return numbers


def outputs() -> dict[str, np.ndarray]:
    """Arrays by name. Products are of whole numbers with scales of 1: they must be equal."""
    x = new_activations(1, N_TOKENS, N_COLUMNS)
    x.values[0] = whole_numbers(-127, 127, (N_TOKENS, N_COLUMNS))
    x = Activations(*(array[0] for array in x))
    quantize_rows(x, N_TOKENS, 0, N_COLUMNS)
    active = new_active_columns(1, N_COLUMNS)
    list_active(x.codes[0], active, 0, 0, N_COLUMNS)
    panel = new_panels(1)[0]
    found = {}
    for quant_format, lowest, highest in ((Q4_0, -8, 7), (Q8_0, -127, 127)):
        name = quant_format.__name__
        weights = whole_numbers(lowest, highest, (N_ROWS, N_COLUMNS))
        for by_columns, kernel in ((False, KERNELS[name]), (True, BY_COLUMNS[name])):
            packed = pack(weights, quant_format, by_columns=by_columns)
            n_rows = int(packed.matrix[0]["n_rows"])
            for n_tokens in (1, N_TOKENS):
                y = np.full((n_tokens, n_rows), np.nan, np.float32)
                operands = (packed.weights, packed.matrix[0], x, active, n_tokens, y)
                kernel(*operands, 0, n_rows, panel)
                layout = " by columns" if by_columns else ""
                found[f"product {name}{layout}, {n_tokens} tokens"] = y
    found |= quantized() | recurrence()
    return found


def quantized() -> dict[str, np.ndarray]:
    values = np.random.default_rng(6).standard_normal(N_COLUMNS).astype(np.float32)
    codes = np.zeros(N_COLUMNS, np.int8)
    scales, sums = np.zeros(N_COLUMNS // 32, np.float32), np.zeros(N_COLUMNS // 32, np.int32)
    quantize(values, codes, scales, sums, 0, N_COLUMNS)
    return {"codes": codes, "scales": scales, "sums": sums}


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
