import numpy as np
import pytest

from rwkv_edge.quant import BF16, F16, F32, Q4_0, Q8_0
from rwkv_edge.runtime.arena import packed_format
from rwkv_edge.runtime.kernels.embedding import decode_row


@pytest.mark.parametrize("quant_format", [F32, F16, BF16, Q8_0, Q4_0])
def test_decode_row_equals_the_format_s_own_decoding(quant_format):
    weights = np.random.default_rng(5).standard_normal((3, 96)).astype(np.float32)
    raw = quant_format.encode(weights)
    out = np.empty(96, np.float32)
    decode_row(raw[1], int(packed_format(quant_format)), out, 96)
    np.testing.assert_array_equal(out, quant_format.decode(raw, 96)[1])
