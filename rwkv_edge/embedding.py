"""Sentence embeddings out of a state."""

import numpy as np

from rwkv_edge.backend import Float32Array, StateArrays


def embedding_of(arrays: StateArrays) -> Float32Array:
    """(n_embd,) float32 of length 1: what the last layer's channel mix saw of the last token.

    By then every token has passed through the recurrence of all layers. A state that has seen
    nothing gives zeros.
    """
    vector: Float32Array = arrays["ffn_x"][-1].astype(np.float32)
    length = np.linalg.norm(vector)
    if length:
        vector /= length
    return vector
