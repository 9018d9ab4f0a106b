"""ONNX files as the decisions on them say, out of a GGUF, by the onnx package; without nodes.

What lies in them is written here a second time, so that the reader is not held against the writer
of the same project. A graph without nodes cannot run: only headers and weights are right.
"""

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from rwkv_edge.gguf_reader import GgufTensor
from rwkv_edge.model_file import ModelFile
from rwkv_edge.quant import BF16, F16, F32

PLAIN = {F32: (TensorProto.FLOAT, "<f4"), F16: (TensorProto.FLOAT16, "<f2"),
         BF16: (TensorProto.BFLOAT16, "<u2")}  # fmt: skip


def write_onnx(
    path: Path,
    gguf: Path,
    *,
    keys: Mapping[str, Any] | None = None,
    tensors: Mapping[str, TensorProto | None] | None = None,
    values: Mapping[str, tuple[int, list[Any]] | None] | None = None,
    data: str | None = None,
) -> Path:
    """Write the ONNX of a GGUF in F32, F16, BF16, Q8_0 or Q4_0, with something changed.

    keys: metadata to put in place, as values for JSON; tensors: initializers; values: inputs and
    outputs, by name, as element type and dimensions. None takes one out, or adds nothing. data: the
    name of a file for large weights.
    """
    with closing(ModelFile(gguf)) as file:
        made = model_of(file, keys or {}, tensors or {}, values or {})
    if data is not None:
        onnx.save(made, path, save_as_external_data=True, location=data, size_threshold=1024)
    else:
        onnx.save(made, path)
    return path


def model_of(
    file: ModelFile,
    keys: Mapping[str, Any],
    tensors: Mapping[str, TensorProto | None],
    values: Mapping[str, tuple[int, list[Any]] | None],
) -> ModelProto:
    hp = file.hyperparameters
    unread = file.architecture.unread(hp)
    initializers: dict[str, TensorProto | None] = {
        "logits_from": numpy_helper.from_array(np.zeros(1, np.int64), "logits_from")
    }
    for spec in file.architecture.tensors(hp):
        if spec.name not in unread:
            is_table = spec.name == "token_embd.weight" or spec.role.value == "table"
            initializers |= initializers_of(file.tensor(spec.name), is_table)
    state = file.architecture.state_shapes(hp).items()
    inputs: dict[str, tuple[int, list[Any]] | None] = {"tokens": (TensorProto.INT64, ["T"])}
    inputs |= {name: (TensorProto.FLOAT, list(shape)) for name, shape in state}
    inputs["logits_from"] = (TensorProto.INT64, [1])
    outputs: dict[str, tuple[int, list[Any]] | None] = {
        "logits": (TensorProto.FLOAT, ["n", hp.n_vocab])
    }
    outputs |= {f"new_{name}": (TensorProto.FLOAT, list(shape)) for name, shape in state}
    for name, value in values.items():
        (outputs if name in outputs else inputs)[name] = value
    graph = helper.make_graph(
        [],
        "rwkv",
        [helper.make_tensor_value_info(name, *v) for name, v in inputs.items() if v is not None],
        [helper.make_tensor_value_info(name, *v) for name, v in outputs.items() if v is not None],
        [tensor for tensor in {**initializers, **tensors}.values() if tensor is not None],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(
        graph, producer_name="rwkv-edge", producer_version="0", opset_imports=opsets, ir_version=10
    )
    props = {name: plain(value) for name, value in file.metadata.items()}
    props |= {"rwkv_edge.onnx_format": 1, "rwkv_edge.fingerprint": file.fingerprint}
    props |= keys
    texts = {name: json.dumps(value) for name, value in props.items() if value is not None}
    helper.set_model_props(made, texts)
    return made


def plain(value: object) -> object:
    """A GGUF's value as JSON says it."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [item.decode() for item in value] if isinstance(value, list) else value


def initializers_of(tensor: GgufTensor, is_table: bool) -> dict[str, TensorProto]:
    """A tensor's weights; codes and scales of blocks of 32."""
    name, shape, quant = tensor.name, tensor.shape, tensor.quant_format
    if quant in PLAIN:
        data_type, dtype = PLAIN[quant]
        array = np.ascontiguousarray(tensor.raw).view(dtype).reshape(shape)
        return {name: raw_tensor(name, data_type, array)}
    blocks = quant.blocks(tensor.raw, shape[-1])
    codes = blocks["codes"]
    if quant.__name__ == "Q4_0":
        # Weight j lies with weight j + 16 in a GGUF, and with its neighbour here.
        whole = np.concatenate([codes & 15, codes >> 4], axis=-1)
        codes = whole[..., 0::2] | whole[..., 1::2] << 4
    else:
        codes = (codes.astype(np.int16) + 128).astype(np.uint8)
    scales = blocks["scale"].view(np.float16).astype(np.float32)
    if is_table:
        codes = codes.reshape(shape[0], -1)
    return {
        f"{name}.codes": raw_tensor(f"{name}.codes", TensorProto.UINT8, codes),
        f"{name}.scales": raw_tensor(f"{name}.scales", TensorProto.FLOAT, scales),
    }


def raw_tensor(name: str, data_type: int, array: "np.ndarray[Any, Any]") -> TensorProto:
    """An initializer of these bytes."""
    raw = np.ascontiguousarray(array).tobytes()
    return TensorProto(name=name, data_type=data_type, dims=array.shape, raw_data=raw)


def written_by_onnx(path: Path, **options: Any) -> dict[str, Any]:
    """A file with a tensor of every type that numpy has, every way to say a shape; gives arrays."""
    random = np.random.default_rng(1)
    names = ["float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "bool", "float16"]
    names += ["float64", "uint32", "uint64", "complex64", "complex128"]
    arrays = {name: (100 * random.standard_normal((3, 1, 17))).astype(name) for name in names}
    arrays |= {"scalar": np.array(7.5, np.float32), "empty": np.zeros((0, 3), np.float32)}
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    initializers.append(helper.make_tensor("typed", TensorProto.INT64, [2], [-1, 5]))
    initializers.append(helper.make_tensor("texts", TensorProto.STRING, [2], [b"a", b"bc"]))
    value = helper.make_tensor_value_info
    inputs = [
        value("tokens", TensorProto.INT64, ["T"]),
        value("x", TensorProto.FLOAT, [2, None, "größer"]),
    ]
    inputs += [value("scalar_in", TensorProto.FLOAT, []), value("unknown", TensorProto.FLOAT, None)]
    inputs.append(helper.make_tensor_sequence_value_info("many", TensorProto.FLOAT, ["N"]))
    nodes = [helper.make_node("Identity", ["x"], [f"y{i}"]) for i in range(3)]
    graph = helper.make_graph(
        nodes, "g", inputs, [value("y0", TensorProto.FLOAT, None)], initializers
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(
        graph, producer_name="rwkv-edge", producer_version="0.9", opset_imports=opsets, ir_version=9
    )
    helper.set_model_props(made, {"a": "text", "b": "1"})
    onnx.save(made, path, **options)
    return arrays
