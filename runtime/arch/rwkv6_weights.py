"""RWKV-6: where the kernels of `rwkv6.py` find matrices, vectors and scratch."""

from rwkv_edge.arch.rwkv6 import LERPS, as_rwkv6
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

N_LERPS = len(LERPS)
TIME_MIX_MATRICES = (
    "time_mix_receptance",
    "time_mix_key",
    "time_mix_value",
    "time_mix_gate",
    "time_mix_output",
    "time_mix_decay_w1",
    "time_mix_decay_w2",
    "time_mix_w1",
    "time_mix_w2",
)
# Those that hold one matrix for each lerp.
N_PARTS = {"time_mix_w1": N_LERPS, "time_mix_w2": N_LERPS}
MATRIX_NAMES = (*GATED_MATRICES, *TIME_MIX_MATRICES)
(RECEPTANCE, KEY, VALUE, GATE, OUTPUT, DECAY_W1, DECAY_W2, MIX_W1) = range(
    len(GATED_MATRICES), len(MATRIX_NAMES) - 1
)
MIX_W2 = MIX_W1 + N_LERPS
VECTOR_NAMES = (
    *GATED_VECTORS,
    "time_mix_first.weight",
    "time_mix_decay.weight",
    "time_mix_ln.weight",
    "time_mix_ln.bias",
    "time_mix_lerp_x.weight",
    "time_mix_lerp_fused.weight",
)
# The fused lerps are five vectors.
(FIRST, DECAY, LN_X_W, LN_X_B, LERP_X, LERP) = range(len(GATED_VECTORS), len(VECTOR_NAMES))

# Rows of `Scratch.rows` beside those of the heads: x_previous - x.
SHIFT = HEAD_ROWS
N_ROWS = HEAD_ROWS + 1
# Slots of `Scratch.mixed`: the five lerped inputs, in the order of the fused lerps, that of their
# low-rank MLPs, and y.
(IN_W, IN_K, IN_V, IN_R, IN_G, IN_X, Y) = range(7)
N_MIXED = 7
# Slots of `Scratch.hidden`: inside the MLPs of the lerps, and of the decay.
HIDDEN_W = N_LERPS
N_HIDDEN = N_LERPS + 1


def new_scratch(hyperparameters: Hyperparameters, n_tokens: int, n_threads: int) -> Scratch:
    """Room for blocks of up to `n_tokens`."""
    hp = as_rwkv6(hyperparameters)
    return new_sized(
        hp,
        n_tokens,
        n_threads,
        n_rows=N_ROWS,
        n_mixed=N_MIXED,
        n_hidden=N_HIDDEN,
        max_rank=max(hp.mix_rank, hp.decay_rank),
    )


def load_weights(model: ModelFile, team: ThreadTeam) -> Weights:
    """Pack the matrices of a checked file into one arena, and copy its vectors."""
    every = as_rwkv6(model.hyperparameters).rescale_every
    return load_named(model, team, MATRIX_NAMES, VECTOR_NAMES, n_parts=N_PARTS, rescale_every=every)
