"""Equations to ONNX nodes: what the operators of `Value` are given, the graph will compute."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import (
    AttributeProto,
    GraphProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

# The domain of onnxruntime's own operators; the standard ones have none.
CONTRIB = "com.microsoft"

Array = npt.NDArray[np.float32] | npt.NDArray[np.int64]
# Sizes and names of sizes; None for a shape that a reader has to infer.
Dims = Sequence[int | str] | None


@dataclass(frozen=True)
class Value:
    """A tensor that a graph computes. Numbers and arrays become constants of the graph."""

    graph: "Graph"
    name: str

    def __add__(self, other: "Operand") -> "Value":
        """Return self + other, broadcast as numpy does."""
        return self.graph.op("Add", self, other)

    def __sub__(self, other: "Operand") -> "Value":
        """Return self - other."""
        return self.graph.op("Sub", self, other)

    def __mul__(self, other: "Operand") -> "Value":
        """Return self * other, element by element."""
        return self.graph.op("Mul", self, other)

    def __truediv__(self, other: "Operand") -> "Value":
        """Return self / other."""
        return self.graph.op("Div", self, other)

    def __neg__(self) -> "Value":
        """Return -self."""
        return self.graph.op("Neg", self)

    def __matmul__(self, other: "Value") -> "Value":
        """Return the matrix product over the last two axes."""
        return self.graph.op("MatMul", self, other)

    def reshape(self, *shape: int) -> "Value":
        """The same numbers in another shape; 0 keeps the size of that axis."""
        return self.graph.op("Reshape", self, np.array(shape, np.int64))

    def rows(self, start: int, stop: int | None = None) -> "Value":
        """A part of the first axis, counted as Python slices do."""
        end = np.iinfo(np.int64).max if stop is None else stop
        return self.graph.op("Slice", self, *(np.array([n], np.int64) for n in (start, end, 0)))

    def split(self, n: int, axis: int = 0) -> list["Value"]:
        """Equal parts of an axis, which they keep."""
        return self.graph.ops("Split", self, n_outputs=n, axis=axis, num_outputs=n)

    def transpose(self, *axes: int) -> "Value":
        """The axes in another order."""
        return self.graph.op("Transpose", self, perm=axes)


Operand = Value | float | Array


class Graph:
    """Nodes in the order in which they are made, with constants, inputs and outputs.

    prefix: of every name that it makes. Bodies of loops need their own: onnxruntime wants names to
    be unique in the whole model.
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.nodes: list[NodeProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []
        self.constants: dict[tuple[str, tuple[int, ...], bytes], TensorProto] = {}
        self._n_names = 0

    def new_name(self, what: str) -> str:
        """A name that nothing in the model has."""
        self._n_names += 1
        return f"{self.prefix}{what}_{self._n_names}"

    def op(
        self, kind: str, *operands: Operand | None, domain: str = "", **attributes: Any
    ) -> Value:
        """One node with one output. None stands for an optional operand that is left out."""
        return self.ops(kind, *operands, domain=domain, **attributes)[0]

    def ops(
        self,
        kind: str,
        *operands: Operand | None,
        domain: str = "",
        n_outputs: int = 1,
        **attributes: Any,
    ) -> list[Value]:
        """One node with several outputs."""
        inputs = ["" if x is None else self.value(x).name for x in operands]
        outputs = [self.new_name(kind.lower()) for _ in range(n_outputs)]
        name = self.new_name(kind)
        node = helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes)
        self.nodes.append(node)
        return [Value(self, output) for output in outputs]

    def value(self, operand: Operand) -> Value:
        """The operand itself, or a constant that holds it."""
        if isinstance(operand, Value):
            return operand
        array = np.asarray(operand, np.float32) if isinstance(operand, float) else operand
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, self.new_name("constant"))
        return Value(self, self.constants[key].name)

    def input(self, name: str, dims: Dims, element: int = TensorProto.FLOAT) -> Value:
        """An input of the graph."""
        self.inputs.append(helper.make_tensor_value_info(name, element, dims))
        return Value(self, name)

    def output(self, value: Value, name: str, dims: Dims) -> None:
        """Let the graph give a float32 value under this name."""
        self.nodes.append(helper.make_node("Identity", [value.name], [name], name=f"give_{name}"))
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))

    def scan(
        self,
        body: Callable[..., tuple[list[Value], Value]],
        states: Sequence[Value],
        inputs: Sequence[Value],
    ) -> tuple[list[Value], Value]:
        """The recurrence: body(*states, *inputs of one token) gives (new states, y) of that token.

        inputs: the token is their first axis, which the body does not see. Gives the states after
        the last token, and y of all tokens one below the other.
        """
        inner = Graph(f"{self.new_name('scan')}_")
        parameters = [inner.input(inner.new_name("in"), None) for _ in (*states, *inputs)]
        new_states, y = body(*parameters)
        for value in (*new_states, y):
            inner.outputs.append(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, None))
        *after, ys = self.ops(
            "Scan",
            *states,
            *inputs,
            n_outputs=len(states) + 1,
            num_scan_inputs=len(inputs),
            body=inner.proto("recurrence"),
        )
        return after, ys

    def branch(
        self,
        condition: Value,
        chosen: Callable[..., list[Value]],
        otherwise: Callable[..., list[Value]],
        operands: Sequence[Value],
    ) -> list[Value]:
        """chosen(*operands) where the condition holds, else otherwise(*operands).

        Each may give results of other shapes, but as many.
        """
        bodies = []
        for make in (chosen, otherwise):
            inner = Graph(f"{self.new_name('branch')}_")
            # A body sees all that stands before it; its nodes are to be its own.
            results = make(*(Value(inner, operand.name) for operand in operands))
            for value in results:
                info = helper.make_tensor_value_info(value.name, TensorProto.FLOAT, None)
                inner.outputs.append(info)
            bodies.append(inner.proto("branch"))
        return self.ops(
            "If",
            condition,
            n_outputs=len(bodies[0].output),
            then_branch=bodies[0],
            else_branch=bodies[1],
        )

    def proto(self, name: str) -> GraphProto:
        """The graph as ONNX holds it, with no weights but the constants."""
        return helper.make_graph(
            self.nodes, name, self.inputs, self.outputs, list(self.constants.values())
        )


def domains(graph: GraphProto) -> set[str]:
    """The domains of all nodes, also those of bodies inside."""
    found: set[str] = set()
    for node in graph.node:
        found.add(node.domain)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                found |= domains(attribute.g)
    return found
