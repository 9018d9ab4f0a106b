"""RWKV-5: where the kernels of `rwkv5.py` find matrices, vectors and scratch."""

import numpy as np

from rwkv_edge.arch.rwkv5 import is_gated
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.model_file import ModelFile
from rwkv_edge.runtime.arch.gated_heads import HEAD_ROWS
from rwkv_edge.runtime.arch.weights import (
    GATED_MATRICES,
    GATED_VECTORS,
    Scratch,
    Weights,
)
from rwkv_edge.runtime.arch.weights import load_weights as load_named
from rwkv_edge.runtime.arch.weights import new_scratch as new_sized
from rwkv_edge.runtime.team import ThreadTeam

TIME_MIX_MATRICES = (
    "time_mix_receptance",
    "time_mix_key",
    "time_mix_value",
    "time_mix_output",
    # Last, because the first stage has none.
    "time_mix_gate",
)
MATRIX_NAMES = (*GATED_MATRICES, *TIME_MIX_MATRICES)
(RECEPTANCE, KEY, VALUE, OUTPUT, GATE) = range(len(GATED_MATRICES), len(MATRIX_NAMES))
VECTOR_NAMES = (
    *GATED_VECTORS,
    "time_mix_first.weight",
    "time_mix_decay.weight",
    "time_mix_ln.weight",
    "time_mix_ln.bias",
    "time_mix_lerp_fused.weight",
)
# The fused lerps are as many vectors as there are lerps; they are the last.
(FIRST, DECAY, LN_X_W, LN_X_B, LERP) = range(len(GATED_VECTORS), len(VECTOR_NAMES))

# Slots of `Scratch.mixed`: the lerped inputs, in the order of the fused lerps, and y.
(IN_K, IN_V, IN_R, IN_G, Y) = range(5)
N_MIXED = 5


def new_scratch(hyperparameters: Hyperparameters, n_tokens: int, n_threads: int) -> Scratch:
    """Room for blocks of up to `n_tokens`."""
    return new_sized(hyperparameters, n_tokens, n_threads, n_rows=HEAD_ROWS, n_mixed=N_MIXED)


def load_weights(model: ModelFile, team: ThreadTeam) -> Weights:
    """Pack the matrices of a checked file into one arena, and copy its vectors.

    The decay, which no token changes, is made of its logarithm's logarithm here, once.
    """
    names = MATRIX_NAMES if is_gated(model.hyperparameters) else MATRIX_NAMES[:-1]
    weights = load_named(model, team, names, VECTOR_NAMES)
    weights.vectors[:, DECAY] = np.exp(-np.exp(weights.vectors[:, DECAY]))
    return weights
