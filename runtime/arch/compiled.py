"""What the numba backend needs to know of one version."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.model_file import ModelFile
from rwkv_edge.runtime.arch.weights import no_weights
from rwkv_edge.runtime.team import ThreadTeam


@dataclass(frozen=True)
class CompiledArchitecture:
    """One version's kernels.

    load_weights packs a checked file; no_weights makes weights of the same types without one.
    new_scratch(hyperparameters, T, threads) makes room for blocks of T tokens.
    forward(weights, scratch, batch, sync, thread, n_threads) runs one block.
    transposed: the state arrays whose last two axes the kernels keep the other way round.
    """

    load_weights: Callable[[ModelFile, ThreadTeam], Any]
    new_scratch: Callable[[Hyperparameters, int, int], Any]
    forward: Callable[..., bool]
    no_weights: Callable[[], Any] = no_weights
    transposed: frozenset[str] = frozenset()
