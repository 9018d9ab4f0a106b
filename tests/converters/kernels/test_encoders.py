"""The kernels write the bytes that `rwkv_edge.quant` defines, and say what they could not write."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkv_edge.converters.kernels.floats import (
    encode_bf16,
    encode_f16,
    largest_magnitude_bits,
    widen_bf16,
    widen_f16,
)
from rwkv_edge.converters.kernels.half import F32_INFINITY
from rwkv_edge.converters.kernels.q4_0 import encode_q4_0
from rwkv_edge.converters.kernels.q8_0 import encode_q8_0
from rwkv_edge.converters.row_encoder import ENCODERS as ALL_ENCODERS
from rwkv_edge.quant import BF16, F16, F32, Q4_0, Q8_0, QUANT_FORMATS, QuantFormat
from tests.quant.test_formats import WEIGHTS

Weights = npt.NDArray[np.float32]
Encoder = Callable[..., bool]
ENCODERS = [
    pytest.param(Q4_0, encode_q4_0, np.uint8, id="Q4_0"),
    pytest.param(Q8_0, encode_q8_0, np.uint8, id="Q8_0"),
    pytest.param(F16, encode_f16, np.uint16, id="F16"),
    pytest.param(BF16, encode_bf16, np.uint16, id="BF16"),
]
SEARCHING = [
    pytest.param(quant, *encoder, id=quant.__name__)
    for quant, encoder in ALL_ENCODERS.items()
    if quant not in (F32, F16, BF16, Q4_0, Q8_0)
]
# The largest weight that each can store: 8 or 127 times the largest float16, and so on.
LARGEST = {Q4_0: 8 * 65519.0, Q8_0: 127 * 65519.0, F16: 65519.0, BF16: 3.38e38}


def run(encode: Encoder, quant: type[QuantFormat], dtype: npt.DTypeLike, x: Weights) -> bytes:
    out = np.full(x.shape[0] * quant.row_bytes(x.shape[1]), 0xAA, np.uint8)
    assert encode(x.reshape(-1), out.view(dtype))
    return out.tobytes()


def interesting(seed: int) -> Weights:
    """Rows of every magnitude, ties, zeros and denormals, as training leaves them or worse."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((97, 96), np.float32)
    x[:20] *= np.float32(10) ** random.uniform(-42, 4, (20, 1)).astype(np.float32)
    x[20:40] = random.integers(-8, 9, (20, 96)) / np.float32(8)
    x[40:60] = random.integers(-254, 255, (20, 96)) / np.float32(254)
    x[60:70] = 0
    x[70:80] = (x[70:80].view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    x[80:90, ::32] = 127
    x[80:90, 1::32] = np.nextafter(np.float32(0.5), np.float32(0))
    return x


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("quant", "encode", "dtype"), ENCODERS)
def test_kernel_gives_the_bytes_of_numpy(
    quant: type[QuantFormat], encode: Encoder, dtype: npt.DTypeLike, seed: int
) -> None:
    x = interesting(seed)
    assert run(encode, quant, dtype, x) == quant.encode(x).tobytes()


@pytest.mark.parametrize(("quant", "encode", "dtype"), ENCODERS[:2])
def test_a_fused_multiply_add_would_be_seen(
    quant: type[QuantFormat], encode: Encoder, dtype: npt.DTypeLike
) -> None:
    """Codes half way between two: the product must be rounded before the half is added."""
    random = np.random.default_rng(0)
    largest = (random.integers(1, 1 << 16, (5000, 1)) / (1 << 16)).astype(np.float32)
    steps = random.integers(-255, 256, (5000, 32)) / np.float32(256)
    steps[:, 0] = 1
    steps[:, 1:16] = random.integers(-15, 16, (5000, 15)) / np.float32(16)
    x = largest * steps.astype(np.float32)
    assert run(encode, quant, dtype, x) == quant.encode(x).tobytes()


def test_every_format_has_an_encoder() -> None:
    assert ALL_ENCODERS.keys() == set(QUANT_FORMATS.values())


def whole_blocks(x: Weights, n_blocks: int) -> Weights:
    """Rows of the longest blocks there are, which x fills again and again."""
    return np.resize(x, (n_blocks, 256))


@pytest.mark.parametrize("case", WEIGHTS)
@pytest.mark.parametrize(("quant", "encode", "dtype"), SEARCHING)
def test_searching_kernel_gives_the_bytes_of_numpy(
    quant: type[QuantFormat], encode: Encoder, dtype: npt.DTypeLike, case: str
) -> None:
    # A number of blocks that fills no group of lanes.
    x = whole_blocks(WEIGHTS[case], 19)
    if case == "huge":
        assert not encode(x.reshape(-1), np.empty(19 * quant.row_bytes(256), np.uint8))
    else:
        assert run(encode, quant, dtype, x) == quant.encode(x).tobytes()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("quant", "encode", "dtype"), SEARCHING)
