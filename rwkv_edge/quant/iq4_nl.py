"""IQ4_NL: four bits a weight, for values that lie closer together near zero."""

import numpy as np

from rwkv_edge.quant.base import Bytes, Float32Array, QuantFormat, half_of_scale
from rwkv_edge.quant.packed_bits import IQ4_VALUES, halves, nibbles, pack_nibbles
from rwkv_edge.quant.scale_search import ScaledCodes, scaled_blocks, values_of

CODES = ScaledCodes(
    values_of(IQ4_VALUES), targets=(-127.0, -136.0, -118.0, 113.0, 122.0, 135.0), n_fits=1
)


class IQ4_NL(QuantFormat):
    """32 weights share one scale: w = scale * IQ4_VALUES[code]. Source: ggml `block_iq4_nl`.

    Byte j holds weight j in its low half and weight j + 16 in its high half.
    """

    block_len = 32
    # float16 bits: numba on the CPU cannot read a float16 record field.
    block = np.dtype([("scale", "<u2"), ("codes", "u1", (block_len // 2,))])
    ggml_type = 20

    @classmethod
    def encode(cls, weights: Float32Array) -> Bytes:
        """The scale is searched for, see `scale_search`."""
        n_rows, n_columns = weights.shape
        cls.row_bytes(n_columns)
        found = scaled_blocks(weights, CODES, cls.block_len)
        blocks = np.empty(found.scale.shape, cls.block)
        blocks["scale"] = half_of_scale(found.scale)
        blocks["codes"] = pack_nibbles(IQ4_VALUES.searchsorted(found.values).astype(np.uint8))
        return blocks.view(np.uint8).reshape(n_rows, -1)

    @classmethod
    def decode(cls, raw: Bytes, n_columns: int) -> Float32Array:
        """Product of scale and the code's value, in float32."""
        blocks = cls.blocks(raw, n_columns)
        values = IQ4_VALUES[nibbles(blocks["codes"])].astype(np.float32)
        return (halves(blocks["scale"])[..., None] * values).reshape(-1, n_columns)
