"""The state of one sequence: what a model remembers of all tokens so far, in constant size."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rwkv_edge.arch import Shape
from rwkv_edge.atomic_file import atomic_write
from rwkv_edge.backend import StateArrays
from rwkv_edge.errors import BackendUnavailableError, FormatError, StateMismatchError, shown

if TYPE_CHECKING:
    from rwkv_edge.model import Model
    from rwkv_edge.reading import Position

# Says in a safetensors file's metadata that it is a state, and in which arrangement.
FILE_FORMAT = "rwkv-edge state 1"
# Where a document was left, in the metadata of a state that was saved while reading it.
POSITION_KEY = "position"


class State:
    """One sequence's memory. `Model.forward` advances it in place; `clone` keeps a moment.

    A state belongs to the model that made it, and is not shared between threads.
    """

    def __init__(self, model: "Model", handle: object) -> None:
        self.model = model
        # The backend's own; nothing else looks inside.
        self.handle = handle

    def clone(self) -> "State":
        """An independent copy."""
        with self.model.using() as backend:
            return State(self.model, backend.clone_state(self.handle))

    def assign(self, other: "State") -> None:
        """Become what `other` is now; raises StateMismatchError for another model's state."""
        self.handle = self.model.check_state(other).clone().handle

    def to_arrays(self) -> StateArrays:
        """The canonical arrays by name, float32 copies: what every backend understands."""
        with self.model.using() as backend:
            return backend.state_to_arrays(self.handle)

    def views(self) -> StateArrays:
        """The canonical arrays by name, as views of the state's own memory.

        `Model.forward` changes what they show, and goes on from what is written into them, until
        the state is assigned another. Raises BackendUnavailableError where the backend keeps its
        states in another form.
        """
        with self.model.using() as backend:
            views = backend.state_views(self.handle)
        if views is None:
            raise BackendUnavailableError(
                f"the {self.model.backend.name} backend keeps its states in a form of its own, "
                "which has no views; use to_arrays(), or the numba backend"
            )
        return views

    def save(self, path: str | Path, position: "Position | None" = None) -> None:
        """Write a safetensors file, whole or not at all. Raises OSError.

        position: how far a document was read, for `Model.resume`.
        """
        from safetensors.numpy import save

        arrays = self.to_arrays()
        metadata = {
            "format": FILE_FORMAT,
            "version": self.model.hyperparameters.version,
            "shape": json.dumps(describe(self.model.state_shapes)),
            "fingerprint": self.model.fingerprint,
            "digest": digest(arrays),
        }
        if position is not None:
            metadata[POSITION_KEY] = position.to_json()
        data = save(arrays, metadata=metadata)
        with atomic_write(path) as file:
            file.write(data)


def load_state_arrays(path: str | Path, model: "Model") -> StateArrays:
    """Read a state file that belongs to `model`; raises as `load_state_file` does."""
    return load_state_file(path, model)[0]


def load_state_file(path: str | Path, model: "Model") -> tuple[StateArrays, Mapping[str, str]]:
    """The arrays and metadata of a state file that belongs to `model`.

    Raises FormatError for a file that is damaged or no state, StateMismatchError for one of
    another model, OSError if it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    with open(path, "rb"):
        pass  # safetensors reports a missing file in words of its own
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FILE_FORMAT:
                raise FormatError(f"{path}: this safetensors file is not a state of rwkv-edge")
            check_belongs(path, metadata, model)
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {name: tuple(s.get_shape()) for name, s in slices.items()}
            types = {s.get_dtype() for s in slices.values()}
            if found != model.state_shapes or types != {"F32"}:
                held = shown(json.dumps(describe(found)))
                raise FormatError(
                    f"{path}: it holds {held} as {shown(', '.join(sorted(types)))}; "
                    f"this model's state is {describe(model.state_shapes)} as F32"
                )
            arrays = {name: np.array(file.get_tensor(name), np.float32) for name in slices}
    except SafetensorError as error:
        raise FormatError(
            f"{path}: not a state file, or a damaged one ({shown(str(error))})"
        ) from None
    if metadata.get("digest") != digest(arrays):
        raise FormatError(
            f"{path}: the state is damaged: its numbers are not those that were saved"
        )
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise FormatError(f"{path}: the state holds numbers that are not finite; begin a new one")
    return arrays, metadata


def digest(arrays: StateArrays) -> str:
    """Of all numbers: safetensors itself would notice a missing byte, but not a changed one."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        sha.update(np.ascontiguousarray(arrays[name], "<f4").data)
    return sha.hexdigest()


def check_belongs(path: Path, metadata: dict[str, str], model: "Model") -> None:
    """Raise StateMismatchError unless a state file's metadata names this model."""
    version = metadata.get("version")
    if version != model.hyperparameters.version:
        raise StateMismatchError(
            f"{path}: a state of RWKV-{shown(version)}; {model.path} is "
            f"RWKV-{model.hyperparameters.version}"
        )
    wanted = json.dumps(describe(model.state_shapes))
    if metadata.get("shape") != wanted:
        raise StateMismatchError(
            f"{path}: a state of shape {shown(metadata.get('shape'))}; {model.path} has {wanted}"
        )
    if metadata.get("fingerprint") != model.fingerprint:
        raise StateMismatchError(
            f"{path}: a state of the same shape but of another checkpoint than {model.path}"
        )


def describe(shapes: dict[str, Shape]) -> dict[str, list[int]]:
    """Shapes as JSON would hold them, for messages and metadata."""
    return {name: list(shape) for name, shape in shapes.items()}
