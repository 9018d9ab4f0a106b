"""The default engine: numba kernels on the CPU, run by a team of threads."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rwkv_edge.arch import architecture_of
from rwkv_edge.backend import Float32Array, Int32Array, StateArrays
from rwkv_edge.errors import UnsupportedModelError
from rwkv_edge.model_file import ModelFile
from rwkv_edge.runtime.arch import COMPILED
from rwkv_edge.runtime.backends.compile_ahead import compiled_ahead
from rwkv_edge.runtime.backends.obstacles import of_numba
from rwkv_edge.runtime.batch import Batch, no_tokens
from rwkv_edge.runtime.simd.cpu import physical_cores
from rwkv_edge.runtime.team import shared_team

# Tokens that go through the model together in GPT mode: enough that decoding a weight is nothing
# beside multiplying with it, few enough that a layer's activations stay in the L2 cache.
BLOCK_TOKENS = 128

# Weights that a thread must have to itself before its share outweighs six meetings in each layer.
BYTES_PER_THREAD = 4 << 20


def useful_threads(model: ModelFile) -> int:
    """One thread per physical core, but fewer for a model so small that they would only wait."""
    return max(1, min(physical_cores(), model.bytes_per_token // BYTES_PER_THREAD))


@dataclass(frozen=True)
class NumbaState:
    """All arrays of one sequence's state, one after the other, laid out for the kernels."""

    values: Float32Array

    @property
    def address(self) -> int:
        """Where the kernels find it."""
        return int(self.values.ctypes.data)


class NumbaBackend:
    """Runs a model with kernels that numba compiled for this CPU."""

    name = "numba"

    def __init__(self, model: ModelFile, threads: int | None = None) -> None:
        self.hyperparameters = hp = model.hyperparameters
        obstacle = of_numba(hp, ())
        if obstacle is not None:
            raise UnsupportedModelError(f"{model.path}: {obstacle}; use --backend reference")
        self._architecture = architecture_of(hp.version)
        self._compiled = COMPILED[hp.version]
        self._state_shapes = self._architecture.state_shapes(hp)
        self._team = shared_team(threads or useful_threads(model))
        self._scratch = self._compiled.new_scratch(hp, BLOCK_TOKENS, self._team.n_threads)
        n_cores = threads or physical_cores()
        with compiled_ahead(hp.version, self._stand_ins(), n_cores):
            self._weights = self._compiled.load_weights(model, self._team)

    def new_state(self) -> NumbaState:
        """A fresh state, as before the first token."""
        initial = self._architecture.state_initial_value
        return self.state_from_arrays(
            {
                name: np.full(shape, initial(name), np.float32)
                for name, shape in self._state_shapes.items()
            }
        )

    def forward(self, tokens: Int32Array, state: object, all_logits: bool) -> Float32Array:
        """Advance the state by the tokens, a block at a time. See `Backend.forward`."""
        assert isinstance(state, NumbaState)
        blocks: list[Float32Array] = []
        for start in range(0, tokens.size, BLOCK_TOKENS):
            block = tokens[start : start + BLOCK_TOKENS]
            is_last = start + BLOCK_TOKENS >= tokens.size
            wanted = range(block.size) if all_logits else range(block.size - 1, block.size)
            logits = self._run([block], [state], list(wanted) if all_logits or is_last else [])
            blocks.append(logits)
        return np.concatenate(blocks) if all_logits else blocks[-1][0]

    def forward_batch(self, tokens: Sequence[Int32Array], states: Sequence[object]) -> Float32Array:
        """Advance many sequences in one pass over the weights per block of tokens."""
        out = np.empty((len(tokens), self.hyperparameters.n_vocab), np.float32)
        left = dict(enumerate(tokens))
        while left:
            # As many sequences as a block takes, each with an equal part of it.
            chosen = list(left)[:BLOCK_TOKENS]
            quota = BLOCK_TOKENS // len(chosen)
            parts = [left[i][:quota] for i in chosen]
            ends = np.cumsum([part.size for part in parts])
            finished = [n for n, i in enumerate(chosen) if left[i].size <= quota]
            logits = self._run(
                parts, [states[i] for i in chosen], [int(ends[n]) - 1 for n in finished]
            )
            for row, n in enumerate(finished):
                out[chosen[n]] = logits[row]
            left.update({i: left[i][quota:] for i in chosen})
            left = {i: rest for i, rest in left.items() if rest.size}
        return out

    def _run(
        self, parts: Sequence[Int32Array], states: Sequence[object], logit_rows: list[int]
    ) -> Float32Array:
        """One block through the kernels: (rows, n_vocab) logits of the chosen tokens."""
        addresses = [s.address for s in states if isinstance(s, NumbaState)]
        n_padded = int(self._weights.head[0]["n_rows"])
        batch = Batch(
            tokens=np.concatenate(parts, dtype=np.int32),
            starts=np.cumsum([0, *(part.size for part in parts)], dtype=np.int64),
            states=np.array(addresses, np.int64),
            logit_rows=np.array(logit_rows, np.int64),
            logits=np.empty((len(logit_rows), n_padded), np.float32),
        )
        forward, weights, scratch = self._compiled.forward, self._weights, self._scratch
        sync = self._team.sync
        self._team.run(lambda thread, n: forward(weights, scratch, batch, sync, thread, n))
        n_vocab = self.hyperparameters.n_vocab
        if n_padded == n_vocab:
            return batch.logits
        return np.ascontiguousarray(batch.logits[:, :n_vocab])

    def _stand_ins(self) -> tuple[object, ...]:
        """Arguments of the types that the kernel is called with, before there are weights."""
        weights, team = self._compiled.no_weights(), self._team
        return (weights, self._scratch, no_tokens(), team.sync, 0, team.n_threads)

    def clone_state(self, state: object) -> NumbaState:
        """An independent copy."""
        assert isinstance(state, NumbaState)
        return NumbaState(state.values.copy())

    def state_to_arrays(self, state: object) -> StateArrays:
        """The canonical state, as float32 copies."""
        return {name: view.copy() for name, view in self.state_views(state).items()}

    def state_views(self, state: object) -> StateArrays:
        """The canonical arrays in the kernels' own memory."""
        assert isinstance(state, NumbaState)
        arrays: StateArrays = {}
        end = 0
        for name, shape in self._state_shapes.items():
            start, end = end, end + int(np.prod(shape))
            array = state.values[start:end].reshape(shape)
            arrays[name] = self._transpose(name, array)
        return arrays

    def state_from_arrays(self, arrays: StateArrays) -> NumbaState:
        """A state laid out for the kernels; the arrays are copied."""
        parts = [self._transpose(name, arrays[name]).reshape(-1) for name in self._state_shapes]
        return NumbaState(np.concatenate(parts, dtype=np.float32))

    def _transpose(self, name: str, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Between the canonical layout and the kernels', which is the same step both ways."""
        return np.swapaxes(array, -1, -2) if name in self._compiled.transposed else array

    def close(self) -> None:
        """Let the weights go, and the threads unless another model uses them."""
        del self._team, self._weights, self._scratch
