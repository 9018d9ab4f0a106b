"""What all versions share: weights by name, the state, norms, token shift, embedding and head.

Activations are (T, n_embd), a row for each token; heads are (T, n_head, head_size).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from rwkv_edge.arch import architecture_of
from rwkv_edge.converters.gguf_file import PlannedTensor
from rwkv_edge.converters.onnx.graph import Graph, Value
from rwkv_edge.converters.onnx.stored_weights import EMBEDDING, STORED, StoredFloats
from rwkv_edge.hyperparameters import GROUP_NORM_EPS, LAYER_NORM_EPS, Hyperparameters
from rwkv_edge.onnx_model_file import LOGITS, LOGITS_FROM, NEW, TOKENS

# The number of tokens, which a caller chooses.
N_TOKENS = "T"


class ModelGraph(ABC):
    """The graph of a model of one version; `build` makes it.

    tensors: of the file to come, by their GGUF names.
    """

    def __init__(
        self, hyperparameters: Hyperparameters, tensors: Mapping[str, PlannedTensor]
    ) -> None:
        self.hyperparameters = hyperparameters
        self.graph = Graph()
        self._tensors = tensors
        # By name: each layer's part, which has a first axis of one.
        self._state: dict[str, list[Value]] = {}
        self.tokens = self.graph.input(TOKENS, [N_TOKENS], TensorProto.INT64)

    def build(self) -> Graph:
        """Tokens and state in, logits and state out."""
        hp, graph = self.hyperparameters, self.graph
        shapes = architecture_of(hp.version).state_shapes(hp)
        for name, shape in shapes.items():
            self._state[name] = graph.input(name, shape).split(hp.n_layer)
        first = graph.input(LOGITS_FROM, [1], TensorProto.INT64)

        x = self.embedding()
        v_first: Value | None = None
        for layer in range(hp.n_layer):
            x, v_first = self.layer(layer, x, v_first)
        graph.output(self.head(x, first), LOGITS, ["n", hp.n_vocab])
        for name, shape in shapes.items():
            graph.output(graph.op("Concat", *self._state[name], axis=0), NEW + name, shape)
        return graph

    @abstractmethod
    def layer(self, layer: int, x: Value, v_first: Value | None) -> tuple[Value, Value | None]:
        """One layer; gives x and, where a version has it, layer 0's values."""

    def embedding(self) -> Value:
        """(T, C): the tokens' rows, layer-normed by ln0."""
        return self.layer_norm(self.table_rows(EMBEDDING), "token_embd_norm")

    def head(self, x: Value, first: Value) -> Value:
        """(n, n_vocab): the head on the tokens from position `first` on."""
        end, axis = np.array([np.iinfo(np.int64).max]), np.array([0])
        x = self.graph.op("Slice", x, first, end, axis)
        return self.product(self.layer_norm(x, "output_norm"), "output.weight")

    def table_rows(self, name: str) -> Value:
        """(T, columns): the row of each token in a table."""
        tensor = self._tensors[name]
        return STORED[tensor.quant].rows(self.graph, self.tokens, tensor)

    def product(self, x: Value, name: str, bias: Value | None = None) -> Value:
        """(T, in) to (T, out): x W^T + bias."""
        tensor = self._tensors[name]
        return STORED[tensor.quant].product(self.graph, x, tensor, bias)

    def products(self, x: Value, name: str) -> Value:
        """(n, T, in) to (n, T, out): n matrices in one weight, (n, out, in), of plain numbers."""
        tensor = self._tensors[name]
        stored = STORED[tensor.quant]
        assert isinstance(stored, StoredFloats)
        weight = stored.widened(self.graph, Value(self.graph, name))
        # onnxruntime turns it round once, while it loads.
        return x @ self.graph.op("Transpose", weight, perm=(0, 2, 1))

    def vector(self, name: str, *shape: int) -> Value:
        """A float32 weight, in another shape if one is given."""
        value = Value(self.graph, name)
        return value.reshape(*shape) if shape else value

    def layer_norm(self, x: Value, name: str) -> Value:
        """Each row to mean 0 and variance 1, then scaled and shifted."""
        weight, bias = self.vector(f"{name}.weight"), self.vector(f"{name}.bias")
        return self.graph.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=LAYER_NORM_EPS)

    def group_norm(self, heads: Value, name: str) -> Value:
        """Each head to mean 0 and variance 1; scaled and shifted, (T, C)."""
        ones = np.ones(self.hyperparameters.head_size, np.float32)
        y = self.graph.op("LayerNormalization", heads, ones, axis=-1, epsilon=GROUP_NORM_EPS)
        y = y.reshape(0, self.hyperparameters.n_embd)
        return y * self.vector(f"{name}.weight") + self.vector(f"{name}.bias")

    def heads(self, x: Value, *axes: int) -> Value:
        """(T, C) as heads, (T, H, N), or with further axes, which are (H, 1, N) or the like."""
        hp = self.hyperparameters
        return x.reshape(0, *(axes or (hp.n_head, hp.head_size)))

    def state(self, name: str, layer: int) -> Value:
        """A layer's part of a state array, with a first axis of one."""
        return self._state[name][layer]

    def set_state(self, name: str, layer: int, value: Value) -> None:
        """What that part is after the tokens."""
        self._state[name][layer] = value

    def token_shift(self, x: Value, name: str, layer: int) -> Value:
        """For each token the row before it minus its own; the last row becomes the state."""
        rows = self.graph.op("Concat", self.state(name, layer), x, axis=0)
        self.set_state(name, layer, rows.rows(-1))
        return rows.rows(0, -1) - x

    def lerps(self, x: Value, shift: Value, mu: Value, n: int) -> list[Value]:
        """N mixes of each row with the one before it, (T, C) each: x + shift * mu.

        mu: (n, 1, C) or (n, T, C).
        """
        return (x + shift * mu).reshape(-1, self.hyperparameters.n_embd).split(n)

    def sigmoid(self, x: Value) -> Value:
        """1 / (1 + e**-x)."""
        return x.graph.op("Sigmoid", x)

    def tanh(self, x: Value) -> Value:
        """The hyperbolic tangent."""
        return x.graph.op("Tanh", x)

    def exp(self, x: Value) -> Value:
        """e**x."""
        return x.graph.op("Exp", x)

    def relu_squared(self, x: Value) -> Value:
        """max(x, 0) ** 2."""
        positive = x.graph.op("Relu", x)
        return positive * positive
