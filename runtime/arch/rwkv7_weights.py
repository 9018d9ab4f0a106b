"""RWKV-7: where the kernels of `rwkv7.py` find matrices, vectors and scratch."""

from rwkv_edge.arch.rwkv7 import as_rwkv7
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.model_file import ModelFile
from rwkv_edge.runtime.arch.weights import (
    SHARED_MATRICES,
    SHARED_ROWS,
    SHARED_VECTORS,
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
    "time_mix_w1",
    "time_mix_w2",
    "time_mix_a1",
    "time_mix_a2",
    "time_mix_v1",
    "time_mix_v2",
    "time_mix_g1",
    "time_mix_g2",
)
MATRIX_NAMES = (*SHARED_MATRICES, *TIME_MIX_MATRICES)
(RECEPTANCE, KEY, VALUE, OUTPUT, W1, W2, A1, A2, V1, V2, G1, G2) = range(
    len(SHARED_MATRICES), len(MATRIX_NAMES)
)
VECTOR_NAMES = (
    *SHARED_VECTORS,
    "time_mix_w0.weight",
    "time_mix_a0.weight",
    "time_mix_v0.weight",
    "time_mix_k_k.weight",
    "time_mix_k_a.weight",
    "time_mix_r_k.weight",
    "time_mix_ln.weight",
    "time_mix_ln.bias",
    "time_mix_lerp_fused.weight",
)
(W0, A0, V0, K_K, K_A, R_K, LN_X_W, LN_X_B) = range(len(SHARED_VECTORS), len(VECTOR_NAMES) - 1)
# The fused lerps are six vectors.
(X_R, X_W, X_K, X_V, X_A, X_G) = range(len(VECTOR_NAMES) - 1, len(VECTOR_NAMES) + 5)

# Rows of `Scratch.rows` beside those of every version.
(W, A, G, V_FIRST, V_MIX, MINUS_KK, KK_A) = range(SHARED_ROWS, SHARED_ROWS + 7)
N_ROWS = SHARED_ROWS + 7
# Slots of `Scratch.mixed`: the six lerped inputs, in the order of the fused lerps, and y.
(IN_R, IN_W, IN_K, IN_V, IN_A, IN_G, Y) = range(7)
N_MIXED = 7
# Slots of `Scratch.hidden`: inside the four low-rank MLPs.
(HIDDEN_W, HIDDEN_A, HIDDEN_V, HIDDEN_G) = range(4)
N_HIDDEN = 4


def new_scratch(hyperparameters: Hyperparameters, n_tokens: int, n_threads: int) -> Scratch:
    """Room for blocks of up to `n_tokens`."""
    hp = as_rwkv7(hyperparameters)
    return new_sized(
        hp,
        n_tokens,
        n_threads,
        n_rows=N_ROWS,
        n_mixed=N_MIXED,
        n_hidden=N_HIDDEN,
        max_rank=max(hp.decay_rank, hp.iclr_rank, hp.value_rank, hp.gate_rank),
    )


def load_weights(model: ModelFile, team: ThreadTeam) -> Weights:
    """Pack the matrices of a checked file into one arena, and copy its vectors."""
    return load_named(model, team, MATRIX_NAMES, VECTOR_NAMES)
