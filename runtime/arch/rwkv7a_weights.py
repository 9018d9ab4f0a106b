"""RWKV-7a: what the kernels of `rwkv7a.py` need beside the weights and scratch of RWKV-7."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rwkv_edge.arch.rwkv7a import DEEP_EMBED_RANK, TABLE_COLUMNS
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.model_file import ModelFile
from rwkv_edge.runtime.arch import rwkv7_weights
from rwkv_edge.runtime.arch.rwkv7_weights import MATRIX_NAMES, VECTOR_NAMES
from rwkv_edge.runtime.arch.weights import Float32Array, Scratch, Weights, finite_numbers
from rwkv_edge.runtime.arch.weights import load_weights as load_named
from rwkv_edge.runtime.arch.weights import no_weights as no_named
from rwkv_edge.runtime.kernels.activations import Activations, new_activations, padded
from rwkv_edge.runtime.kernels.embedding import row_decoder
from rwkv_edge.runtime.team import ThreadTeam

# They go on where the matrices of RWKV-7 end.
S1, S2 = len(MATRIX_NAMES), len(MATRIX_NAMES) + 1
DEEP_MATRIX_NAMES = (*MATRIX_NAMES, "channel_mix_s1", "channel_mix_s2")
# A table of one layer in the mapped file: where it begins, bytes of a token's row, and the address
# of the kernel that decodes one.
TABLE = np.dtype([("address", "i8"), ("row_bytes", "i8"), ("decoder", "i8")])

# The slot of `Scratch.mixed` beside those that every channel mix uses: x, not shifted.
IN_S = 2
# The slot of `Scratch.hidden` that the channel mix uses, which comes after the time mix: s1 x.
HIDDEN_S = 0


class DeepWeights(NamedTuple):
    """shared: as of RWKV-7. s0: (L, n_ffn padded with zeros) float32; tables: (L,) of `TABLE`.

    The tables stay in the file, which is mapped as long as `shared.embedding` is there.
    """

    shared: Weights
    s0: Float32Array
    tables: npt.NDArray[np.void]

    @property
    def head(self) -> npt.NDArray[np.void]:
        """As of every version."""
        return self.shared.head


def no_weights() -> DeepWeights:
    """Those of no layer, of the same types as any: kernels can be compiled for them."""
    return DeepWeights(no_named(), s0=np.empty((0, 0), np.float32), tables=np.empty(0, TABLE))


class DeepScratch(NamedTuple):
    """shared: as of RWKV-7. modulation: (T, n_ffn padded) float32.

    What each thread has to itself: deep, a slot of (T, 32), and S, (threads, 1024) float32.
    """

    shared: Scratch
    modulation: Float32Array
    deep: Activations
    S: Float32Array


def new_scratch(hyperparameters: Hyperparameters, n_tokens: int, n_threads: int) -> DeepScratch:
    """Room for blocks of up to `n_tokens`."""
    return DeepScratch(
        shared=rwkv7_weights.new_scratch(hyperparameters, n_tokens, n_threads),
        modulation=np.zeros((n_tokens, padded(hyperparameters.n_ffn)), np.float32),
        deep=new_activations(n_threads, n_tokens, DEEP_EMBED_RANK),
        S=np.zeros((n_threads, TABLE_COLUMNS), np.float32),
    )


def load_weights(model: ModelFile, team: ThreadTeam) -> DeepWeights:
    """Pack the matrices of a checked file into one arena, and copy its vectors."""
    hp = model.hyperparameters
    s0 = np.zeros((hp.n_layer, padded(hp.n_ffn)), np.float32)
    tables = np.zeros(hp.n_layer, TABLE)
    for layer in range(hp.n_layer):
        s0[layer, : hp.n_ffn] = finite_numbers(model, f"blk.{layer}.channel_mix_s0.weight")
        table = model.tensor(f"blk.{layer}.channel_mix_s_emb.weight")
        decoder = row_decoder(table.quant_format)
        tables[layer] = (table.raw.ctypes.data, table.raw.shape[1], decoder)
    shared = load_named(model, team, DEEP_MATRIX_NAMES, VECTOR_NAMES)
    return DeepWeights(shared, s0, tables)
