"""The tuned state that a GGUF may hold: what a fresh state's matrices begin with, not zeros.

It is a key of this project's own, since llama.cpp refuses tensors that it does not know: a list of
texts, one for each layer, of its float32 numbers in base64, little-endian, in the order of the
canonical array `wkv`. A list of numbers would be plainer, but gguf-py makes an object of each: for
a model of 1.5 billion weights that takes it a minute and 2 GB.
"""

import base64
from collections.abc import Mapping

import numpy as np

from rwkv_edge.arch import Architecture, Shape
from rwkv_edge.backend import Float32Array, StateArrays
from rwkv_edge.errors import FormatError
from rwkv_edge.hyperparameters import Hyperparameters

TUNED_STATE_KEY = "rwkv_edge.tuned_state"
# The only array of a state that is tuned; token shifts begin with zeros all the same.
TUNED_ARRAY = "wkv"
FLOAT32 = np.dtype("<f4")


def encode_tuned_state(wkv: Float32Array) -> list[str]:
    """The value of the key: a text for each layer."""
    layers = np.ascontiguousarray(wkv, FLOAT32)
    return [base64.b64encode(layer.tobytes()).decode("ascii") for layer in layers]


def decode_tuned_state(stored: object, shape: Shape) -> Float32Array:
    """The array of this shape out of the value of the key; raises FormatError.

    What is allocated has been found to be there.
    """
    n_layer, n_bytes = shape[0], int(np.prod(shape[1:], dtype=np.int64)) * FLOAT32.itemsize
    if not isinstance(stored, list) or len(stored) != n_layer:
        found = f"{len(stored)} texts" if isinstance(stored, list) else "no list of texts"
        raise FormatError(f"key {TUNED_STATE_KEY} holds {found}; wanted one for each of {n_layer} "
                          "layers")  # fmt: skip
    n_characters = 4 * -(-n_bytes // 3)
    for layer, text in enumerate(stored):
        if len(text) != n_characters:
            raise FormatError(
                f"key {TUNED_STATE_KEY} holds {len(text):,} characters for layer {layer}; "
                f"{list(shape[1:])} numbers need {n_characters:,}"
            )
    wkv = np.empty(shape, np.float32)
    for layer, text in enumerate(stored):
        try:
            raw = base64.b64decode(text, validate=True)
        except ValueError:
            raw = b""
        if len(raw) != n_bytes:
            raise FormatError(f"key {TUNED_STATE_KEY} of layer {layer} is no base64")
        wkv[layer] = np.frombuffer(raw, FLOAT32).reshape(shape[1:])
    if not np.isfinite(wkv).all():
        raise FormatError(f"key {TUNED_STATE_KEY} holds numbers that are not finite")
    return wkv


def tuned_state_in(
    metadata: Mapping[str, object], architecture: Architecture, hyperparameters: Hyperparameters
) -> StateArrays | None:
    """The canonical arrays that fresh states of a GGUF begin with, or None for the usual ones.

    Raises FormatError.
    """
    if TUNED_STATE_KEY not in metadata:
        return None
    shapes = architecture.state_shapes(hyperparameters)
    if TUNED_ARRAY not in shapes:
        raise FormatError(
            f"key {TUNED_STATE_KEY} is there, but a state of RWKV-{hyperparameters.version} has no "
            "matrices"
        )
    wkv = decode_tuned_state(metadata[TUNED_STATE_KEY], shapes[TUNED_ARRAY])
    return with_initial_shifts(wkv, architecture, hyperparameters)


def with_initial_shifts(
    wkv: Float32Array, architecture: Architecture, hyperparameters: Hyperparameters
) -> StateArrays:
    """All arrays of a state that begins with these matrices."""
    shapes = architecture.state_shapes(hyperparameters)
    return {
        name: wkv
        if name == TUNED_ARRAY
        else np.full(shape, architecture.state_initial_value(name), np.float32)
        for name, shape in shapes.items()
    }
