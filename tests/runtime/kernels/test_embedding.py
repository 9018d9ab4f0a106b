import numpy as np
import pytest

from rwkv_edge.quant import QUANT_FORMATS
from rwkv_edge.runtime.kernels.embedding import decode_row, row_decoder
from tests.runtime.kernels.packed_matrices import random_rows


@pytest.mark.parametrize("quant_format", QUANT_FORMATS.values(), ids=QUANT_FORMATS)
@pytest.mark.parametrize("n_columns", [256, 768])
def test_decode_row_equals_the_format_s_own_decoding_to_the_bit(quant_format, n_columns):
    raw = random_rows(quant_format, (9, n_columns), seed=5)
    expected = quant_format.decode(raw, n_columns)
    for row in range(9):
        out = np.full(n_columns, np.nan, np.float32)
        decode_row(raw[row], row_decoder(quant_format), out, n_columns)
        np.testing.assert_array_equal(out.view(np.uint32), expected[row].view(np.uint32))
