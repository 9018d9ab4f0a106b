"""What all versions share in the reference: weights by name, norms, the embedding, the head."""

from abc import ABC, abstractmethod

import numpy as np

from rwkv_edge.arch import Role
from rwkv_edge.backend import Float32Array, StateArrays
from rwkv_edge.hyperparameters import GROUP_NORM_EPS, LAYER_NORM_EPS
from rwkv_edge.model_file import ModelFile


def layer_norm(x: Float32Array, weight: Float32Array, bias: Float32Array) -> Float32Array:
    """(C,) to mean 0 and variance 1, then scaled and shifted."""
    y: Float32Array = (x - x.mean()) / np.sqrt(x.var() + LAYER_NORM_EPS) * weight + bias
    return y


def group_norm(x: Float32Array, weight: Float32Array, bias: Float32Array) -> Float32Array:
    """(n_head, head_size), each head to mean 0 and variance 1; scaled and shifted, (C,) each."""
    mean, variance = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
    y: Float32Array = (x - mean) / np.sqrt(variance + GROUP_NORM_EPS)
    return y.reshape(-1) * weight + bias


def sigmoid(x: Float32Array) -> Float32Array:
    """1 / (1 + e**-x), without overflow for large negative x."""
    y: Float32Array = 0.5 * (np.tanh(0.5 * x) + 1)
    return y


class ReferenceModel(ABC):
    """A model whose weights are all decoded to float32."""

    def __init__(self, model: ModelFile) -> None:
        self.hyperparameters = model.hyperparameters
        self._model = model
        # The embedding and other tables stay in the file: one row is decoded per token.
        specs = model.architecture.tensors(model.hyperparameters)
        in_file = {"token_embd.weight", *(s.name for s in specs if s.role is Role.TABLE)}
        self.weights: dict[str, Float32Array] = {
            name: tensor.decode()
            for name, tensor in model.gguf.tensors.items()
            if name not in in_file
        }

    def embedding(self, token: int) -> Float32Array:
        """(C,): the token's row, layer-normed by ln0."""
        w = self.weights
        row = self.row_of_table("token_embd.weight", token)
        return layer_norm(row, w["token_embd_norm.weight"], w["token_embd_norm.bias"])

    def row_of_table(self, name: str, token: int) -> Float32Array:
        """One token's row, decoded."""
        tensor = self._model.tensor(name)
        row: Float32Array = tensor.quant_format.decode(
            tensor.raw[token : token + 1], tensor.shape[1]
        )[0]
        return row

    def step(self, token: int, state: StateArrays) -> Float32Array:
        """One token: advances the state in place, gives the residual stream after all layers."""
        x = self.embedding(token)
        v_first: Float32Array | None = None
        for layer in range(self.hyperparameters.n_layer):
            x, v_first = self.layer(layer, x, v_first, state)
        return x

    def logits(self, x: Float32Array) -> Float32Array:
        """(n_vocab,): the head on the layer-normed residual stream."""
        w = self.weights
        return w["output.weight"] @ layer_norm(x, w["output_norm.weight"], w["output_norm.bias"])

    @abstractmethod
    def layer(
        self, layer: int, x: Float32Array, v_first: Float32Array | None, state: StateArrays
    ) -> tuple[Float32Array, Float32Array | None]:
        """One layer of one token; gives x and, where a version has it, layer 0's values."""
