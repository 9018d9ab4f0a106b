"""The state of one sequence: what a model remembers of all tokens so far, in constant size."""

import hashlib
import json
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rwkv_edge.arch import Shape
from rwkv_edge.atomic_file import atomic_write
from rwkv_edge.backend import Float32Array, StateArrays
from rwkv_edge.errors import BackendUnavailableError, FormatError, StateMismatchError, shown
from rwkv_edge.gguf_reader import require_no_pipe

if TYPE_CHECKING:
    from rwkv_edge.model import Model
    from rwkv_edge.reading import Position

# Says in a safetensors file's metadata that it is a state, and in which arrangement.
FILE_FORMAT = "rwkv-edge state 1"
# Where a document was left, in the metadata of a state that was saved while reading it.
POSITION_KEY = "position"
# A state's header is a few hundred bytes; safetensors itself would parse one of 100 MB.
HEADER_LENGTH_BYTES = 8
MAX_HEADER_BYTES = 1 << 20


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
    require_no_pipe(path)
    with open(path, "rb") as file:
        n_header = int.from_bytes(file.read(HEADER_LENGTH_BYTES), "little")
        if n_header > MAX_HEADER_BYTES:
            raise no_state(path, f"its header says {n_header:,} bytes")
        try:
            with safe_open(path, framework="numpy") as header:
                metadata = header.metadata() or {}
                if metadata.get("format") != FILE_FORMAT:
                    raise FormatError(f"{path}: this safetensors file is not a state of rwkv-edge")
                check_belongs(path, metadata, model)
                slices = {name: header.get_slice(name) for name in header.offset_keys()}
                found = {name: tuple(s.get_shape()) for name, s in slices.items()}
                types = {s.get_dtype() for s in slices.values()}
        except SafetensorError as error:
            raise no_state(path, shown(str(error))) from None
        if found != model.state_shapes or types != {"F32"}:
            held = shown(json.dumps(describe(found)))
            raise FormatError(
                f"{path}: it holds {held} as {shown(', '.join(sorted(types)))}; "
                f"this model's state is {describe(model.state_shapes)} as F32"
            )
        # safetensors would map them, and a file that becomes shorter then ends the process.
        file.seek(HEADER_LENGTH_BYTES + n_header)
        arrays = {name: read_array(path, file, shape) for name, shape in found.items()}
    if metadata.get("digest") != digest(arrays):
        raise FormatError(
            f"{path}: the state is damaged: its numbers are not those that were saved"
        )
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise FormatError(f"{path}: the state holds numbers that are not finite; begin a new one")
    return arrays, metadata


def read_array(path: Path, file: BufferedReader, shape: Shape) -> Float32Array:
    """The numbers that follow in a file; raises FormatError if there are too few."""
    array = np.empty(shape, "<f4")
    if file.readinto(array.reshape(-1).view(np.uint8).data) < array.nbytes:
        raise no_state(path, "it became shorter while it was read")
    return array.astype(np.float32, copy=False)


def no_state(path: Path, problem: str) -> FormatError:
    """The error for what is no state file, or none any more."""
    return FormatError(f"{path}: not a state file, or a damaged one ({problem})")


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
