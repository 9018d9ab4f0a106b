"""What every engine offers, so that the same call runs through any of them."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rwkv_edge.hyperparameters import Hyperparameters

Float32Array = npt.NDArray[np.float32]
Int32Array = npt.NDArray[np.int32]
# Canonical arrays by name, as `Architecture.state_shapes` lists them.
StateArrays = dict[str, Float32Array]


class Backend(Protocol):
    """One engine with one model loaded.

    A state is whatever the backend likes; it is only ever handed back to the backend that made it.
    Tokens arrive checked: int32, in range, at least one. Several threads may call at once, each
    with states of its own; the GIL is released during `forward`.
    """

    name: str
    hyperparameters: Hyperparameters

    def new_state(self) -> object:
        """A fresh state, as before the first token."""

    def forward(self, tokens: Int32Array, state: object, all_logits: bool) -> Float32Array:
        """Advance the state by the tokens, in place.

        Gives the logits after the last token, (n_vocab,), or after each, (T, n_vocab): a new array.
        """

    def forward_batch(self, tokens: Sequence[Int32Array], states: Sequence[object]) -> Float32Array:
        """Advance each state by its own tokens; the logits after each one's last: (B, n_vocab)."""

    def clone_state(self, state: object) -> object:
        """An independent copy, cheaper than by way of the canonical arrays."""

    def state_to_arrays(self, state: object) -> StateArrays:
        """The canonical state, as float32 copies."""

    def state_views(self, state: object) -> StateArrays | None:
        """The canonical arrays as views of the memory that `forward` advances; nothing is copied.

        None where the engine keeps its states in another form.
        """

    def state_from_arrays(self, arrays: StateArrays) -> object:
        """A state of this backend's own out of canonical arrays, whose shapes are checked."""

    def close(self) -> None:
        """Give back memory and threads; nothing else may be called afterwards."""
