"""The formats that are plain numbers: one weight is one block."""

import numpy as np

from rwkv_edge.quant.base import Bytes, Float32Array, QuantFormat


class F32(QuantFormat):
    """IEEE single precision."""

    block = np.dtype("<f4")
    block_len = 1
    ggml_type = 0

    @classmethod
    def encode(cls, weights: Float32Array) -> Bytes:
        """The bytes of the array itself."""
        return np.ascontiguousarray(weights, cls.block).view(np.uint8)

    @classmethod
    def decode(cls, raw: Bytes, n_columns: int) -> Float32Array:
        """A view where alignment allows."""
        return cls.blocks(raw, n_columns).astype(np.float32, copy=False)


class F16(QuantFormat):
    """IEEE half precision, round to nearest even."""

    block = np.dtype("<f2")
    block_len = 1
    ggml_type = 1

    @classmethod
    def encode(cls, weights: Float32Array) -> Bytes:
        """Values past 65504 become infinite, which converters check for."""
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(weights.astype(cls.block)).view(np.uint8)

    @classmethod
    def decode(cls, raw: Bytes, n_columns: int) -> Float32Array:
        """Exact."""
        return cls.blocks(raw, n_columns).astype(np.float32)


class BF16(QuantFormat):
    """The upper half of a float32, round to nearest even. numpy has no such type: use the bits."""

    block = np.dtype("<u2")
    block_len = 1
    ggml_type = 30

    @classmethod
    def encode(cls, weights: Float32Array) -> Bytes:
        """Rounding works on the bits: add half of the last place kept, with ties to even."""
        bits = np.ascontiguousarray(weights, np.float32).view(np.uint32)
        rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
        # Rounding could carry a NaN's payload into infinity: keep it a quiet NaN.
        quiet = (bits >> 16) | 0x40
        upper = np.where(np.isnan(weights), quiet, rounded)
        return np.ascontiguousarray(upper.astype(cls.block)).view(np.uint8)

    @classmethod
    def decode(cls, raw: Bytes, n_columns: int) -> Float32Array:
        """Exact."""
        return (cls.blocks(raw, n_columns).astype(np.uint32) << 16).view(np.float32)
