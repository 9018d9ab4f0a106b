"""Encoders that search: their error beside ggml's, fixed bytes, and weights that are no weights."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType, quants

from rwkv_edge.builtin import checkpoint_path
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.errors import FormatError
from rwkv_edge.quant import QUANT_FORMATS, QuantFormat
from tests import ggml
from tests.quant.test_formats import WEIGHTS
from tests.trained import trained_checkpoint

Weights = npt.NDArray[np.float32]
SEARCHED = [
    QUANT_FORMATS[name]
    for name in (
        "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"
    )
]  # fmt: skip
N_COLUMNS = 1024
SHAPE = (24, N_COLUMNS)


def name_of(quant: type[QuantFormat]) -> str:
    return quant.__name__


def with_outliers(random: np.random.Generator) -> Weights:
    x = random.standard_normal(SHAPE)
    x.reshape(-1, 256)[:, 77] *= 1000
    return x.astype(np.float32)


def sparse(random: np.random.Generator) -> Weights:
    return (random.standard_normal(SHAPE) * (random.random(SHAPE) < 0.1)).astype(np.float32)


def offset(random: np.random.Generator) -> Weights:
    return (5 + random.standard_normal(SHAPE)).astype(np.float32)


def builtin(random: np.random.Generator) -> Weights:
    del random
    with open_checkpoint(checkpoint_path()) as checkpoint:
        return checkpoint.read("blocks.1.ffn.key.weight").reshape(-1, N_COLUMNS)[: SHAPE[0]]


def trained(random: np.random.Generator) -> Weights:
    del random
    with open_checkpoint(trained_checkpoint("tiny-rwkv-7v0-834K.pth")) as checkpoint:
        return checkpoint.read("blocks.1.ffn.value.weight").reshape(-1, N_COLUMNS)[: SHAPE[0]]


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator], Weights]] = {
    "normal": lambda random: random.standard_normal(SHAPE, np.float32),
    "Student t, 3 degrees of freedom": lambda r: r.standard_t(3, SHAPE).astype(np.float32),
    "Laplace": lambda random: random.laplace(size=SHAPE).astype(np.float32),
    "uniform": lambda random: random.uniform(-1, 1, SHAPE).astype(np.float32),
    "one of ten not zero": sparse,
    "an outlier in each block": with_outliers,
    "far from zero": offset,
    "the built-in model": builtin,
    "a trained model": trained,
}


def rms_error(quant: type[QuantFormat], raw: npt.NDArray[np.uint8], x: Weights) -> float:
    error = quant.decode(raw, x.shape[1]).astype(np.float64) - x
    return float(np.sqrt(np.mean(error**2)))


@pytest.mark.parametrize("case", DISTRIBUTIONS)
@pytest.mark.parametrize("quant", SEARCHED, ids=name_of)
def test_the_error_is_no_larger_than_ggmls(quant: type[QuantFormat], case: str) -> None:
    x = np.ascontiguousarray(DISTRIBUTIONS[case](np.random.default_rng(4)))
    ours = rms_error(quant, quant.encode(x), x)
    assert 0 < ours <= rms_error(quant, ggml.encode(quant, x), x)


# The largest code, or value that it stands for, times the largest scale of a part.
MOST_UNITS = {
    "Q4_1": 15, "Q5_0": 16, "Q5_1": 31, "Q2_K": 3 * 15, "Q3_K": 4 * 32, "Q4_K": 15 * 63,
    "Q5_K": 31 * 63, "Q6_K": 32 * 128, "IQ4_NL": 127, "IQ4_XS": 127 * 32,
}  # fmt: skip


@pytest.mark.parametrize(
    "value", [1.0, -1.0, 0.0123, -3000.0, 1e-6, -1e-6, 1e-9, -1e-30, 1e-40, 0.0, -0.0]
)
@pytest.mark.parametrize("quant", SEARCHED, ids=name_of)
def test_blocks_of_equal_weights_are_no_worse_than_ggmls(
    quant: type[QuantFormat], value: float
) -> None:
    x = np.full((2, 512), value, np.float32)
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        raw = quant.encode(x)
    assert np.isfinite(quant.decode(raw, 512)).all()
    # Only the rounding of the scale to float16 is left, which is luck: 11 places of it, or 2^-25
    # where it is a denormal, times the codes and scales that a weight has at most.
    luck = abs(value) * 2.0**-11 + 2.0**-25 * MOST_UNITS[quant.__name__]
    assert rms_error(quant, raw, x) <= max(rms_error(quant, ggml.encode(quant, x), x), luck)


@pytest.mark.parametrize("quant", SEARCHED, ids=name_of)
def test_weights_too_small_for_a_scale_decode_to_zero(quant: type[QuantFormat]) -> None:
    x = np.random.default_rng(0).uniform(-1e-12, 1e-12, (3, 512)).astype(np.float32)
    x[1] *= np.float32(1e-30)
    x[2, 5::7] = 0
    with np.errstate(divide="raise", over="raise", invalid="raise"):
        raw = quant.encode(x)
    assert not quant.decode(raw, 512).any()


@pytest.mark.parametrize("case", WEIGHTS)
@pytest.mark.parametrize("quant", SEARCHED, ids=name_of)
def test_whatever_can_be_stored_decodes_to_finite_weights(
    quant: type[QuantFormat], case: str
) -> None:
    x = np.resize(WEIGHTS[case], (WEIGHTS[case].size // 256 + 1, 256))
    blocks = quant.blocks(quant.encode(x), 256)
    scale = blocks["scale"].view(np.float16)
    if case == "huge":
        assert np.isinf(scale).all()
    else:
        assert np.isfinite(quant.decode(quant.encode(x), 256)).all()
        # A zero has no sign, so that equal weights have equal bytes.
        assert not np.signbit(scale[scale == 0]).any()


@pytest.mark.parametrize("quant", SEARCHED, ids=name_of)
@pytest.mark.parametrize("n_columns", [1, 31, 48, 255])
def test_a_row_of_part_of_a_block_is_refused(quant: type[QuantFormat], n_columns: int) -> None:
    with pytest.raises(FormatError, match=f"multiple of {quant.block_len}"):
        quant.encode(np.zeros((2, n_columns), np.float32))


# One block of each, its weights from -1 to 1 in a curve: what it is stored as.
BLOCKS = {
    "Q4_1": "6830b8bb707597d747687c7386b727687a717597",
    "Q5_0": "ec2b789ecff3000b4fd090f30b072e9050d107031c50",
    "Q5_1": "9e2b06bc7c9ecff3101b50f1a1f41c183fa161e218132d60",
    "Q2_K": (
        "dccbaa7b7ceecbaa7a7bedcbbb8b7b6bd8195e92a6ba8bd8195e92a6ba8bd8196ea2a6b697e4296ea2b6"
        "8697e4296ea265794a9be82d6d65794a9be82d6165794a9bd81d5165794a9bd81d5165794a9bbd28412c"
    ),
    "Q3_K": (
        "def6a72d79fbffdef6a72d79fbdfdef6e56f7bfbdf9eb4e56f7bffdf9eb4e56f9107cc043c00618107cc"
        "043c00618107c00c341153c00fc00c343153c00fc00c1c3003f003c54c1c3003f003c5441c3033d10289"
        "003c1033d00288003c103390116e0cb1e54f2c5f3cfcc0c357a1"
    ),
    "Q4_K": (
        "67181824afeebaadbfecfd764ccf1efc7096d90a5a7b7e7197d91a5a7b7e7197e91a5a7b7f7297ea2a6a"
        "7b7f83a8fa2ad70868889a9fa4e70868889a9fa5e71868989b9fa5f72878989b90b5f72878994666787d"
        "80a4e64666787e80a5065676797e81a5065677797f81a5165677797f595d6085d80848595d6186e80848"
        "5a5e6186e818485a5e6296f818485a5f6296"
    ),
    "Q5_K": (
        "36140b24eeefbfb1bfebfdb960ec2e1e484233bded6d69484233bded6d49484233bded6d49484233bded"
        "6949484333bde01da305a5d7ede12eb415a5e7eef32fc425b5e8eff43fd435b5e8eff530e445ad0fcf10"
        "232c48bd2fcf10242d49cd3fdf10242e59de4fef1025205aee5fef109ced00091059fcacfd010a11690c"
        "acfd010c127a1cbcfd020d237a2cbcfd020eb3bbc00bb00181b4bcc11cc01181b4bdc31cd02191b5bec4"
        "2df03191b5bfd53d"
    ),
    "Q6_K": (
        "44060ee060220b46070ee05003ec38080ee05015c231060ed040e5b423070fd0f1075ae1070f4011286c"
        "e3080f50214958e50611709f0866f3051080bf2774f2504f0762eb0811606f2670f90711708ee7941205"
        "f0803ec6821104f0701ea570120df070324b5f030de060132c50050ee07063de30050ee06044c032060e"
        "e050a8296d529686bae8296d529686aae829615e9a8aabe425615e9abaabe425615ea6b549581beaaea6"
        "b549581beaa2a6b579682baa92968579682bae929685796880a4b16365709eb24e62939ba94f5c769b8c"
    ),
    "IQ4_NL": "04208085a7f8487a8e8397d828698c8185b8",
    "IQ4_XS": (
        "398c3cc3737f0aca70848798d8195c70848798d8195c708518e6a18f8b785808e5a18f8a784808e58978"
        "4807c5918c897848f7b5918c89785d708487a8e8195d708487a8e81a5d805818d5a18e8a785807d5918e"
        "8a784807848798c8195b7f848798c8195b7084870a5e708487b8f81a5e808587b8f81a6f785807c5918d"
        "89784807c5918d897848"
    ),
}


@pytest.mark.parametrize("quant", SEARCHED, ids=name_of)
def test_a_block_has_these_bytes(quant: type[QuantFormat]) -> None:
    steps = np.arange(quant.block_len) * 37 % quant.block_len
    x = (steps / np.float32(quant.block_len / 2) - 1).astype(np.float32)[None] ** 3
    raw = quant.encode(x)
    assert raw.tobytes().hex() == BLOCKS[quant.__name__]
    # gguf-py understands what was meant: weights are at most half a step of two bits away.
    decoded = quants.dequantize(raw, GGMLQuantizationType(quant.ggml_type))
    assert np.abs(decoded - x).max() < 0.5


@pytest.mark.parametrize("quant", SEARCHED, ids=name_of)
def test_what_was_decoded_encodes_to_nearly_the_same_weights(quant: type[QuantFormat]) -> None:
    """Scales of scales are searched for, and those found may be others: up to 0.14 measured."""
    x = np.random.default_rng(5).standard_normal((8, 512), np.float32)
    once = quant.decode(quant.encode(x), 512)
    again = quant.decode(quant.encode(once), 512)
    loss = np.sqrt(np.mean((once - x) ** 2))
    assert np.sqrt(np.mean((again - once) ** 2)) < 0.2 * loss
