import numpy as np
import pytest

from rwkv_edge.jit import kernel
from rwkv_edge.quant.packed_bits import IQ4_VALUES
from rwkv_edge.runtime.kernels import codes
from rwkv_edge.runtime.kernels.panel import store_codes
from rwkv_edge.runtime.simd.dot_products import multiplies_unsigned

N_BYTES = 8 * 64


@kernel
def round_nibbles(w, packed, out):
    codes.pack_nibbles(packed, 0, codes.unpack_bytes(w, 0))
    store_codes(out, 0, codes.unpack_nibbles(packed, 0))


@kernel
def round_five_bits(w, packed, out):
    codes.pack_five_bits(packed, 0, codes.unpack_bytes(w, 0))
    store_codes(out, 0, codes.unpack_five_bits(packed, 0))


@kernel
def round_six_bits(w, packed, out):
    codes.pack_six_bits(packed, 0, codes.unpack_bytes(w, 0))
    store_codes(out, 0, codes.unpack_six_bits(packed, 0))


@kernel
def round_two_bits(w, packed, out):
    codes.pack_two_bits(packed, 0, codes.unpack_bytes(w, 0))
    store_codes(out, 0, codes.unpack_two_bits(packed, 0))


@kernel
def round_three_bits(w, packed, out):
    codes.pack_three_bits(packed, 0, codes.unpack_bytes(w, 0))
    store_codes(out, 0, codes.unpack_three_bits(packed, 0))


@pytest.mark.parametrize(
    ("there_and_back", "n_bits"),
    [
        (round_two_bits, 2),
        (round_three_bits, 3),
        (round_nibbles, 4),
        (round_five_bits, 5),
        (round_six_bits, 6),
    ],
)
def test_unpacking_undoes_packing(there_and_back, n_bits):
    w = np.random.default_rng(n_bits).integers(0, 1 << n_bits, N_BYTES).astype(np.uint8)
    packed, out = np.full(N_BYTES, 0xA5, np.uint8), np.empty(N_BYTES, np.uint8)
    there_and_back(w, packed, out)
    np.testing.assert_array_equal(out, w)
    # Not a byte more is written than it has to take.
    assert np.all(packed[n_bits * 64 :] == 0xA5)


@kernel
def iq4_bytes(packed, out):
    store_codes(out, 0, codes.unpack_iq4(packed, 0))


def test_iq4_codes_become_what_the_dot_product_takes_for_their_values():
    packed = np.random.default_rng(1).integers(0, 256, codes.FOUR_BITS).astype(np.uint8)
    out = np.empty(N_BYTES, np.uint8)
    iq4_bytes(packed, out)
    expected = IQ4_VALUES[np.concatenate([packed & 15, packed >> 4])].astype(int)
    offset = 128 if multiplies_unsigned() else 0
    np.testing.assert_array_equal(out.astype(np.uint8), (expected + offset).astype(np.uint8))
