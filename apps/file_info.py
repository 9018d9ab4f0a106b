"""What a file of any kind that this program meets is, from its header alone."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rwkv_edge import Position
from rwkv_edge.arch import ARCHITECTURES
from rwkv_edge.chat_templates import TEMPLATE_KEY, template_name_in_gguf
from rwkv_edge.errors import FormatError, UnsupportedModelError, shown
from rwkv_edge.gguf_reader import MAGIC, GgufFile, require_no_pipe
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.state import POSITION_KEY
from rwkv_edge.tokenizers.gguf_vocabulary import KIND_KEY, MODEL_KEY

# Bytes of a number, by the name that checkpoints and states give its type.
NUMBER_BYTES = {
    "float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2,
    "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
STATE_PREFIX = "rwkv-edge state"
# A state file's header is a few hundred bytes.
MAX_STATE_HEADER = 1 << 20


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: its shape in numpy order, what its numbers are stored as, and its size."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int


@dataclass(frozen=True)
class FileInfo:
    """kind: a word for people; hyperparameters: None where the file holds no model that runs here.

    details: further facts, by name.
    """

    path: Path
    kind: str
    n_bytes: int
    n_parameters: int
    hyperparameters: Hyperparameters | None
    tensors: tuple[TensorInfo, ...]
    details: dict[str, str] = field(default_factory=dict)


def describe_file(path: Path) -> FileInfo:
    """A GGUF, a checkpoint or a state. Raises FormatError, UnsupportedModelError, OSError."""
    require_no_pipe(path)
    if path.is_dir():
        return describe_checkpoint(path, None)
    with open(path, "rb") as file:
        magic = file.read(len(MAGIC))
    if magic == MAGIC:
        return describe_gguf(path)
    state = state_metadata(path)
    return describe_checkpoint(path, state)


def describe_gguf(path: Path) -> FileInfo:
    """A GGUF of any architecture."""
    with GgufFile(path) as file:
        tensors = tuple(
            TensorInfo(name, tensor.quant_format.__name__, tensor.shape, tensor.raw.nbytes)
            for name, tensor in file.tensors.items()
        )
        metadata = file.metadata
        name = metadata.get("general.architecture")
        details = {"architecture": str(name), "name": str(metadata.get("general.name", ""))}
        details["tokenizer"] = tokenizer_in(metadata)
        if TEMPLATE_KEY in metadata:
            details["chat template"] = shown(template_name_in_gguf(metadata))
        architecture = ARCHITECTURES.get(name) if isinstance(name, str) else None
        hp = None
        if architecture is not None:
            shapes = {tensor.name: tensor.shape for tensor in tensors}
            try:
                hp = architecture.hyperparameters_from_gguf(metadata, shapes)
            except FormatError as error:
                raise FormatError(f"{path}: {error}; convert it again") from None
        return info_of(path, "GGUF model", tensors, hp, details)


def tokenizer_in(metadata: dict[str, object]) -> str:
    """The kind of a GGUF's tokenizer, and as what llama.cpp reads it."""
    model = metadata.get(MODEL_KEY)
    if model is None:
        return "none"
    kind = metadata.get(KIND_KEY, model)
    if model in (kind, "rwkv"):
        return shown(kind)
    return f"{shown(kind)} (for llama.cpp: {shown(model)})"


def describe_checkpoint(path: Path, state: dict[str, str] | None) -> FileInfo:
    """A `.pth` or safetensors file, `state` being the metadata if it is one of our states."""
    from rwkv_edge.converters.checkpoints import open_checkpoint
    from rwkv_edge.converters.model_source import hyperparameters_of

    with open_checkpoint(path) as checkpoint:
        tensors = tuple(
            tensor_of(name, checkpoint.dtype(name), shape)
            for name, shape in checkpoint.shapes().items()
        )
        details: dict[str, str] = {}
        if state is not None:
            for name in ("version", "fingerprint"):
                details[name] = state.get(name, "not said")
            if POSITION_KEY in state:
                details["document"] = describe_position(state[POSITION_KEY])
            return info_of(path, "state of a conversation", tensors, None, details)
        hp = None
        files = checkpoint.directory.files
        try:
            hp = hyperparameters_of(checkpoint)
        except (FormatError, UnsupportedModelError) as error:
            details["cannot be converted"] = str(error)
        return info_of(path, "checkpoint", tensors, hp, details, files)


def describe_position(stored: str) -> str:
    """How far a document had been read when a state was saved."""
    try:
        position = Position.from_json(stored)
    except FormatError as error:
        return str(error)
    after = f"; then {position.n_after:,} other tokens" if position.n_after else ""
    return f"read as far as byte {position.n_bytes:,}, which is {position.n_tokens:,} tokens{after}"


def info_of(
    path: Path,
    kind: str,
    tensors: tuple[TensorInfo, ...],
    hyperparameters: Hyperparameters | None,
    details: dict[str, str],
    files: Sequence[Path] = (),
) -> FileInfo:
    """Add up what the tensors say, and the sizes of the files if they are others than `path`."""
    return FileInfo(
        path=path,
        kind=kind,
        n_bytes=sum(file.stat().st_size for file in (files or [path])),
        n_parameters=sum(math.prod(tensor.shape) for tensor in tensors),
        hyperparameters=hyperparameters,
        tensors=tensors,
        details=details,
    )


def tensor_of(name: str, dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    """One tensor of a checkpoint; types that nobody knows the size of count as nothing."""
    return TensorInfo(name, dtype, shape, math.prod(shape) * NUMBER_BYTES.get(dtype, 0))


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
