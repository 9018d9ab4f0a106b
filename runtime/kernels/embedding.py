"""One row of the embedding, decoded from the mapped file: it is never loaded as a whole.

Each format has a kernel of its own, reached through its address. Their numbers are those of the
format's `decode`, to the bit: every operation is rounded on its own.
"""

from typing import Any

from numba import types

from rwkv_edge.errors import UnsupportedModelError
from rwkv_edge.jit import kernel
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
from rwkv_edge.runtime.kernels.decode_blocks import (
    decode_row_iq4_nl,
    decode_row_q4_0,
    decode_row_q4_1,
    decode_row_q5_0,
    decode_row_q5_1,
    decode_row_q8_0,
)
from rwkv_edge.runtime.kernels.decode_super_blocks import (
    decode_row_iq4_xs,
    decode_row_q2_k,
    decode_row_q3_k,
    decode_row_q4_k,
    decode_row_q5_k,
    decode_row_q6_k,
)
from rwkv_edge.runtime.simd.calls import address_of, array_of, call_through_address
from rwkv_edge.runtime.simd.memory import (
    load_bf16x16,
    load_bytes_f32x16,
    load_f16x16,
    store_f32x16,
)


@kernel
def decode_row_f32(raw, out, n_columns):
    """A row of float32."""
    for j in range(0, n_columns, 16):
        store_f32x16(out, j, load_bytes_f32x16(raw, 4 * j))


@kernel
def decode_row_f16(raw, out, n_columns):
    """A row of IEEE halves."""
    for j in range(0, n_columns, 16):
        store_f32x16(out, j, load_f16x16(raw, 2 * j))


@kernel
def decode_row_bf16(raw, out, n_columns):
    """A row of bfloat16."""
    for j in range(0, n_columns, 16):
        store_f32x16(out, j, load_bf16x16(raw, 2 * j))


ROW_DECODERS: dict[type[QuantFormat], Any] = {
    F32: decode_row_f32,
    F16: decode_row_f16,
    BF16: decode_row_bf16,
    Q4_0: decode_row_q4_0,
    Q8_0: decode_row_q8_0,
    Q4_1: decode_row_q4_1,
    Q5_0: decode_row_q5_0,
    Q5_1: decode_row_q5_1,
    IQ4_NL: decode_row_iq4_nl,
    Q2_K: decode_row_q2_k,
    Q3_K: decode_row_q3_k,
    Q4_K: decode_row_q4_k,
    Q5_K: decode_row_q5_k,
    Q6_K: decode_row_q6_k,
    IQ4_XS: decode_row_iq4_xs,
}
# Those of all of them: a row's bytes, which are not written; float32, overwritten; columns.
ARGUMENTS: tuple[types.Type, ...] = (
    types.Array(types.uint8, 1, "C", readonly=True),
    array_of(types.float32, 1),
    types.intp,
)
call_decoder = call_through_address(ARGUMENTS)


def row_decoder(quant_format: type[QuantFormat]) -> int:
    """The address of the kernel that `decode_row` calls; compiles it where no one has."""
    found = ROW_DECODERS.get(quant_format)
    if found is None:
        raise UnsupportedModelError(
            f"the numba backend cannot decode {quant_format.__name__}; "
            "convert the original checkpoint again, or use --backend reference"
        )
    return address_of(found, ARGUMENTS)


@kernel
def decode_row(raw, decoder, out, n_columns):
    """Decode one row of a GGUF tensor. raw: its bytes; decoder: an address of `row_decoder`.

    out: float32, overwritten. n_columns is a multiple of 16, and of a block of the format.
    """
    call_decoder(decoder, (raw, out, n_columns))
