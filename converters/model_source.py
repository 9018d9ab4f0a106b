"""What is converted: a file of weights, recognised, and where each GGUF tensor comes from in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rwkv_edge.converters.arch import CheckpointReader, Source, recognise
from rwkv_edge.converters.carried_keys import CarriedKeys
from rwkv_edge.converters.checkpoints import GGUF, Checkpoint, open_directory, read_directory
from rwkv_edge.converters.gguf_source import schema_of_gguf
from rwkv_edge.converters.names import in_own_names
from rwkv_edge.errors import FormatError, UnsupportedModelError
from rwkv_edge.hyperparameters import Hyperparameters


@dataclass(frozen=True)
class ModelSource:
    """An open model to convert. Close it, or use it in a `with` block.

    files: all that are read; a tokenizer is looked for beside the first. sources: by the GGUF name
    of each tensor. notes: sentences for the user, often none. keys: what the new file takes over
    from a GGUF.
    """

    path: Path
    checkpoint: Checkpoint
    hyperparameters: Hyperparameters
    sources: Mapping[str, Source]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    keys: CarriedKeys | None = None

    @property
    def name(self) -> str:
        """What the model is called: as it says itself, else by its file or folder."""
        if self.keys is not None and self.keys.name is not None:
            return self.keys.name
        return self.path.resolve().name if self.path.is_dir() else self.path.stem

    def __enter__(self) -> "ModelSource":
        """Return self."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.checkpoint.close()


def open_model_source(path: str | Path) -> ModelSource:
    """Open weights of any container and naming; raises FormatError, UnsupportedModelError."""
    path = Path(path)
    directory = in_own_names(path, read_directory(path))
    keys = None
    if directory.container == GGUF:
        directory, hp, sources, keys = schema_of_gguf(path, directory)
    checkpoint = open_directory(path, directory)
    try:
        if keys is None:
            reader, hp = recognised(checkpoint)
            sources = reader.sources(hp)
        return ModelSource(path, checkpoint, hp, sources, directory.files, directory.notes, keys)
    except BaseException:
        checkpoint.close()
        raise


def open_model_checkpoint(path: str | Path) -> Checkpoint:
    """The tensors of a file as RWKV-LM names them, whoever named them; raises FormatError."""
    path = Path(path)
    return open_directory(path, in_own_names(path, read_directory(path)))


def recognised(checkpoint: Checkpoint) -> tuple[CheckpointReader, Hyperparameters]:
    """The version and the shape of a checkpoint; raises FormatError, UnsupportedModelError."""
    shapes = checkpoint.shapes()
    try:
        reader = recognise(shapes)
        hp = reader.check(shapes)
    except (FormatError, UnsupportedModelError) as error:
        raise type(error)(f"{checkpoint.path}: {error}") from error
    for key in shapes:
        checkpoint.require_readable(key)
    return reader, hp


def hyperparameters_of(checkpoint: Checkpoint) -> Hyperparameters:
    """What the tensors say of the model, whoever named them, complete or not.

    Raises FormatError, UnsupportedModelError.
    """
    tensors = in_own_names(checkpoint.path, checkpoint.directory).tensors
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return recognise(shapes).hyperparameters(shapes)
