"""One row of the embedding, decoded from the mapped file: it is never loaded as a whole."""

import numpy as np

from rwkv_edge.jit import kernel
from rwkv_edge.quant import Q4_0 as Q4_0_FORMAT
from rwkv_edge.quant import Q8_0 as Q8_0_FORMAT
from rwkv_edge.quant.q4_0 import ZERO_CODE
from rwkv_edge.runtime.kernels.matmul import BF16, F16, F32, Q8_0
from rwkv_edge.runtime.simd.arithmetic import f16_to_f32
from rwkv_edge.runtime.simd.memory import (
    load_bf16x16,
    load_bytes_f32x16,
    load_f16x16,
    store_f32x16,
)

BLOCK = 32
SCALE_BYTES = 2
Q8_0_BYTES = Q8_0_FORMAT.block.itemsize
Q4_0_BYTES = Q4_0_FORMAT.block.itemsize


@kernel
def read_f16(raw, p):
    """The half at byte p, as float32."""
    return f16_to_f32(np.uint16(raw[p] | raw[p + 1] << 8))


@kernel
def decode_row(raw, row_format, out, n_columns):
    """Decode one row of a GGUF tensor. raw: its bytes; out: float32, overwritten.

    n_columns is a multiple of 16, and of 32 for block formats.
    """
    if row_format == F32:
        for j in range(0, n_columns, 16):
            store_f32x16(out, j, load_bytes_f32x16(raw, 4 * j))
    elif row_format == F16:
        for j in range(0, n_columns, 16):
            store_f32x16(out, j, load_f16x16(raw, 2 * j))
    elif row_format == BF16:
        for j in range(0, n_columns, 16):
            store_f32x16(out, j, load_bf16x16(raw, 2 * j))
    elif row_format == Q8_0:
        for block in range(n_columns // BLOCK):
            p = block * Q8_0_BYTES
            scale = read_f16(raw, p)
            for j in range(BLOCK):
                out[block * BLOCK + j] = scale * np.float32(np.int8(raw[p + SCALE_BYTES + j]))
    else:
        for block in range(n_columns // BLOCK):
            p = block * Q4_0_BYTES
            scale = read_f16(raw, p)
            for j in range(BLOCK // 2):
                code = np.int32(raw[p + SCALE_BYTES + j])
                low, high = (code & 15) - ZERO_CODE, (code >> 4) - ZERO_CODE
                out[block * BLOCK + j] = scale * np.float32(low)
                out[block * BLOCK + BLOCK // 2 + j] = scale * np.float32(high)
