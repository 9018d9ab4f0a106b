"""RWKV-7: weights, scratch and states as the kernels of `rwkv7.py` see them."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rwkv_edge.arch.rwkv7 import as_rwkv7
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.model_file import ModelFile
from rwkv_edge.runtime.arena import Arena, packed_format
from rwkv_edge.runtime.kernels.activations import BLOCK, Activations, new_activations
from rwkv_edge.runtime.kernels.columns import GROUP_ROWS, ActiveColumns, new_active_columns
from rwkv_edge.runtime.kernels.matmul import MATRIX
from rwkv_edge.runtime.kernels.panel import PANEL_TOKENS, new_panels
from rwkv_edge.runtime.team import ThreadTeam

Float32Array = npt.NDArray[np.float32]

# Matrices of a layer, in the order of `Rwkv7Weights.matrices`, by their names in a GGUF.
MATRIX_NAMES = (
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
    "channel_mix_key",
    "channel_mix_value",
)
(RECEPTANCE, KEY, VALUE, OUTPUT, W1, W2, A1, A2, V1, V2, G1, G2, FFN_KEY, FFN_VALUE) = range(
    len(MATRIX_NAMES)
)
# The matrix whose inputs are mostly zero, after relu².
SPARSE_INPUTS = "channel_mix_value.weight"
# Vectors of a layer, in the order of `Rwkv7Weights.vectors`; the fused lerps are six of them.
VECTOR_NAMES = (
    "attn_norm.weight",
    "attn_norm.bias",
    "attn_norm_2.weight",
    "attn_norm_2.bias",
    "time_mix_w0.weight",
    "time_mix_a0.weight",
    "time_mix_v0.weight",
    "time_mix_k_k.weight",
    "time_mix_k_a.weight",
    "time_mix_r_k.weight",
    "time_mix_ln.weight",
    "time_mix_ln.bias",
    "channel_mix_lerp_k.weight",
    "time_mix_lerp_fused.weight",
)
(LN1_W, LN1_B, LN2_W, LN2_B, W0, A0, V0, K_K, K_A, R_K, LN_X_W, LN_X_B, FFN_X_K) = range(13)
(X_R, X_W, X_K, X_V, X_A, X_G) = range(13, 19)
N_VECTORS = 19
# Vectors outside the layers, in the order of `Rwkv7Weights.ends`.
END_NAMES = (
    "token_embd_norm.weight",
    "token_embd_norm.bias",
    "output_norm.weight",
    "output_norm.bias",
)
LN0_W, LN0_B, LN_OUT_W, LN_OUT_B = range(len(END_NAMES))


class Rwkv7Weights(NamedTuple):
    """Packed weights. C is n_embd, L is n_layer.

    arena: bytes that all matrices lie in. matrices: (L, 14) and head: (1,), records of `MATRIX`.
    vectors: (L, 19, C), ends: (4, C) float32. embedding: (n_vocab, bytes of a row) of the mapped
    file, in the format embedding_format. head_unit: channels are shared out by this many.
    """

    arena: npt.NDArray[np.uint8]
    matrices: npt.NDArray[np.void]
    head: npt.NDArray[np.void]
    vectors: Float32Array
    ends: Float32Array
    embedding: npt.NDArray[np.uint8]
    embedding_format: int
    head_size: int
    head_unit: int


# Rows of `Rwkv7Scratch.rows`: the residual stream, its layer norm, and the terms of the equations.
(X, NORMED, R, W, K, V, A, G, V_FIRST, V_MIX, MINUS_KK, KK_A, OUT) = range(13)
N_ROWS = 13
# Slots of `Rwkv7Scratch.mixed`: the six lerped inputs, in the order of the fused lerps, and y.
(IN_R, IN_W, IN_K, IN_V, IN_A, IN_G, Y) = range(7)
N_MIXED = 7
# Slots of `Rwkv7Scratch.hidden`: inside the four low-rank MLPs.
(HIDDEN_W, HIDDEN_A, HIDDEN_V, HIDDEN_G) = range(4)
N_HIDDEN = 4


class Rwkv7Scratch(NamedTuple):
    """Everything a block of T tokens needs besides weights and states.

    Few arrays with many slots, because every array is seven numbers in each call of a kernel.
    rows: (13, T, C padded to whole groups) float32; mixed: slots of (T, C); hidden: of (T, rank);
    ffn_hidden: one of (T, n_ffn), and active which of its columns are not zero. panels: one for
    each thread.
    """

    rows: Float32Array
    mixed: Activations
    hidden: Activations
    ffn_hidden: Activations
    active: ActiveColumns
    panels: npt.NDArray[np.uint8]


def new_scratch(hyperparameters: Hyperparameters, n_tokens: int, n_threads: int) -> Rwkv7Scratch:
    """Room for blocks of up to `n_tokens`."""
    hp = as_rwkv7(hyperparameters)
    max_rank = max(hp.decay_rank, hp.iclr_rank, hp.value_rank, hp.gate_rank)
    return Rwkv7Scratch(
        rows=np.zeros((N_ROWS, n_tokens, -(-hp.n_embd // GROUP_ROWS) * GROUP_ROWS), np.float32),
        mixed=new_activations(N_MIXED, n_tokens, hp.n_embd),
        hidden=new_activations(N_HIDDEN, n_tokens, max_rank),
        ffn_hidden=new_activations(1, n_tokens, hp.n_ffn),
        active=new_active_columns(PANEL_TOKENS - 1, hp.n_ffn),
        panels=new_panels(n_threads),
    )


def load_weights(model: ModelFile, team: ThreadTeam) -> Rwkv7Weights:
    """Pack the matrices of a checked file into one arena, and copy its vectors."""
    hp = as_rwkv7(model.hyperparameters)
    matrix_names = [
        f"blk.{layer}.{name}.weight" for layer in range(hp.n_layer) for name in MATRIX_NAMES
    ]
    arena = Arena(
        [model.tensor(name) for name in [*matrix_names, "output.weight"]],
        sparse_inputs={name for name in matrix_names if name.endswith(SPARSE_INPUTS)},
    )
    arena.pack(team, release_pages=model.gguf.release_pages)
    matrices = np.array([arena.matrices[name] for name in matrix_names], MATRIX)
    embedding = model.tensor("token_embd.weight")
    return Rwkv7Weights(
        arena=arena.weights,
        matrices=matrices.reshape(hp.n_layer, len(MATRIX_NAMES)),
        head=np.array([arena.matrices["output.weight"]], MATRIX),
        vectors=np.stack([_layer_vectors(model, layer) for layer in range(hp.n_layer)]),
        ends=np.stack([model.tensor(name).decode().reshape(-1) for name in END_NAMES]),
        embedding=embedding.raw,
        embedding_format=int(packed_format(embedding.quant_format)),
        head_size=hp.head_size,
        head_unit=math.lcm(hp.head_size, BLOCK),
    )


def _layer_vectors(model: ModelFile, layer: int) -> Float32Array:
    """(19, C): the vectors of one layer in the order of the constants above."""
    n_embd = model.hyperparameters.n_embd
    rows = [
        model.tensor(f"blk.{layer}.{name}").decode().reshape(-1, n_embd) for name in VECTOR_NAMES
    ]
    return np.concatenate(rows)
