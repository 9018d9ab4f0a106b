"""A model's state as the official package hands it out: a list of arrays, layer after layer.

The arrays are views of the memory that the kernels work in, so that forward copies nothing as long
as it gets its own list back. What a caller may do with such a list and its arrays is honoured:

- written into an array: the kernels see it, for it is their memory;
- an array replaced by another: all are gathered into new memory;
- an array or a copy of the list kept elsewhere: forward must not change it, as in the official
  package, which makes new tensors. Whether anyone else holds an array is told by how often it is
  referred to; if so, forward goes on in a copy.
"""

import sys
from functools import cache
from typing import Any

import numpy as np

from rwkv_edge.backend import Float32Array
from rwkv_edge.compat.tensor import Tensor
from rwkv_edge.errors import InputError, StateMismatchError, UnsupportedModelError
from rwkv_edge.model import Model
from rwkv_edge.state import State

# The arrays of a layer in the order of the official list: versions 4, and 5 to 7. Those of 5 and 6
# have rows for keys and columns for values, those of 7 the other way round: so have our own.
OFFICIAL_ORDERS = (
    ("att_x", "aa", "bb", "pp", "ffn_x"),
    ("att_x", "wkv", "ffn_x"),
)


class Entry(Tensor):
    """One array of a list that shares its memory with a `State`; views and copies are none."""

    memory: "Memory | None" = None
    place = -1


class Memory:
    """A state, and how often its memory is referred to while nobody but its own list does so."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._owners: list[Float32Array] = []
        self._n_references: list[int] = []

    def entries(self, order: tuple[str, ...]) -> list[Tensor]:
        """The list's arrays; made once, and held by nobody else."""
        views = self.state.views()
        entries: list[Tensor] = []
        for layer in range(len(views[order[0]])):
            for name in order:
                entry = views[name][layer].view(Entry)
                entry.memory, entry.place = self, len(entries)
                entries.append(entry)
        owners = {id(owner): owner for owner in map(owner_of, views.values())}
        self._owners = list(owners.values())
        del views, owners
        self._n_references = references(self._owners)
        return entries

    def is_held_elsewhere(self, entries: list[Any]) -> bool:
        """Does anyone but this list refer to its arrays, or to their memory by other arrays?"""
        # The arrays refer to this object, so their memory must be asked itself: numpy lets a view
        # of a view refer to the owner directly.
        if max(references(entries)) > lone_references():
            return True
        now = references(self._owners)
        return any(n > before for n, before in zip(now, self._n_references, strict=True))


def owner_of(array: Float32Array) -> Float32Array:
    """The array whose memory this is a view of, in the end."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def references(objects: list[Any]) -> list[int]:
    """How often each is referred to, those of the call itself included."""
    return list(map(sys.getrefcount, objects))


@cache
def lone_references() -> int:
    """What `references` says of an object that is in one list and nowhere else."""
    return references([object()])[0]


class StateLists:
    """Turns lists into states and states into lists, for one model."""

    def __init__(self, model: Model) -> None:
        """Raises UnsupportedModelError for a version whose official list is unknown."""
        self._model = model
        names = set(model.state_shapes)
        order = next((order for order in OFFICIAL_ORDERS if set(order) == names), None)
        if order is None:
            raise UnsupportedModelError(
                f"{model.path}: the official package has no list for a state of RWKV-"
                f"{model.hyperparameters.version}, which holds {', '.join(sorted(names))}"
            )
        self._order = order
        n_layer = model.hyperparameters.n_layer
        self._shapes = [model.state_shapes[name][1:] for name in order] * n_layer

    def fresh(self) -> list[Tensor]:
        """The list of a state that has seen nothing."""
        return Memory(self._model.new_state()).entries(self._order)

    def state_of(self, entries: list[Any]) -> State:
        """The state that a list stands for; the list's arrays are then views of its memory.

        They are the same arrays as before where nobody else holds them, and new ones of the same
        numbers otherwise. Raises StateMismatchError, InputError.
        """
        if len(entries) != len(self._shapes):
            raise StateMismatchError(
                f"the state is a list of {len(entries)} arrays; {self._model.path} has "
                f"{len(self._shapes)}"
            )
        memory = self._memory_of(entries)
        if memory is None:
            memory = Memory(self._gathered(entries))
        elif memory.is_held_elsewhere(entries):
            memory = Memory(memory.state.clone())
        else:
            return memory.state
        entries[:] = memory.entries(self._order)
        return memory.state

    def _memory_of(self, entries: list[Any]) -> Memory | None:
        """The memory that all arrays are views of, each in its place; None if any is not."""
        memory = entries[0].memory if type(entries[0]) is Entry else None
        if memory is None or memory.state.model is not self._model:
            return None
        for place, entry in enumerate(entries):
            if type(entry) is not Entry or entry.memory is not memory or entry.place != place:
                return None
        return memory

    def _gathered(self, entries: list[Any]) -> State:
        """A state of its own out of any arrays; torch's CPU tensors are arrays too."""
        arrays = [as_array(entry, i) for i, entry in enumerate(entries)]
        for i, (array, wanted) in enumerate(zip(arrays, self._shapes, strict=True)):
            if array.shape != wanted:
                raise StateMismatchError(
                    f"entry {i} of the state is {list(array.shape)}; {self._model.path} has "
                    f"{list(wanted)} there"
                )
        n_names = len(self._order)
        return self._model.state_from_arrays(
            {name: np.stack(arrays[i::n_names]) for i, name in enumerate(self._order)}
        )


def as_array(entry: Any, place: int) -> Float32Array:
    """Float32 numbers out of an array, or of a torch tensor of any type; raises InputError."""
    try:
        plain = entry.detach().cpu().float() if hasattr(entry, "detach") else entry
        return np.asarray(plain, np.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"entry {place} of the state is no array of numbers: {error}") from None