def test_searching_kernel_gives_the_bytes_of_numpy_for_any_magnitude(
    quant: type[QuantFormat], encode: Encoder, dtype: npt.DTypeLike, seed: int
) -> None:
    for n_blocks in (1, 37):
        x = whole_blocks(interesting(seed), n_blocks)
        assert run(encode, quant, dtype, x) == quant.encode(x).tobytes()
    # Few distinct weights: many ties, and parts of zeros between others.
    x = np.random.default_rng(seed).integers(-3, 4, (40, 256)).astype(np.float32)
    x[::3, 40:90] = 0
    assert run(encode, quant, dtype, x) == quant.encode(x).tobytes()


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(-60000, 60000, width=32), min_size=1, max_size=300))
@pytest.mark.parametrize(("quant", "encode", "dtype"), SEARCHING)
def test_any_block_of_a_searching_kernel_is_numpys(
    quant: type[QuantFormat], encode: Encoder, dtype: npt.DTypeLike, values: list[float]
) -> None:
    x = whole_blocks(np.array(values, np.float32), 2)
    assert run(encode, quant, dtype, x) == quant.encode(x).tobytes()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("quant", "encode", "dtype"), SEARCHING)
def test_a_weight_too_large_for_scales_is_reported(
    quant: type[QuantFormat], encode: Encoder, dtype: npt.DTypeLike, sign: int
) -> None:
    out = np.empty(quant.row_bytes(512), np.uint8)
    x = np.ones((1, 512), np.float32)
    x[0, 300] = sign * 60000
    assert encode(x.reshape(-1), out)
    assert np.isfinite(quant.decode(out, 512)).all()
    # Past the largest float16, times scales of a part up to 128, times codes up to 127.
    for too_large in (65520.0 * 128 * 127, 2.0**40, 1e30, 3.4e38):
        x[0, 300] = sign * too_large
        assert not encode(x.reshape(-1), out)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(-60000, 60000, width=32), min_size=32, max_size=32))
def test_any_block_of_q4_0_and_q8_0_is_numpys(values: list[float]) -> None:
    x = np.array([values], np.float32)
    assert run(encode_q4_0, Q4_0, np.uint8, x) == Q4_0.encode(x).tobytes()
    assert run(encode_q8_0, Q8_0, np.uint8, x) == Q8_0.encode(x).tobytes()


@pytest.mark.parametrize(("quant", "encode", "dtype"), ENCODERS)
def test_a_weight_that_the_format_cannot_hold_is_reported(
    quant: type[QuantFormat], encode: Encoder, dtype: npt.DTypeLike
) -> None:
    x = np.ones((1, 64), np.float32)
    out = np.empty(quant.row_bytes(64), np.uint8).view(dtype)
    for sign in (1, -1):
        x[0, 40] = sign * LARGEST[quant]
        assert encode(x.reshape(-1), out)
        assert np.isfinite(quant.decode(out.view(np.uint8), 64)).all()
        x[0, 40] = sign * LARGEST[quant] * 1.01 if quant is not BF16 else sign * 3.4e38
        assert not encode(x.reshape(-1), out)


def test_widening_float16_is_exact_for_all_of_them() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    out = np.empty(halves.size, np.float32)
    widen_f16(halves, out)
    expected = halves.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(np.signbit(out), np.signbit(expected))


def test_widening_bfloat16_is_exact_for_all_of_them() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    out = np.empty(halves.size, np.float32)
    widen_bf16(halves, out)
    np.testing.assert_array_equal(out.view(np.uint32), halves.astype(np.uint32) << 16)


def test_every_float32_in_steps_rounds_to_the_float16_of_numpy() -> None:
    # 4,099 is prime: the low bits take every value as the high bits go by.
    x = np.arange(0, 1 << 32, 4099, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = x[np.isfinite(x)]
    out = np.empty(x.size, np.uint16)
    encode_f16(x, out)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(out, x.astype(np.float16).view(np.uint16))


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 31, 32, 99])
def test_one_number_that_is_none_is_seen(bad: float, position: int) -> None:
    x = np.full(100, 3e38, np.float32)
    assert largest_magnitude_bits(x) < F32_INFINITY
    x[position] = bad
    assert largest_magnitude_bits(x) >= F32_INFINITY


def test_nothing_is_no_trouble() -> None:
    empty = np.empty(0, np.float32)
    assert largest_magnitude_bits(empty) == 0
    assert encode_q4_0(empty, np.empty(0, np.uint8))
