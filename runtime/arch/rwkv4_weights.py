"""RWKV-4: where the kernels of `rwkv4.py` find matrices, vectors and scratch."""

from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.model_file import ModelFile
from rwkv_edge.runtime.arch.weights import (
    GATED_MATRICES,
    GATED_VECTORS,
    SHARED_ROWS,
    Scratch,
    Weights,
)
from rwkv_edge.runtime.arch.weights import load_weights as load_named
from rwkv_edge.runtime.arch.weights import new_scratch as new_sized
from rwkv_edge.runtime.kernels.activations import BLOCK
from rwkv_edge.runtime.team import ThreadTeam

TIME_MIX_MATRICES = (
    "time_mix_receptance",
    "time_mix_key",
    "time_mix_value",
    "time_mix_output",
)
MATRIX_NAMES = (*GATED_MATRICES, *TIME_MIX_MATRICES)
(RECEPTANCE, KEY, VALUE, OUTPUT) = range(len(GATED_MATRICES), len(MATRIX_NAMES))
VECTOR_NAMES = (
    *GATED_VECTORS,
    "time_mix_decay.weight",
    "time_mix_first.weight",
    "time_mix_lerp_fused.weight",
)
(W, U) = range(len(GATED_VECTORS), len(VECTOR_NAMES) - 1)
# The fused lerps are three vectors.
(X_K, X_V, X_R) = range(len(VECTOR_NAMES) - 1, len(VECTOR_NAMES) + 2)

# Slots of `Scratch.mixed`: the three lerped inputs, in the order of the fused lerps, and y.
(IN_K, IN_V, IN_R, Y) = range(4)
N_MIXED = 4


def new_scratch(hyperparameters: Hyperparameters, n_tokens: int, n_threads: int) -> Scratch:
    """Room for blocks of up to `n_tokens`."""
    return new_sized(hyperparameters, n_tokens, n_threads, n_rows=SHARED_ROWS, n_mixed=N_MIXED)


def load_weights(model: ModelFile, team: ThreadTeam) -> Weights:
    """Pack the matrices of a checked file into one arena, and copy its vectors."""
    # Every channel goes by itself: threads share them as finely as activations are quantized.
    return load_named(model, team, MATRIX_NAMES, VECTOR_NAMES, head_unit=BLOCK)
