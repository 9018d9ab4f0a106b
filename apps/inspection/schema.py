"""What `rwkv-edge info` says of a file. The fields are the keys of its JSON."""

import importlib.util
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rwkv_edge.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from rwkv_edge.runtime.footprint import MemoryEstimate

# Raised when a key changes its meaning; new keys do not change it.
FORMAT = 1
# What a program can do with a file: run it, convert it, resume from it, give it to a conversion (as
# an adapter or as a tokenizer), or nothing.
Use = Literal["run", "convert", "resume", "adapt", "tokenize", "none"]


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: its shape in numpy order, what its numbers are stored as, and its size.

    n_bytes: 0 for a type whose size nobody here knows.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int


@dataclass(frozen=True)
class ValueInfo:
    """An input or output of a graph.

    shape: numbers, and names of dimensions that a run decides; None where nothing is said.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True)
class TypeTotal:
    """All tensors of one type, added up."""

    dtype: str
    n_tensors: int
    n_bytes: int


@dataclass(frozen=True)
class TokenizerInfo:
    """The tokenizer inside a model, or the one that a conversion would put there.

    kind: "world", "bytes", "huggingface" or "sentencepiece"; None where there is none. origin: the
    path or package that it comes from, None for one inside the file. llama_cpp: what llama.cpp
    takes it for, where that is something else. problem: why it cannot be used, and the remedy.
    """

    kind: str | None
    origin: str | None = None
    llama_cpp: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class EngineInfo:
    """One engine: problem says why it cannot run the model, None if it can.

    missing: what to run first, to install it or to make the file that it takes; None for nothing.
    """

    name: str
    problem: str | None
    missing: str | None


@dataclass(frozen=True)
class TargetInfo:
    """A weight type that the file can be converted to, with the size of the GGUF.

    is_exact: to the byte; else the tokenizer is not counted, because it is not there. memory: to
    run it in the numba engine, None where that cannot.
    """

    weight_type: str
    n_bytes: int
    is_exact: bool
    memory: "MemoryEstimate | None"


@dataclass(frozen=True)
class FileInfo:
    """What a file is and holds. What does not apply is None or empty.

    kind: for people, such as "checkpoint" or "tuned state". container: what it is packed in, as
    people call it. n_bytes: of the file, or of the files of weights in a folder. version: of RWKV.
    types: of the tensors. engines: which can run the model, once it is converted if it is no GGUF.
    memory: to run a GGUF in the numba engine, None where that cannot. targets: what it can be
    converted to. problem: why it can be neither run nor converted, in one sentence. advice: what
    to do with it. details: further facts, by name. inputs, outputs: of an ONNX.
    """

    path: Path
    kind: str
    use: Use
    n_bytes: int
    format: int = FORMAT
    container: str | None = None
    version: str | None = None
    hyperparameters: Hyperparameters | None = None
    n_parameters: int = 0
    tokenizer: TokenizerInfo | None = None
    types: tuple[TypeTotal, ...] = ()
    engines: tuple[EngineInfo, ...] = ()
    memory: "MemoryEstimate | None" = None
    targets: tuple[TargetInfo, ...] = ()
    problem: str | None = None
    advice: str | None = None
    details: dict[str, str] = field(default_factory=dict)
    tensors: tuple[TensorInfo, ...] = ()
    inputs: tuple[ValueInfo, ...] = ()
    outputs: tuple[ValueInfo, ...] = ()


def totals(tensors: Iterable[tuple[str, int]]) -> tuple[TypeTotal, ...]:
    """Pairs of a type and a size in bytes, added up by type in the order in which they come."""
    sizes: dict[str, list[int]] = {}
    for dtype, n_bytes in tensors:
        sizes.setdefault(dtype, []).append(n_bytes)
    return tuple(TypeTotal(dtype, len(found), sum(found)) for dtype, found in sizes.items())


def n_parameters(tensors: Iterable[TensorInfo]) -> int:
    """Numbers in all tensors."""
    return sum(math.prod(tensor.shape) for tensor in tensors)


def missing_package(module: str, extra: str) -> str | None:
    """How to install an optional package; None if it is here. Nothing is imported."""
    if module in sys.modules or importlib.util.find_spec(module) is not None:
        return None
    return f'pip install "rwkv-edge[{extra}]"'
