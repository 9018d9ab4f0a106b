"""What is converted: a file of weights, recognised, and where each GGUF tensor comes from in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from rwkv_edge.converters.adapters import Adapter, TunedState, adapt, require_no_adapter
from rwkv_edge.converters.arch import CheckpointReader, Source, recognise
from rwkv_edge.converters.checkpoints import Checkpoint, open_checkpoint
from rwkv_edge.converters.tuned_state import (
    check_tuned_state,
    read_tuned_state,
    without_tuned_state,
)
from rwkv_edge.errors import FormatError, UnsupportedModelError
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.model_file import ADAPTERS_KEY
from rwkv_edge.tuned_state import TUNED_STATE_KEY, encode_tuned_state


@dataclass(frozen=True)
class ModelSource:
    """An open model to convert. Close it, or use it in a `with` block.

    sources: by the GGUF name of each tensor. own_keys: keys of this project's own for the GGUF.
    notes: sentences for the user, often none.
    """

    path: Path
    checkpoint: Checkpoint
    hyperparameters: Hyperparameters
    sources: Mapping[str, Source]
    own_keys: Mapping[str, str | list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

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
    path: str | Path, adapters: Sequence[Adapter | TunedState] = ()
) -> ModelSource:
    """Open a `.pth` or safetensors file, with what is to be merged into it, in this order.

    Raises FormatError, UnsupportedModelError, and InputError for options that fit no adapter.
    """
    checkpoint = open_checkpoint(path)
    try:
        reader, hp = recognised(checkpoint)
        adapted = adapt(checkpoint, hp, adapters)
        checkpoint = adapted.checkpoint
        own_keys: dict[str, str | list[str]] = {}
        if adapted.digest is not None:
            own_keys[ADAPTERS_KEY] = adapted.digest
        tuned_state = read_tuned_state(checkpoint, hp)
        if tuned_state is not None:
            own_keys[TUNED_STATE_KEY] = encode_tuned_state(tuned_state)
        sources = reader.sources(hp)
        return ModelSource(checkpoint.path, checkpoint, hp, sources, own_keys, adapted.notes)
    except BaseException:
        checkpoint.close()
        raise


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
