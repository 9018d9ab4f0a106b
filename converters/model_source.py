"""What is converted: a file of weights, recognised, and where each GGUF tensor comes from in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from rwkv_edge.converters.adapters import Adapter, TunedState, adapt, require_no_adapter
from rwkv_edge.converters.arch import CheckpointReader, Source, recognise
from rwkv_edge.converters.carried_keys import CarriedKeys
from rwkv_edge.converters.checkpoints import GGUF, Checkpoint, open_directory, read_directory
from rwkv_edge.converters.gguf_source import schema_of_gguf
from rwkv_edge.converters.names import in_own_names
from rwkv_edge.converters.tuned_state import (
    check_tuned_state,
    read_tuned_state,
    without_tuned_state,
)
from rwkv_edge.errors import FormatError, InputError, UnsupportedModelError
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.model_file import ADAPTERS_KEY
from rwkv_edge.tuned_state import TUNED_STATE_KEY, encode_tuned_state


@dataclass(frozen=True)
class ModelSource:
    """An open model to convert. Close it, or use it in a `with` block.

    files: all that are read; a tokenizer is looked for beside the first. sources: by the GGUF name
    of each tensor. notes: sentences for the user, often none. keys: what the new file takes over
    from a GGUF. own_keys: keys of this project's own for the new file.
    """

    path: Path
    checkpoint: Checkpoint
    hyperparameters: Hyperparameters
    sources: Mapping[str, Source]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()
    keys: CarriedKeys | None = None
    own_keys: Mapping[str, str | list[str]] = field(default_factory=dict)

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


def open_model_source(
    path: str | Path, adapters: Sequence[Adapter | TunedState] = (), *, as_stored: bool = False
) -> ModelSource:
    """Open weights of any container and naming, with what is to be merged into it, in this order.

    as_stored: tensors keep the weight types of a GGUF, which it must be.
    Raises FormatError, UnsupportedModelError, and InputError for options that fit no adapter.
    """
    path = Path(path)
    directory = in_own_names(path, read_directory(path))
    keys = None
    if directory.container == GGUF:
        directory, hp, sources, keys = schema_of_gguf(path, directory, as_stored=as_stored)
        if any(isinstance(adapter, Adapter) for adapter in adapters):
            raise InputError(
                f"{path}: an adapter is merged into the checkpoint that it was trained on, not "
                "into a GGUF; convert the .pth with it"
            )
    elif as_stored:
        raise InputError(
            f"{path}: is no GGUF, whose weight types could be kept; name a weight type, Q4_0 or "
            "another"
        )
    checkpoint = open_directory(path, directory)
    try:
        if keys is None:
            reader, hp = recognised(checkpoint)
            sources = reader.sources(hp)
        adapted = adapt(checkpoint, hp, adapters)
        checkpoint = adapted.checkpoint
        own_keys: dict[str, str | list[str]] = {}
        if adapted.digest is not None:
            own_keys[ADAPTERS_KEY] = adapted.digest
        tuned_state = read_tuned_state(checkpoint, hp)
        if tuned_state is not None:
            own_keys[TUNED_STATE_KEY] = encode_tuned_state(tuned_state)
        notes = (*directory.notes, *adapted.notes)
        return ModelSource(path, checkpoint, hp, sources, directory.files, notes, keys, own_keys)
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
    require_no_adapter(checkpoint.path, shapes)
    try:
        weights = without_tuned_state(shapes)
        reader = recognise(weights)
        hp = reader.check(weights)
        check_tuned_state(shapes, hp)
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
