"""Plain numpy, float32, one token at a time: slow, and short enough to check by reading."""

from collections.abc import Sequence

import numpy as np

from rwkv_edge.arch import architecture_of
from rwkv_edge.backend import Float32Array, Int32Array, StateArrays
from rwkv_edge.model_file import ModelFile
from rwkv_edge.runtime.reference import REFERENCES


class ReferenceBackend:
    """The definition. Its states are the canonical arrays themselves."""

    name = "reference"

    def __init__(self, model: ModelFile) -> None:
        self.hyperparameters = model.hyperparameters
        self._architecture = architecture_of(model.hyperparameters.version)
        self._model = REFERENCES[model.hyperparameters.version](model)

    def new_state(self) -> StateArrays:
        """A fresh state, as before the first token."""
        initial = self._architecture.state_initial_value
        shapes = self._architecture.state_shapes(self.hyperparameters)
        return {n: np.full(shape, initial(n), np.float32) for n, shape in shapes.items()}

    def forward(self, tokens: Int32Array, state: object, all_logits: bool) -> Float32Array:
        """Advance the state token by token. See `Backend.forward`."""
        assert isinstance(state, dict)
        rows = [self._model.step(int(token), state) for token in tokens]
        if all_logits:
            return np.stack([self._model.logits(row) for row in rows])
        return self._model.logits(rows[-1])

    def forward_batch(self, tokens: Sequence[Int32Array], states: Sequence[object]) -> Float32Array:
        """One sequence after the other."""
        pairs = zip(tokens, states, strict=True)
        return np.stack([self.forward(part, state, False) for part, state in pairs])

    def clone_state(self, state: object) -> StateArrays:
        """An independent copy."""
        return self.state_to_arrays(state)

    def state_to_arrays(self, state: object) -> StateArrays:
        """Copies of the arrays."""
        return {name: array.copy() for name, array in self.state_views(state).items()}

    def state_views(self, state: object) -> StateArrays:
        """The arrays themselves, which a step writes."""
        assert isinstance(state, dict)
        return dict(state)

    def state_from_arrays(self, arrays: StateArrays) -> StateArrays:
        """Copies of the arrays."""
        return {name: array.astype(np.float32) for name, array in arrays.items()}

    def close(self) -> None:
        """Let the weights go."""
        del self._model
