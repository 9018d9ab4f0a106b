"""Files that hold a tuned state alone: for a conversion, or for a model that is loaded already."""

from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_edge.arch import architecture_of
from rwkv_edge.converters.adapters.adapted_checkpoint import AdaptedCheckpoint, Recipe
from rwkv_edge.converters.adapters.files import Changes
from rwkv_edge.converters.adapters.keys import read_key
from rwkv_edge.converters.adapters.sources import Replacement
from rwkv_edge.converters.checkpoints import Checkpoint, open_checkpoint
from rwkv_edge.converters.checkpoints.safetensors_file import looks_like_safetensors
from rwkv_edge.converters.tuned_state import check_tuned_state, is_tuned_state, read_tuned_state
from rwkv_edge.errors import FormatError
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.tuned_state import with_initial_shifts

if TYPE_CHECKING:
    from rwkv_edge import Model, State

HEAD_BYTES = 16


def load_tuned_state(path: str | Path, model: "Model") -> "State":
    """A state of a loaded model out of a file that holds a tuned one alone.

    Raises FormatError for a file of another kind, or one that does not fit the model.
    """
    hp = model.hyperparameters
    with open_checkpoint(path) as file:
        changes = changes_of_state(file, hp, [])
        recipes = {name: Recipe(origin, []) for name, origin in changes.replacements.items()}
        wkv = read_tuned_state(AdaptedCheckpoint(file, recipes, []), hp)
    # A file without any has been refused: a checkpoint holds at least one tensor.
    assert wkv is not None
    return model.state_from_arrays(with_initial_shifts(wkv, architecture_of(hp.version), hp))


def changes_of_state(
    file: Checkpoint, hyperparameters: Hyperparameters, notes: list[str]
) -> Changes:
    """The layers' tuned states out of a file that holds nothing else; raises FormatError."""
    keys = [read_key(name) for name in file.names()]
    other = [key.name for key in keys if not is_tuned_state(key.target)]
    if other:
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        raise FormatError(
            f"{file.path}: holds {other[0]}{more}, which is no tuned state; give an adapter with "
            "--adapter"
        )
    check_state_in(file, hyperparameters)
    # Those that web-rwkv converts for itself have rows of one key.
    swapped = is_safetensors(file)
    if swapped:
        notes.append(
            f"{file.path}: read as web-rwkv writes states, a row for each key; one that has a row "
            "for each value must be a .pth"
        )
    return Changes({key.target: Replacement(file, key.name, swapped) for key in keys})


def check_state_in(file: Checkpoint, hyperparameters: Hyperparameters) -> None:
    """Raise FormatError unless the tuned states in a file, if there are any, fit the model."""
    try:
        named = {read_key(name).target: file.shape(name) for name in file.names()}
        check_tuned_state({n: s for n, s in named.items() if is_tuned_state(n)}, hyperparameters)
    except FormatError as error:
        raise FormatError(f"{file.path}: {error}") from None


def is_safetensors(file: Checkpoint) -> bool:
    """Is the file safetensors, not a `.pth`?"""
    with open(file.path, "rb") as opened:
        head = opened.read(HEAD_BYTES)
    return looks_like_safetensors(head, file.path.stat().st_size)
