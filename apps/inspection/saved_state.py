"""A state that `State.save` wrote."""

import json
import shlex
from pathlib import Path

from rwkv_edge import Position
from rwkv_edge.apps.inspection.checkpoint import tensor_of
from rwkv_edge.apps.inspection.schema import FileInfo, n_parameters, totals
from rwkv_edge.errors import FormatError, shown
from rwkv_edge.state import POSITION_KEY

STATE_PREFIX = "rwkv-edge state"
# A state file's header is a few hundred bytes.
MAX_STATE_HEADER = 1 << 20


def state_metadata(path: Path) -> dict[str, str] | None:
    """The metadata of a state that `State.save` wrote, None for anything else."""
    with open(path, "rb") as file:
        # safetensors: the length of a JSON header in 8 bytes, then the header.
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= MAX_STATE_HEADER:
            return None
        raw = file.read(length)
    try:
        header = json.loads(raw)
    # Also the UnicodeDecodeError of bytes that are no text; deep nesting recurses.
    except (ValueError, RecursionError):
        return None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not str(metadata.get("format")).startswith(STATE_PREFIX):
        return None
    return {str(name): str(value) for name, value in metadata.items()}


def describe_state(path: Path, metadata: dict[str, str]) -> FileInfo:
    """What a state says of itself; its numbers are not read. Raises FormatError."""
    from rwkv_edge.converters.checkpoints import open_checkpoint

    with open_checkpoint(path) as file:
        tensors = tuple(
            tensor_of(name, file.dtype(name), shape) for name, shape in file.shapes().items()
        )
    details = {"fingerprint": shown(metadata.get("fingerprint", "not said"))}
    option = "--state"
    if POSITION_KEY in metadata:
        details["document"] = describe_position(metadata[POSITION_KEY])
        option = "--file DOCUMENT --resume"
    command = f"rwkv-edge generate MODEL {option} {shlex.quote(str(path))}"
    return FileInfo(
        path=path,
        kind="state of a conversation",
        use="resume",
        n_bytes=path.stat().st_size,
        container=".safetensors",
        version=shown(metadata["version"]) if "version" in metadata else None,
        n_parameters=n_parameters(tensors),
        types=totals((tensor.dtype, tensor.n_bytes) for tensor in tensors),
        advice=f"go on from it with the model that made it: {command}",
        details=details,
        tensors=tensors,
    )


def describe_position(stored: str) -> str:
    """How far a document had been read when a state was saved."""
    try:
        position = Position.from_json(stored)
    except FormatError as error:
        return str(error)
    after = f"; then {position.n_after:,} other tokens" if position.n_after else ""
    return f"read as far as byte {position.n_bytes:,}, which is {position.n_tokens:,} tokens{after}"
