"""Every weight type as an ONNX file stores it: its numbers and products are those of the GGUF."""

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper

from rwkv_edge.arch import Role, TensorSpec
from rwkv_edge.converters.gguf_file import PlannedTensor
from rwkv_edge.converters.onnx.graph import CONTRIB, Graph, Value
from rwkv_edge.converters.onnx.stored_weights import (
    EMBEDDING,
    STORED,
    initializers_of,
    split_blocks,
)
from rwkv_edge.quant import F32, Q4_0, Q8_0
from tests.onnx_models import session_of

FORMATS = list(STORED)
BLOCKS = [Q4_0, Q8_0]
# Rows of matrices of any kind; 1 and odd numbers of them, one block and several.
SHAPES = [(1, 32), (7, 32), (33, 96), (64, 320)]


def random_blocks(quant, n_rows, n_columns):
    """Any codes there are, scales of both signs, and one block of zeros."""
    random = np.random.default_rng(n_rows * n_columns)
    if quant not in BLOCKS:
        return quant.encode(random.standard_normal((n_rows, n_columns)).astype(np.float32))
    raw = random.integers(0, 256, (n_rows, quant.row_bytes(n_columns)), np.uint8)
    blocks = raw.view(quant.block)
    scales = random.standard_normal(blocks.shape).astype(np.float16)
    scales[-1, -1] = 0
    blocks["scale"] = scales.view(np.uint16)
    # ggml writes no other: the code -128 has no opposite.
    if quant is Q8_0:
        blocks["codes"] = np.maximum(blocks["codes"], -127)
    return raw


def planned(quant, n_rows, n_columns, name="w.weight", role=Role.MATRIX):
    return PlannedTensor(TensorSpec(name, (n_rows, n_columns), role), quant)


def tensors_of(tensor, raw):
    """The initializers with their bytes."""
    parts = split_blocks(tensor.quant, raw.reshape(-1))
    for initializer, part in zip(initializers_of(tensor), parts, strict=True):
        assert part.nbytes == initializer.n_bytes
        yield helper.make_tensor(
            initializer.name, initializer.data_type, initializer.shape, part.tobytes(), raw=True
        )


def run(graph, result, weights, inputs):
    graph.output(result, "y", None)
    proto = graph.proto("test")
    proto.initializer.extend(weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(CONTRIB, 1)]
    model = helper.make_model(proto, opset_imports=opsets, ir_version=10)
    return session_of(model).run(None, inputs)[0]


def exact_in_8_bits(n_tokens, n_columns):
    """Activations that lose nothing when they are rounded to 8 bits: whole numbers up to 127."""
    x = np.random.default_rng(n_tokens).integers(-127, 128, (n_tokens, n_columns))
    x[:, ::32] = 127
    return x.astype(np.float32)


@pytest.mark.parametrize("is_table", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("quant", BLOCKS)
def test_codes_and_scales_are_the_decoded_weights(quant, shape, is_table):
    """As onnxruntime documents its operators: low bits first, half of the codes below zero."""
    raw = random_blocks(quant, *shape)
    tensor = planned(quant, *shape, EMBEDDING if is_table else "w.weight")
    codes, scales = (
        np.frombuffer(t.raw_data, dtype).reshape(t.dims)
        for t, dtype in zip(tensors_of(tensor, raw), (np.uint8, np.float32), strict=True)
    )
    n_blocks = shape[1] // 32
    assert scales.shape == (shape[0], n_blocks)
    n_bytes = 16 if quant is Q4_0 else 32
    assert codes.shape == (shape[0], *((n_blocks * n_bytes,) if is_table else (n_blocks, n_bytes)))
    codes = codes.reshape(shape[0], n_blocks, n_bytes)
    if quant is Q4_0:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(shape[0], n_blocks, 32)
    weights = (codes.astype(np.float32) - (8 if quant is Q4_0 else 128)) * scales[..., None]
    np.testing.assert_array_equal(weights.reshape(shape), quant.decode(raw, shape[1]))


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("n_tokens", [1, 2, 37])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("quant", FORMATS)
def test_a_product_is_that_of_the_decoded_weights(quant, shape, n_tokens, has_bias):
    raw = random_blocks(quant, *shape)
    tensor = planned(quant, *shape)
    x = exact_in_8_bits(n_tokens, shape[1])
    bias = np.linspace(-50, 50, shape[0], dtype=np.float32)
    graph = Graph()
    result = STORED[quant].product(
        graph, graph.input("x", ["T", shape[1]]), tensor, graph.value(bias) if has_bias else None
    )
    found = run(graph, result, tensors_of(tensor, raw), {"x": x})
    weights = quant.decode(raw, shape[1]).astype(np.float64)
    wanted = x @ weights.T + (bias if has_bias else 0)
    # Of the sum of magnitudes: float32 sums in another order.
    bound = 1e-6 * (np.abs(x) @ np.abs(weights.T) + 50)
    assert found.dtype == np.float32
    assert (np.abs(found - wanted) <= bound).all()


@pytest.mark.parametrize("role", [Role.MATRIX, Role.TABLE])
@pytest.mark.parametrize("shape", [(1, 32), (7, 96), (64, 1024)])
@pytest.mark.parametrize("quant", FORMATS)
def test_rows_are_the_decoded_ones(quant, shape, role):
    raw = random_blocks(quant, *shape)
    name = EMBEDDING if role is Role.MATRIX else "blk.0.channel_mix_s_emb.weight"
    tensor = planned(quant, *shape, name, role)
    indices = np.random.default_rng(1).integers(0, shape[0], 20)
    graph = Graph()
    tokens = graph.input("tokens", ["T"], TensorProto.INT64)
    result = STORED[quant].rows(graph, tokens, tensor)
    found = run(graph, result, tensors_of(tensor, raw), {"tokens": indices})
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, quant.decode(raw, shape[1])[indices])


@pytest.mark.parametrize("quant", FORMATS)
def test_parts_of_a_tensor_split_as_the_whole_does(quant):
    """A conversion writes them one behind the other."""
    raw = random_blocks(quant, 33, 96)
    whole = split_blocks(quant, raw.reshape(-1))
    parts = [split_blocks(quant, rows.reshape(-1)) for rows in (raw[:5], raw[5:6], raw[6:])]
    for i, part in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([p[i] for p in parts]), part)


def test_plain_floats_keep_every_shape():
    """Low-rank matrices of RWKV-6 have three dimensions."""
    spec = TensorSpec("w", (5, 8, 3), Role.LORA)
    [initializer] = initializers_of(PlannedTensor(spec, F32))
    assert (initializer.name, initializer.shape) == ("w", (5, 8, 3))
    graph = Graph()
    raw = F32.encode(np.arange(120, dtype=np.float32).reshape(40, 3))
    weights = tensors_of(PlannedTensor(spec, F32), raw)
    found = run(graph, Value(graph, "w") * 1.0, weights, {})
    np.testing.assert_array_equal(found, np.arange(120).reshape(5, 8, 3))
