"""ggml's own quantizers, called in the library that llama-cpp-python carries."""

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from rwkv_edge.quant import QuantFormat

Weights = npt.NDArray[np.float32]
Raw = npt.NDArray[np.uint8]
FLOATS = ctypes.POINTER(ctypes.c_float)
# ggml's names of its decoders, where they are not the format's in small letters.
DECODER_SUFFIXES = {name: name[:-1].lower() + "K" for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K")} | {
    "Q6_K": "q6_K"
}


@cache
def library() -> ctypes.CDLL:
    """libggml-base; skips the test where llama-cpp-python is not installed."""
    llama_cpp = pytest.importorskip("llama_cpp")
    folder = Path(llama_cpp.__file__).parent / "lib"
    found = [path for path in folder.iterdir() if path.stem.split(".")[0].endswith("ggml-base")]
    if not found:
        pytest.skip("this llama-cpp-python carries no ggml-base of its own")
    ggml = ctypes.CDLL(str(found[0]))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, FLOATS, ctypes.c_void_p, *[ctypes.c_int64] * 3, FLOATS
    ]  # fmt: skip
    return ggml


def decode(quant: type[QuantFormat], raw: Raw, n_columns: int) -> Weights:
    """Rows of one of ggml's block formats to float32."""
    name = quant.__name__
    row = getattr(library(), f"dequantize_row_{DECODER_SUFFIXES.get(name, name.lower())}")
    out = np.empty((raw.shape[0], n_columns), np.float32)
    raw = np.ascontiguousarray(raw)
    row.argtypes = [ctypes.c_void_p, FLOATS, ctypes.c_int64]
    row(raw.ctypes.data, out.ctypes.data_as(FLOATS), out.size)
    return out


def encode(quant: type[QuantFormat], weights: Weights) -> Raw:
    """Rows of float32 as ggml quantizes them without an importance matrix."""
    weights = np.ascontiguousarray(weights, np.float32)
    n_rows, n_columns = weights.shape
    out = np.empty((n_rows, quant.row_bytes(n_columns)), np.uint8)
    n_bytes = library().ggml_quantize_chunk(
        quant.ggml_type, weights.ctypes.data_as(FLOATS), out.ctypes.data, 0, n_rows, n_columns, None
    )
    assert n_bytes == out.nbytes
    return out
