"""Matrices of every weight type as the numba backend packs them, and inputs for them."""

from types import SimpleNamespace

import numpy as np

from rwkv_edge.gguf_reader import GgufTensor
from rwkv_edge.quant import BF16, F16, F32
from rwkv_edge.runtime.arena import Arena
from rwkv_edge.runtime.kernels.activations import (
    Activations,
    new_activations,
    padded,
    quantize_rows,
)
from rwkv_edge.runtime.kernels.columns import list_active, list_active_values, new_active_columns
from rwkv_edge.runtime.kernels.matmul import MATRIX, matmul
from rwkv_edge.runtime.kernels.panel import PANEL_TOKENS, new_panels
from rwkv_edge.runtime.team import ThreadTeam

FLOATS = (F32, F16, BF16)
# Rows and columns: one row, ragged rows, one block, an odd number of blocks, larger.
SHAPES = [(1, 32), (15, 64), (33, 96), (64, 32), (129, 160), (256, 1024)]
SUPER_SHAPES = [(1, 256), (15, 512), (33, 256), (129, 768), (256, 1024)]


def shapes_of(quant_format):
    """Shapes whose rows are whole blocks."""
    return SUPER_SHAPES if quant_format.block_len > 32 else SHAPES


def random_rows(quant_format, shape, seed=0):
    """Raw rows in which any code and any scale may occur; halves are finite. Row 0 is zeros."""
    random = np.random.default_rng(seed)
    if quant_format in FLOATS:
        weights = random.standard_normal(shape).astype(np.float32)
        weights[0] = 0
        return quant_format.encode(weights)
    raw = random.integers(0, 256, (shape[0], quant_format.row_bytes(shape[1])), np.uint8)
    blocks = quant_format.blocks(raw, shape[1])
    for name in ("scale", "least"):
        if name in quant_format.block.names:
            values = random.standard_normal(blocks.shape).astype(np.float16)
            values[0] = 0
            blocks[name] = values.view(np.uint16)
    return raw


def pack_rows(raw, quant_format, n_columns, n_threads=1, by_columns=False):
    """An arena with one matrix of these raw rows."""
    tensor = GgufTensor("w", (raw.shape[0], n_columns), quant_format, raw)
    arena = Arena([tensor], sparse_inputs={"w"} if by_columns else ())
    team = ThreadTeam(n_threads)
    try:
        arena.pack(team, release_pages=lambda: None)
    finally:
        team.close()
    matrix = np.array([arena.matrices["w"]], MATRIX)
    return SimpleNamespace(weights=arena.weights, matrix=matrix, raw=raw)


def pack(weights, quant_format, n_threads=1, by_columns=False):
    """The same of float32 weights, for a format that is written."""
    return pack_rows(
        quant_format.encode(weights), quant_format, weights.shape[1], n_threads, by_columns
    )


def inputs(values):
    """Activations, and the numbers that the codes stand for."""
    n_tokens, n_columns = values.shape
    x = new_activations(1, n_tokens, n_columns)
    x.values[0, :, :n_columns] = values
    x = Activations(*(array[0] for array in x))
    quantize_rows(x, n_tokens, 0, padded(n_columns))
    blocks = x.codes.reshape(n_tokens, -1, 32) * x.scales[:, :, None]
    return x, blocks.reshape(n_tokens, -1)[:, :n_columns]


def product(packed, x, n_tokens, first=0, last=None, y=None):
    """(tokens, padded rows): the matrix times x, its columns listed as the channel mix does."""
    matrix = packed.matrix[0]
    n_rows, n_columns = int(matrix["n_rows"]), int(matrix["n_columns"])
    if y is None:
        y = np.full((n_tokens, n_rows), np.nan, np.float32)
    active = new_active_columns(PANEL_TOKENS - 1, n_columns)
    for t in range(min(n_tokens, PANEL_TOKENS - 1)):
        part_len = int(matrix["part_len"])
        if part_len:
            list_active(x.codes[t], active, t, part_len, 0, n_columns // 32 * 32)
        else:
            list_active_values(x.values[t], active, t, 0, n_columns)
    last = n_rows if last is None else last
    matmul(packed.weights, matrix, x, active, n_tokens, y, first, last, new_panels(1)[0])
    return y
