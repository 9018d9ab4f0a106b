"""Adapters and tuned states opened, checked, and laid over their base."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from rwkv_edge.converters.adapters.adapted_checkpoint import (
    BLOCK_WEIGHTS,
    AdaptedCheckpoint,
    Recipe,
)
from rwkv_edge.converters.adapters.files import Adapter, Changes, TunedState, changes_of
from rwkv_edge.converters.adapters.keys import read_key
from rwkv_edge.converters.adapters.sources import Replacement
from rwkv_edge.converters.adapters.state_file import changes_of_state, check_state_in
from rwkv_edge.converters.checkpoints import Checkpoint, open_checkpoint
from rwkv_edge.converters.checkpoints.base import ELEMENT_DTYPES, Shape, widen
from rwkv_edge.converters.tuned_state import is_tuned_state
from rwkv_edge.errors import FormatError
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.quant import Float32Array

DIGEST_LEN = 32


@dataclass(frozen=True)
class Adapted:
    """A checkpoint that gives merged numbers. Closing it closes all files.

    digest: names what was merged into the weights; None if nothing was.
    notes: sentences for the user, often none.
    """

    checkpoint: Checkpoint
    digest: str | None = None
    notes: tuple[str, ...] = ()


def adapt(
    base: Checkpoint, hyperparameters: Hyperparameters, adapters: Sequence[Adapter | TunedState]
) -> Adapted:
    """Merge adapters and tuned states into a base, in their order. Raises RwkvEdgeError, OSError.

    Every tensor of an adapter is checked, all its numbers are read once; the base is left to
    whoever reads from the result.
    """
    if not adapters:
        return Adapted(base)
    recipes: dict[str, Recipe] = {}
    notes: list[str] = []
    merged: list[str] = []
    files: list[Checkpoint] = []
    shapes = {name: shape for name, shape in base.shapes().items() if not is_tuned_state(name)}
    with ExitStack() as stack:
        for adapter in adapters:
            file = stack.enter_context(open_checkpoint(adapter.path))
            files.append(file)
            if isinstance(adapter, TunedState):
                changes = changes_of_state(file, hyperparameters, notes)
                digest_of(file)
            else:
                init = None
                if adapter.pissa_init is not None:
                    init = stack.enter_context(open_checkpoint(adapter.pissa_init))
                    files.append(init)
                changes = changes_of(adapter, file, init, base.path, shapes)
                check_state_in(file, hyperparameters)
                merged += [digest_of(file), repr(adapter.alpha)]
                merged += [] if init is None else [digest_of(init)]
            put_in(recipes, base, changes)
        digest = hashlib.sha256("\n".join(merged).encode()).hexdigest()[:DIGEST_LEN]
        stack.pop_all()
        checkpoint = AdaptedCheckpoint(base, recipes, files)
        return Adapted(checkpoint, digest if merged else None, tuple(notes))


def put_in(recipes: dict[str, Recipe], base: Checkpoint, changes: Changes) -> None:
    """Add one file's changes to those of the files before it."""
    for name, replacement in changes.replacements.items():
        # What was to be added before belonged to the tensor that is gone.
        recipes[name] = Recipe(replacement, [])
    for name, delta in changes.deltas.items():
        recipe = recipes.setdefault(name, Recipe(Replacement(base, name), []))
        recipe.deltas.append(delta)


def digest_of(file: Checkpoint) -> str:
    """Of all numbers but tuned states, whatever they are stored as; raises FormatError for NaN.

    It is the same for both names that a tensor can have, and for each kind of file.
    """
    sha = hashlib.sha256()
    for key in sorted(map(read_key, file.names()), key=lambda key: (key.target, key.part.value)):
        file.require_readable(key.name)
        shape = file.shape(key.name)
        counts = not is_tuned_state(key.target)
        if counts:
            sha.update(f"{key.target} {key.part.value} {list(shape)}".encode())
        for block in blocks_of(file, key.name, shape):
            if not np.isfinite(block).all():
                raise FormatError(
                    f"{file.path}: {key.name}: holds NaN or infinity; its training diverged"
                )
            if counts:
                sha.update(np.ascontiguousarray(block, "<f4").data)
    return sha.hexdigest()


def blocks_of(file: Checkpoint, name: str, shape: Shape) -> Iterator[Float32Array]:
    """A tensor as float32, a few rows at a time if it is a matrix."""
    if len(shape) != 2 or math.prod(shape) <= BLOCK_WEIGHTS:
        yield file.read(name)
        return
    dtype = file.dtype(name)
    step = max(1, BLOCK_WEIGHTS // shape[1])
    for first in range(0, shape[0], step):
        last = min(first + step, shape[0])
        stored = np.empty((last - first, shape[1]), ELEMENT_DTYPES[dtype])
        file.read_rows(name, first, last, stored)
        yield widen(stored, dtype)
