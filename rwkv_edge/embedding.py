"""Sentence embeddings out of a state. docs/embeddings.md has what they were chosen by."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rwkv_edge.backend import Float32Array, StateArrays
from rwkv_edge.errors import InputError

if TYPE_CHECKING:
    from rwkv_edge.model import Model

# Said after each text. What a model is about to say of it gathers what it has read; without a
# prompt, the last layers hold little but the guess at the token that would come next.
PROMPT = "\n\nThis is about the"
# Texts that run together: enough to share the reading of weights, few enough for their states.
BATCH_TEXTS = 16


def embed_texts(model: "Model", texts: Sequence[str | bytes], prompt: str) -> Float32Array:
    """(B, n_embd) float32: an embedding a row, each what its text gives alone.

    Raises InputError for a text that is empty or none.
    """
    asked = list(model.tokenizer.encode(prompt))
    sequences = [
        [*tokens_of(model, text, f"text {i} of {len(texts)}"), *asked]
        for i, text in enumerate(texts, 1)
    ]
    out = np.empty((len(sequences), model.hyperparameters.n_embd), np.float32)
    for start in range(0, len(sequences), BATCH_TEXTS):
        batch = sequences[start : start + BATCH_TEXTS]
        states = [model.new_state() for _ in batch]
        model.forward_batch(batch, states)
        for i, state in enumerate(states, start):
            out[i] = embedding_of(state.to_arrays())
    return out


def tokens_of(model: "Model", text: object, name: str) -> Sequence[int]:
    """The tokens of one text, of which there is at least one."""
    if not isinstance(text, (str, bytes)):
        raise InputError(f"{name} is of type {type(text).__name__}; give str or bytes")
    tokens = model.tokenizer.encode(text)
    if not tokens:
        raise InputError(f"{name} is empty: there are no tokens in it; leave it out")
    return tokens


def embedding_of(arrays: StateArrays) -> Float32Array:
    """(n_embd,) float32 of length 1: what the last layer's channel mix saw of the last token.

    By then every token has passed through the recurrence of all layers. Every version of RWKV has
    this array. A state that has seen nothing gives zeros.
    """
    vector: Float32Array = arrays["ffn_x"][-1].astype(np.float32)
    length = np.linalg.norm(vector)
    if length:
        vector /= length
    return vector
