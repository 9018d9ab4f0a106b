"""How an ONNX file stores each weight type, and which operator multiplies with it.

Blocks lie as `MatMulNBits` of onnxruntime wants them, codes and scales each by itself; the numbers
are those of the GGUF of the same type.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from rwkv_edge.arch import Role, TensorSpec
from rwkv_edge.converters.gguf_file import PlannedTensor
from rwkv_edge.converters.onnx.graph import CONTRIB, Graph, Value
from rwkv_edge.onnx_model_file import CODES, SCALES
from rwkv_edge.quant import BF16, F16, F32, Q4_0, Q8_0, Bytes, QuantFormat

# What onnxruntime may round activations to: 4 is int8, one scale for 32 of them, as the numba
# kernels do. Exact activations would take it five times as long, and with 8 bits a hundred times.
INT8_ACTIVATIONS = 4

EMBEDDING = "token_embd.weight"

ELEMENT_BYTES = {
    TensorProto.FLOAT: 4,
    TensorProto.FLOAT16: 2,
    TensorProto.BFLOAT16: 2,
    TensorProto.UINT8: 1,
}


@dataclass(frozen=True)
class Initializer:
    """A tensor of the ONNX file to come; data_type: as `TensorProto` counts."""

    name: str
    data_type: int
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * ELEMENT_BYTES[self.data_type]


class StoredFormat(ABC):
    """A weight type inside an ONNX file."""

    @abstractmethod
    def initializers(self, tensor: PlannedTensor) -> tuple[Initializer, ...]:
        """What stands for a tensor."""

    @abstractmethod
    def split(self, blocks: Bytes) -> tuple[Bytes, ...]:
        """Whole blocks of a GGUF to the bytes of each initializer."""

    @abstractmethod
    def product(self, graph: Graph, x: Value, tensor: PlannedTensor, bias: Value | None) -> Value:
        """(T, in) to (T, out): x W^T + bias, W (out, in)."""

    @abstractmethod
    def rows(self, graph: Graph, indices: Value, tensor: PlannedTensor) -> Value:
        """(T,) int64 to (T, in): the rows of these numbers."""


class StoredFloats(StoredFormat):
    """Plain numbers, computed with as float32."""

    def __init__(self, data_type: int) -> None:
        self._data_type = data_type

    def initializers(self, tensor: PlannedTensor) -> tuple[Initializer, ...]:
        """One, of the tensor's name and shape."""
        return (Initializer(tensor.spec.name, self._data_type, tensor.spec.shape),)

    def split(self, blocks: Bytes) -> tuple[Bytes, ...]:
        """The bytes as they are."""
        return (blocks,)

    def product(self, graph: Graph, x: Value, tensor: PlannedTensor, bias: Value | None) -> Value:
        """`Gemm`, which takes W as it lies."""
        weight = self.widened(graph, Value(graph, tensor.spec.name))
        return graph.op("Gemm", x, weight, bias, transB=1)

    def rows(self, graph: Graph, indices: Value, tensor: PlannedTensor) -> Value:
        """`Gather`; the rows are widened, not the table."""
        picked = graph.op("Gather", Value(graph, tensor.spec.name), indices, axis=0)
        return self.widened(graph, picked)

    def widened(self, graph: Graph, value: Value) -> Value:
        """As float32: what has fewer bits onnxruntime widens once, while it loads."""
        if self._data_type == TensorProto.FLOAT:
            return value
        return graph.op("Cast", value, to=TensorProto.FLOAT)


class StoredBlocks(StoredFormat):
    """Blocks of codes with one scale, weight = scale * (code - half the codes there are).

    offset: added to a code of the GGUF to make it one of ONNX.
    """

    def __init__(self, quant: type[QuantFormat], bits: int, offset: int) -> None:
        self._quant = quant
        self._bits = bits
        self._offset = offset

    def initializers(self, tensor: PlannedTensor) -> tuple[Initializer, ...]:
        """The codes, several in a byte, and the scales as float32."""
        *_, n_rows, n_columns = tensor.spec.shape
        name, n_blocks = tensor.spec.name, n_columns // self._quant.block_len
        block_bytes = self._quant.block_len * self._bits // 8
        # `GatherBlockQuantized` takes rows whole.
        in_rows, in_blocks = (n_rows, n_blocks * block_bytes), (n_rows, n_blocks, block_bytes)
        codes = in_rows if is_table(tensor.spec) else in_blocks
        return (
            Initializer(name + CODES, TensorProto.UINT8, codes),
            Initializer(name + SCALES, TensorProto.FLOAT, (n_rows, n_blocks)),
        )

    def split(self, blocks: Bytes) -> tuple[Bytes, ...]:
        """The codes in order, and the scales widened."""
        records = blocks.reshape(-1).view(self._quant.block)
        codes = np.ascontiguousarray(records["codes"]).view(np.uint8)
        codes = in_pairs(codes) if self._bits == 4 else codes + np.uint8(self._offset)
        scales = np.ascontiguousarray(records["scale"]).view(np.float16).astype(np.float32)
        return codes.reshape(-1), scales.view(np.uint8).reshape(-1)

    def product(self, graph: Graph, x: Value, tensor: PlannedTensor, bias: Value | None) -> Value:
        """`MatMulNBits`."""
        n_rows, n_columns = tensor.spec.shape
        y = graph.op(
            "MatMulNBits",
            x,
            *(Value(graph, part.name) for part in self.initializers(tensor)),
            domain=CONTRIB,
            K=n_columns,
            N=n_rows,
            bits=self._bits,
            block_size=self._quant.block_len,
            accuracy_level=INT8_ACTIVATIONS,
        )
        return y if bias is None else y + bias

    def rows(self, graph: Graph, indices: Value, tensor: PlannedTensor) -> Value:
        """`GatherBlockQuantized`."""
        codes, scales = (Value(graph, p.name) for p in self.initializers(tensor))
        return graph.op(
            "GatherBlockQuantized",
            codes,
            indices,
            scales,
            domain=CONTRIB,
            gather_axis=0,
            quantize_axis=1,
            block_size=self._quant.block_len,
            bits=self._bits,
        )


def in_pairs(codes: Bytes) -> Bytes:
    """(n, 16) bytes of codes i and i + 16 to (n, 16) of codes 2 i and 2 i + 1, the low bits first.

    Two bytes are taken at a time, of which each half gives one.
    """
    two = codes.view("<u2")
    low = (two & 0x000F) | ((two >> 4) & 0x00F0)
    high = ((two >> 4) & 0x000F) | ((two >> 8) & 0x00F0)
    return np.concatenate([low, high], axis=1).astype(np.uint8)


STORED: dict[type[QuantFormat], StoredFormat] = {
    F32: StoredFloats(TensorProto.FLOAT),
    F16: StoredFloats(TensorProto.FLOAT16),
    BF16: StoredFloats(TensorProto.BFLOAT16),
    Q8_0: StoredBlocks(Q8_0, bits=8, offset=128),
    Q4_0: StoredBlocks(Q4_0, bits=4, offset=0),
}


def is_table(spec: TensorSpec) -> bool:
    """Are rows looked up in a tensor, by token? Others are multiplied with."""
    return spec.role is Role.TABLE or spec.name == EMBEDDING


def initializers_of(tensor: PlannedTensor) -> tuple[Initializer, ...]:
    """What stands for a tensor in an ONNX file."""
    return STORED[tensor.quant].initializers(tensor)


def split_blocks(quant: type[QuantFormat], blocks: Bytes) -> tuple[Bytes, ...]:
    """Whole blocks of a GGUF, flat, to the bytes of each initializer."""
    return STORED[quant].split(blocks)
