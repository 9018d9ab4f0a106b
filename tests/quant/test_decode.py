"""Decoding is bit-equal to gguf-py's and to ggml's own, for any bytes with finite scales."""

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType, quants

from rwkv_edge.errors import UnsupportedModelError
from rwkv_edge.quant import QUANT_FORMATS, QuantFormat
from tests import ggml

N_ROWS, N_COLUMNS = 60, 1024


def random_blocks(quant: type[QuantFormat], seed: int) -> npt.NDArray[np.uint8]:
    """(rows, bytes of a row): every code and every scale occurs; float16 fields are finite."""
    random = np.random.default_rng(seed)
    raw = random.integers(0, 256, (N_ROWS, quant.row_bytes(N_COLUMNS)), np.uint8)
    blocks = quant.blocks(raw, N_COLUMNS)
    for name in ("scale", "least"):
        if quant.block.names is not None and name in quant.block.names:
            values = random.standard_normal(blocks.shape).astype(np.float16)
            # float16 denormals and zeros too.
            values[::7] *= np.float16(1e-5)
            values[::11] = 0
            blocks[name] = values.view(np.uint16)
    if quant.__name__ in ("F32", "F16", "BF16"):
        weights = random.standard_normal((N_ROWS, N_COLUMNS), np.float32)
        return quant.encode(weights)
    return raw


@pytest.mark.parametrize("quant", QUANT_FORMATS.values(), ids=QUANT_FORMATS)
def test_decode_is_bit_equal_to_gguf_py(quant: type[QuantFormat]) -> None:
    raw = random_blocks(quant, seed=1)
    expected = quants.dequantize(raw, GGMLQuantizationType(quant.ggml_type))
    found = quant.decode(raw, N_COLUMNS)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("name", [n for n, q in QUANT_FORMATS.items() if q.block_len > 1])
def test_decode_is_bit_equal_to_ggml(name: str) -> None:
    quant = QUANT_FORMATS[name]
    raw = random_blocks(quant, seed=2)
    expected = ggml.decode(quant, raw, N_COLUMNS)
    found = quant.decode(raw, N_COLUMNS)
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("name", [n for n, q in QUANT_FORMATS.items() if q.block_len > 1])
def test_decode_gives_what_ggml_encoded(name: str) -> None:
    quant = QUANT_FORMATS[name]
    weights = np.random.default_rng(3).standard_normal((16, N_COLUMNS), np.float32)
    error = quant.decode(ggml.encode(quant, weights), N_COLUMNS) - weights
    # Two bits a weight leave a third of a normal distribution; eight a two-hundredth.
    assert 0 < np.sqrt(np.mean(error**2)) < 0.4


def test_a_format_that_is_not_written_says_so() -> None:
    unwritten = [quant for quant in QUANT_FORMATS.values() if not quant.is_writable()]
    for quant in unwritten:
        with pytest.raises(UnsupportedModelError, match=f"{quant.__name__} is read here"):
            quant.encode(np.zeros((1, N_COLUMNS), np.float32))
