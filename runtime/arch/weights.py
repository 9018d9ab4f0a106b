"""Weights and scratch as the kernels of every version see them: arrays with named places."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rwkv_edge.arch import architecture_of
from rwkv_edge.errors import FormatError
from rwkv_edge.gguf_reader import GgufTensor
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.model_file import ModelFile
from rwkv_edge.runtime.arena import Arena
from rwkv_edge.runtime.kernels.activations import BLOCK, Activations, new_activations
from rwkv_edge.runtime.kernels.column_layout import GROUP_ROWS
from rwkv_edge.runtime.kernels.columns import ActiveColumns, new_active_columns
from rwkv_edge.runtime.kernels.embedding import row_decoder
from rwkv_edge.runtime.kernels.matmul import MATRIX
from rwkv_edge.runtime.kernels.panel import PANEL_TOKENS, new_panels
from rwkv_edge.runtime.team import ThreadTeam

Float32Array = npt.NDArray[np.float32]

# Every version's matrices of a layer begin with these, in the order of `Weights.matrices`; names
# are those of a GGUF without `.weight`.
SHARED_MATRICES = ("channel_mix_key", "channel_mix_value")
FFN_KEY, FFN_VALUE = range(len(SHARED_MATRICES))
# The matrix whose inputs are mostly zero, after relu².
SPARSE_INPUTS = "channel_mix_value"
# Every version's vectors of a layer begin with these, in the order of `Weights.vectors`.
SHARED_VECTORS = (
    "attn_norm.weight",
    "attn_norm.bias",
    "attn_norm_2.weight",
    "attn_norm_2.bias",
    "channel_mix_lerp_k.weight",
)
LN1_W, LN1_B, LN2_W, LN2_B, FFN_X_K = range(len(SHARED_VECTORS))
# Those whose channel mix has a receptance, RWKV-4 to 6, go on with these.
GATED_MATRICES = (*SHARED_MATRICES, "channel_mix_receptance")
FFN_RECEPTANCE = len(SHARED_MATRICES)
GATED_VECTORS = (*SHARED_VECTORS, "channel_mix_lerp_r.weight")
FFN_X_R = len(SHARED_VECTORS)
# Vectors outside the layers, in the order of `Weights.ends`.
END_NAMES = (
    "token_embd_norm.weight",
    "token_embd_norm.bias",
    "output_norm.weight",
    "output_norm.bias",
)
LN0_W, LN0_B, LN_OUT_W, LN_OUT_B = range(len(END_NAMES))


class Weights(NamedTuple):
    """Packed weights. C is n_embd, L is n_layer.

    arena: bytes that all matrices lie in. matrices: (L, M) and head: (1,), records of `MATRIX`.
    vectors: (L, N, C), ends: (4, C) float32. embedding: (n_vocab, bytes of a row) of the mapped
    file; embedding_decoder: the address of the kernel that decodes one. head_unit: channels are
    shared out by this many. ffn_offset: bytes from the beginning of a state to its ffn_x.
    rescale_every: x is halved after every so many layers, 0 for never.
    """

    arena: npt.NDArray[np.uint8]
    matrices: npt.NDArray[np.void]
    head: npt.NDArray[np.void]
    vectors: Float32Array
    ends: Float32Array
    embedding: npt.NDArray[np.uint8]
    embedding_decoder: int
    head_size: int
    head_unit: int
    ffn_offset: int
    rescale_every: int


def no_weights() -> Weights:
    """Those of no layer, of the same types as any: kernels can be compiled for them."""
    embedding = np.empty((0, 0), np.uint8)
    # It lies in a file that is mapped for reading.
    embedding.flags.writeable = False
    return Weights(
        arena=np.empty(0, np.uint8),
        matrices=np.empty((0, 0), MATRIX),
        head=np.empty(0, MATRIX),
        vectors=np.empty((0, 0, 0), np.float32),
        ends=np.empty((0, 0), np.float32),
        embedding=embedding,
        embedding_decoder=0,
        head_size=0,
        head_unit=0,
        ffn_offset=0,
        rescale_every=0,
    )


# Every version's `Scratch.rows` begin with these: the residual stream, its layer norm, what a
# mix adds to it, and three terms of the equations.
SHARED_ROWS = 6
X, NORMED, OUT, R, K, V = range(SHARED_ROWS)


class Scratch(NamedTuple):
    """Everything a block of T tokens needs besides weights and states.

    Few arrays with many slots, because every array is seven numbers in each call of a kernel.
    rows: (rows, T, C padded to whole groups) float32; mixed: slots of (T, C); hidden: of (T, rank);
    ffn_hidden: one of (T, n_ffn), and active which of its columns are not zero. panels: one for
    each thread.
    """

    rows: Float32Array
    mixed: Activations
    hidden: Activations
    ffn_hidden: Activations
    active: ActiveColumns
    panels: npt.NDArray[np.uint8]


def new_scratch(
    hyperparameters: Hyperparameters,
    n_tokens: int,
    n_threads: int,
    *,
    n_rows: int,
    n_mixed: int,
    n_hidden: int = 1,
    max_rank: int = BLOCK,
) -> Scratch:
    """Room for blocks of up to `n_tokens`, with so many rows and slots."""
    hp = hyperparameters
    return Scratch(
        rows=np.zeros((n_rows, n_tokens, -(-hp.n_embd // GROUP_ROWS) * GROUP_ROWS), np.float32),
        mixed=new_activations(n_mixed, n_tokens, hp.n_embd),
        hidden=new_activations(n_hidden, n_tokens, max_rank),
        ffn_hidden=new_activations(1, n_tokens, hp.n_ffn),
        active=new_active_columns(PANEL_TOKENS - 1, hp.n_ffn),
        panels=new_panels(n_threads),
    )


def load_weights(
    model: ModelFile,
    team: ThreadTeam,
    matrix_names: Sequence[str],
    vector_names: Sequence[str],
    *,
    n_parts: Mapping[str, int] | None = None,
    rescale_every: int = 0,
    head_unit: int | None = None,
) -> Weights:
    """Pack the matrices of a checked file into one arena, and copy its vectors.

    Raises FormatError if one of their numbers is NaN or infinite; the embedding is not looked at,
    since it is never read as a whole. The names are those of one layer; a tensor of several rows of
    C stands for as many vectors.
    head_unit: channels that one thread must have together; by default whole heads.
    n_parts: tensors that hold several matrices, one below the other, and how many.
    """
    hp = model.hyperparameters
    tensors = [
        part
        for layer in range(hp.n_layer)
        for name in matrix_names
        for part in row_parts(
            model.tensor(f"blk.{layer}.{name}.weight"), (n_parts or {}).get(name, 1)
        )
    ]
    names = [tensor.name for tensor in tensors]
    arena = Arena(
        [*tensors, model.tensor("output.weight")],
        sparse_inputs={name for name in names if name.endswith(f"{SPARSE_INPUTS}.weight")},
    )
    try:
        arena.pack(team, release_pages=model.gguf.release_pages)
    except FormatError as error:
        raise FormatError(f"{model.path}: {error}") from None
    matrices = np.array([arena.matrices[name] for name in names], MATRIX)
    embedding = model.tensor("token_embd.weight")
    return Weights(
        arena=arena.weights,
        matrices=matrices.reshape(hp.n_layer, -1),
        head=np.array([arena.matrices["output.weight"]], MATRIX),
        vectors=np.stack(
            [layer_vectors(model, layer, vector_names) for layer in range(hp.n_layer)]
        ),
        ends=np.stack([finite_numbers(model, name).reshape(-1) for name in END_NAMES]),
        embedding=embedding.raw,
        embedding_decoder=row_decoder(embedding.quant_format),
        head_size=hp.head_size,
        head_unit=head_unit or math.lcm(hp.head_size, BLOCK),
        ffn_offset=offset_in_state(hp, "ffn_x"),
        rescale_every=rescale_every,
    )


def row_parts(tensor: GgufTensor, n_parts: int) -> list[GgufTensor]:
    """The matrices of a tensor that holds as many, one below the other."""
    if n_parts == 1:
        return [tensor]
    shape = (tensor.raw.shape[0] // n_parts, tensor.shape[-1])
    return [
        GgufTensor(f"{tensor.name}[{i}]", shape, tensor.quant_format, raw)
        for i, raw in enumerate(np.split(tensor.raw, n_parts))
    ]


def finite_numbers(model: ModelFile, name: str) -> Float32Array:
    """The numbers of a tensor. Raises FormatError if one of them is NaN or infinite."""
    numbers = model.tensor(name).decode()
    if not np.isfinite(numbers).all():
        raise FormatError(
            f"{model.path}: tensor {name} holds numbers that are NaN or infinite, which no weight "
            "is; convert the checkpoint again"
        )
    return numbers


def layer_vectors(model: ModelFile, layer: int, vector_names: Sequence[str]) -> Float32Array:
    """(N, C): the vectors of one layer, in the order of their names."""
    n_embd = model.hyperparameters.n_embd
    rows = [
        finite_numbers(model, f"blk.{layer}.{name}").reshape(-1, n_embd) for name in vector_names
    ]
    return np.concatenate(rows)


def offset_in_state(hyperparameters: Hyperparameters, array: str) -> int:
    """Bytes before an array of a state, whose arrays lie one after the other."""
    shapes = architecture_of(hyperparameters.version).state_shapes(hyperparameters)
    before = list(shapes)[: list(shapes).index(array)]
    return sum(math.prod(shapes[name]) for name in before) * np.dtype(np.float32).itemsize
