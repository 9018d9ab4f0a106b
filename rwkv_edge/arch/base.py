"""What a version of RWKV declares: which tensors its GGUF holds, and which arrays its state."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from rwkv_edge.hyperparameters import Hyperparameters

Shape = tuple[int, ...]


class Role(Enum):
    """How a tensor is stored.

    MATRIX takes the weight type that the user chose. LORA (the small low-rank matrices) never goes
    below 16 bits: it is under 10 % of the bytes and most of the error. VECTOR is always float32.
    TABLE has a row for each token, of which a token reads its own alone: it stays in the file, and
    never goes below 8 bits, since that costs no time.
    """

    MATRIX = "matrix"
    LORA = "lora"
    VECTOR = "vector"
    TABLE = "table"


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a GGUF: its llama.cpp name, its shape in numpy order (contiguous last)."""

    name: str
    shape: Shape
    role: Role


class Architecture(ABC):
    """One GGUF architecture: its `general.architecture` name, tensors and state.

    versions: those of RWKV that its files may hold, most of them one alone; the newest comes last.
    """

    name: str
    versions: tuple[str, ...]

    @abstractmethod
    def hyperparameters_from_gguf(
        self, metadata: Mapping[str, object], shapes: Mapping[str, Shape]
    ) -> Hyperparameters:
        """Read the shape out of a GGUF's keys and tensor shapes; raises FormatError."""

    @abstractmethod
    def gguf_metadata(self, hyperparameters: Hyperparameters) -> dict[str, int | float | str]:
        """The `{arch}.*` keys: those that llama.cpp asks for, where it knows the architecture."""

    @abstractmethod
    def tensors(self, hyperparameters: Hyperparameters) -> list[TensorSpec]:
        """Every tensor of the file, in file order."""

    def older_parts(self, tensor: str) -> tuple[str, ...]:
        """What older files hold instead of a tensor, one below the other; mostly nothing."""
        del tensor
        return ()

    @abstractmethod
    def state_shapes(self, hyperparameters: Hyperparameters) -> dict[str, Shape]:
        """The canonical state: float32 arrays by name, the layer first."""

    def state_initial_value(self, array_name: str) -> float:
        """What a fresh state's array is filled with."""
        del array_name
        return 0.0
