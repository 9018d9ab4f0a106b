"""What a model's file says of itself beside its weights, in the keys of a GGUF."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from rwkv_edge.arch import ARCHITECTURES, Architecture
from rwkv_edge.backend import StateArrays
from rwkv_edge.chat_templates import template_name_in_gguf
from rwkv_edge.errors import BackendUnavailableError, FormatError, UnsupportedModelError, shown
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.tokenizers import Tokenizer, tokenizer_from_gguf
from rwkv_edge.tokenizers.gguf_vocabulary import KIND_KEY, MODEL_KEY
from rwkv_edge.tuned_state import tuned_state_in


class ModelMetadata(ABC):
    """An open model file of any container: who reads it knows all of it but the weights.

    path, architecture and hyperparameters are set by who opens it.
    """

    path: Path
    architecture: Architecture
    hyperparameters: Hyperparameters

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, object]:
        """The keys, as a GGUF of the same model has them."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Names the checkpoint, whichever weight type and container it was converted to."""

    @property
    @abstractmethod
    def file_type(self) -> str:
        """The weight type that most bytes of matrices are in, for people to read."""

    @property
    @abstractmethod
    def n_parameters(self) -> int:
        """Weights of all tensors, whatever they are stored in."""

    @property
    @abstractmethod
    def bytes_per_token(self) -> int:
        """Bytes of weights that one token reads if it reads each matrix whole."""

    @property
    def n_bytes(self) -> int:
        """Size of the file, and of what lies beside it."""
        return self.path.stat().st_size

    @abstractmethod
    def require_whole(self) -> None:
        """Raise FormatError if the file was cut or written over since it was opened."""

    @abstractmethod
    def close(self) -> None:
        """Let the file go."""

    @property
    def name(self) -> str:
        """What the model is called: as it says itself, else by its file."""
        # A list of a million texts would have a text, too.
        name = self.metadata.get("general.name")
        return name if isinstance(name, str) else self.path.stem

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the file carries."""
        for key in (MODEL_KEY, KIND_KEY):
            value = self.metadata.get(key)
            if value is not None and not isinstance(value, str):
                raise FormatError(f"{self.path}: key {key} is {shown(value)}, not a text")
        try:
            return tokenizer_from_gguf(self.metadata, self.hyperparameters.n_vocab)
        except (FormatError, UnsupportedModelError, BackendUnavailableError) as error:
            raise type(error)(f"{self.path}: {error}") from None

    def tuned_state(self) -> StateArrays | None:
        """The arrays that fresh states begin with, or None for the usual ones; raises FormatError.

        Read anew at each call.
        """
        try:
            return tuned_state_in(self.metadata, self.architecture, self.hyperparameters)
        except FormatError as error:
            raise FormatError(
                f"{self.path}: {error}; convert it again, or load it without its tuned state"
            ) from None

    @property
    def chat_template(self) -> str:
        """The name of the chat template that the model was trained on, as far as the file says."""
        return template_name_in_gguf(self.metadata)


def architecture_in(path: Path, metadata: Mapping[str, object]) -> Architecture:
    """The architecture that a file's keys name; raises UnsupportedModelError."""
    name = metadata.get("general.architecture")
    architecture = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if architecture is None:
        raise UnsupportedModelError(
            f"{path}: its architecture is {shown(name)}; this version runs "
            + ", ".join(ARCHITECTURES)
        )
    return architecture
