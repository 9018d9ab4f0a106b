"""What a version of RWKV declares: which tensors its GGUF holds, and which arrays its state."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
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


# A tensor of a layer, its name without `blk.N.`.
LayerTensor = tuple[str, Shape, Role]


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

    def unread(self, hyperparameters: Hyperparameters) -> frozenset[str]:
        """Tensors of the schema that nothing reads: a GGUF has them because llama.cpp asks."""
        del hyperparameters
        return frozenset()

    @abstractmethod
    def state_shapes(self, hyperparameters: Hyperparameters) -> dict[str, Shape]:
        """The canonical state: float32 arrays by name, the layer first."""

    def state_initial_value(self, array_name: str) -> float:
        """What a fresh state's array is filled with."""
        del array_name
        return 0.0


def whole_model(
    hyperparameters: Hyperparameters, layer: Callable[[int], Iterable[LayerTensor]]
) -> list[TensorSpec]:
    """Every tensor of a file: embedding, what `layer` names for each layer, and head."""
    hp = hyperparameters
    C = hp.n_embd
    return [
        TensorSpec("token_embd.weight", (hp.n_vocab, C), Role.MATRIX),
        TensorSpec("token_embd_norm.weight", (C,), Role.VECTOR),
        TensorSpec("token_embd_norm.bias", (C,), Role.VECTOR),
        *(
            TensorSpec(f"blk.{i}.{name}", shape, role)
            for i in range(hp.n_layer)
            for name, shape, role in layer(i)
        ),
        TensorSpec("output_norm.weight", (C,), Role.VECTOR),
        TensorSpec("output_norm.bias", (C,), Role.VECTOR),
        TensorSpec("output.weight", (hp.n_vocab, C), Role.MATRIX),
    ]


def head_state_shapes(hyperparameters: Hyperparameters) -> dict[str, Shape]:
    """att_x and ffn_x: what each layer's token shift saw last; wkv: a matrix for each head."""
    hp = hyperparameters
    return {
        "att_x": (hp.n_layer, hp.n_embd),
        "wkv": (hp.n_layer, hp.n_head, hp.head_size, hp.head_size),
        "ffn_x": (hp.n_layer, hp.n_embd),
    }
