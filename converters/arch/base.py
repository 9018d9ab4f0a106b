"""How the tensors of a checkpoint become the tensors of a GGUF."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from rwkv_edge.arch.gguf_keys import MAX_COUNT
from rwkv_edge.converters.checkpoints import Checkpoint
from rwkv_edge.errors import FormatError
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.quant import Float32Array, QuantFormat

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
# Rows [start, stop) of a tensor.
ReadRows = Callable[[int, int], Float32Array]


class Source(ABC):
    """Where a GGUF tensor comes from."""

    @abstractmethod
    def load(self, checkpoint: Checkpoint, shape: Shape) -> Float32Array:
        """The tensor, in the shape that the GGUF wants."""


@dataclass(frozen=True)
class AsStored(Source):
    """One tensor, row for row; large ones are streamed rather than loaded."""

    key: str

    def load(self, checkpoint: Checkpoint, shape: Shape) -> Float32Array:
        """The tensor without dimensions of length one."""
        return checkpoint.read(self.key).reshape(shape)


@dataclass(frozen=True)
class Unchanged(AsStored):
    """One tensor of a GGUF in the format that it has there, byte for byte."""

    quant: type[QuantFormat]


@dataclass(frozen=True)
class Transposed(Source):
    """A low-rank matrix, or several: RWKV stores (in, out) and multiplies x @ W, ggml wants
    (out, in).
    """

    key: str

    def load(self, checkpoint: Checkpoint, shape: Shape) -> Float32Array:
        """The tensor with its last two dimensions exchanged."""
        turned = np.swapaxes(checkpoint.read(self.key), -1, -2)
        return np.ascontiguousarray(turned).reshape(shape)


@dataclass(frozen=True)
class Stacked(Source):
    """Several vectors, one below the other."""

    keys: tuple[str, ...]

    def load(self, checkpoint: Checkpoint, shape: Shape) -> Float32Array:
        """The vectors in the order of the keys."""
        return np.stack([checkpoint.read(key).reshape(-1) for key in self.keys]).reshape(shape)


@dataclass(frozen=True)
class Lerps(Source):
    """Several mixes of RWKV-4 and 5, which save mu of x mu + previous (1 - mu), as lerps.

    A GGUF holds those of x + (previous - x) lerp, whatever the version: 1 - mu. That is exact for
    16-bit numbers from 0.5 to 1, and nowhere rounded by more than half of float32's last place.
    """

    keys: tuple[str, ...]

    def load(self, checkpoint: Checkpoint, shape: Shape) -> Float32Array:
        """1 - mu of each, one below the other, in the order of the keys."""
        mixes = Stacked(self.keys).load(checkpoint, shape)
        lerps: Float32Array = np.float32(1) - mixes
        return lerps


@dataclass(frozen=True)
class Padding(Source):
    """A tensor that readers ask for and nothing uses; it is filled from another source."""

    like: Source
    like_shape: Shape

    def load(self, checkpoint: Checkpoint, shape: Shape) -> Float32Array:
        """The other source, cut or filled with zeros to the wanted shape."""
        padded = np.zeros(shape, np.float32)
        common = tuple(slice(min(a, b)) for a, b in zip(shape, self.like_shape, strict=True))
        padded[common] = self.like.load(checkpoint, self.like_shape)[common]
        return padded


class ComputedRows(Source):
    """A large tensor that the checkpoint does not hold as it is: streamed in blocks of rows."""

    @abstractmethod
    def open(self, checkpoint: Checkpoint) -> ReadRows:
        """What computes rows; several threads may call it at once."""

    def load(self, checkpoint: Checkpoint, shape: Shape) -> Float32Array:
        """All rows at once, in the memory of the whole tensor."""
        return self.open(checkpoint)(0, shape[0]).reshape(shape)


# Tensors outside the blocks, by their GGUF names: the same in every version.
OUTSIDE_BLOCKS: Mapping[str, Source] = {
    "token_embd.weight": AsStored("emb.weight"),
    "token_embd_norm.weight": AsStored("blocks.0.ln0.weight"),
    "token_embd_norm.bias": AsStored("blocks.0.ln0.bias"),
    "output_norm.weight": AsStored("ln_out.weight"),
    "output_norm.bias": AsStored("ln_out.bias"),
    "output.weight": AsStored("head.weight"),
}


def whole_checkpoint(
    hyperparameters: Hyperparameters, block: Mapping[str, Shape]
) -> dict[str, Shape]:
    """Every tensor of a checkpoint whose blocks all hold those of `block`, in file order."""
    hp = hyperparameters
    C = hp.n_embd
    shapes: dict[str, Shape] = {
        "emb.weight": (hp.n_vocab, C),
        "blocks.0.ln0.weight": (C,),
        "blocks.0.ln0.bias": (C,),
    }
    for i in range(hp.n_layer):
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return shapes | {"ln_out.weight": (C,), "ln_out.bias": (C,), "head.weight": (hp.n_vocab, C)}


class CheckpointReader(ABC):
    """One version of RWKV as its training code saves it."""

    @abstractmethod
    def hyperparameters(self, shapes: Shapes) -> Hyperparameters:
        """Read the model's shape off its tensors; raises FormatError without the file's name."""

    @abstractmethod
    def required(self, hyperparameters: Hyperparameters) -> dict[str, Shape]:
        """Every tensor that must be there, and its shape; dimensions of length one do not count."""

    def may_be_flat(self, key: str) -> bool:
        """True for a tensor that some files hold with its dimensions run together."""
        del key
        return False

    def ignored(self, hyperparameters: Hyperparameters) -> frozenset[str]:
        """Tensors that may be there and are not used; none, unless a version says otherwise."""
        del hyperparameters
        return frozenset()

    @abstractmethod
    def sources(self, hyperparameters: Hyperparameters) -> dict[str, Source]:
        """Where each GGUF tensor comes from, by its GGUF name."""

    def check(self, shapes: Shapes) -> Hyperparameters:
        """Compare the checkpoint with what its hyperparameters demand; raises FormatError."""
        hp = self.hyperparameters(shapes)
        required = self.required(hp)
        missing = [key for key in required if key not in shapes]
        if missing:
            raise FormatError(
                f"{listed(missing)} missing; a model of {hp.n_layer} layers has {len(required)} "
                "tensors; the file is incomplete"
            )
        for key, wanted in required.items():
            found = squeezed(shapes[key])
            is_flat = self.may_be_flat(key) and found == (prod(wanted),)
            if found != squeezed(wanted) and not is_flat:
                raise FormatError(f"{key} is {list(shapes[key])}; wanted {list(wanted)}")
        unknown = [key for key in shapes if key not in required and key not in self.ignored(hp)]
        if unknown:
            raise FormatError(
                f"{listed(unknown)} not part of RWKV-{hp.version}; "
                "an adapter is merged by --adapter, another architecture cannot be converted"
            )
        return hp


def squeezed(shape: Shape) -> Shape:
    """Dimensions longer than one."""
    return tuple(n for n in shape if n != 1)


def listed(names: list[str], n_shown: int = 3) -> str:
    """The first few names, and how many more, with the verb that fits."""
    shown = ", ".join(names[:n_shown])
    more = f" and {len(names) - n_shown} more" if len(names) > n_shown else ""
    return f"{shown}{more} {'is' if len(names) == 1 else 'are'}"


def count_layers(shapes: Shapes) -> int:
    """Layers by the numbers in `blocks.N.`, which must run from 0 without gaps."""
    numbers = set()
    for key in shapes:
        first, _, rest = key.partition(".")
        number = rest.partition(".")[0]
        if first == "blocks" and number.isdecimal() and len(number) < 6:
            numbers.add(int(number))
    missing = sorted(set(range(max(numbers, default=-1) + 1)) - numbers)
    if not numbers or missing:
        what = f"blocks.{missing[0]} is missing" if missing else "it has no blocks"
        raise FormatError(f"{what}; the file is incomplete")
    return len(numbers)


def require_shape(shapes: Shapes, key: str, n_dims: int) -> Shape:
    """The shape of a tensor that must be there with `n_dims` dimensions, none of them zero."""
    shape = shapes.get(key)
    if shape is None:
        raise FormatError(f"{key} is missing; the file is incomplete")
    if len(shape) != n_dims or not all(0 < n <= MAX_COUNT for n in shape):
        raise FormatError(f"{key} is {list(shape)}; wanted {n_dims} dimensions of 1 to {MAX_COUNT}")
    return shape
