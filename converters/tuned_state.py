"""Tuned states in checkpoints: `blocks.N.att.time_state`, (n_head, value, key) for each layer.

RWKV-PEFT trains them, and saves them alone or beside the weights; token shifts begin with zeros.
"""

import re

import numpy as np

from rwkv_edge.converters.arch.base import Shapes, listed
from rwkv_edge.converters.checkpoints import Checkpoint
from rwkv_edge.errors import FormatError
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.quant import Float32Array

NAME = re.compile(r"blocks\.\d{1,5}\.att\.time_state")
# Whether the canonical state of a version has rows of one key, where these have rows of one value.
# RWKV-4 is not here: its state has no matrices.
ROWS_ARE_KEYS = {"5.0": True, "5.1": True, "5.2": True, "6": True, "7": False, "7a": False}


def is_tuned_state(name: str) -> bool:
    """Is this the name of a layer's tuned state?"""
    return NAME.fullmatch(name) is not None


def without_tuned_state(shapes: Shapes) -> Shapes:
    """The tensors that are weights."""
    return {name: shape for name, shape in shapes.items() if not is_tuned_state(name)}


def layer_names(hyperparameters: Hyperparameters) -> list[str]:
    """The names of all layers' tuned states, in order."""
    return [f"blocks.{i}.att.time_state" for i in range(hyperparameters.n_layer)]


def check_tuned_state(shapes: Shapes, hyperparameters: Hyperparameters) -> None:
    """Raise FormatError unless the file has a state for each layer, or none; no file is named."""
    hp = hyperparameters
    found = [name for name in shapes if is_tuned_state(name)]
    if not found:
        return
    if hp.version not in ROWS_ARE_KEYS:
        raise FormatError(
            f"{listed(found)} a tuned state, and the model is RWKV-{hp.version}, whose state has "
            "no matrices to tune; leave it out"
        )
    wanted = layer_names(hp)
    missing = [name for name in wanted if name not in shapes]
    unknown = [name for name in found if name not in wanted]
    if missing or unknown:
        raise FormatError(
            f"{listed(missing or unknown)} {'missing' if missing else 'too many'}; the model has "
            f"{hp.n_layer} layers, and each needs its own tuned state"
        )
    wanted_shape = (hp.n_head, hp.head_size, hp.head_size)
    for name in wanted:
        if shapes[name] != wanted_shape:
            raise FormatError(
                f"{name} is {list(shapes[name])}; wanted {list(wanted_shape)}; was it trained on "
                "another model?"
            )


def read_tuned_state(
    checkpoint: Checkpoint, hyperparameters: Hyperparameters
) -> Float32Array | None:
    """All layers' states as the canonical array `wkv`, or None; `check_tuned_state` came before.

    Raises FormatError.
    """
    names = layer_names(hyperparameters)
    if names[0] not in checkpoint.shapes():
        return None
    layers = []
    for name in names:
        state = checkpoint.read(name)
        if not np.isfinite(state).all():
            raise FormatError(
                f"{checkpoint.path}: {name}: holds NaN or infinity; its training diverged"
            )
        layers.append(state)
    stacked = np.stack(layers)
    if ROWS_ARE_KEYS[hyperparameters.version]:
        stacked = np.swapaxes(stacked, -1, -2)
    return np.ascontiguousarray(stacked)
