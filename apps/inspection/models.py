"""What it takes to run a model, whatever file it is in: engines, memory, what it converts to."""

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from rwkv_edge.apps.inspection.schema import (
    EngineInfo,
    TargetInfo,
    TokenizerInfo,
    missing_package,
)
from rwkv_edge.errors import RwkvEdgeError
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.quant import QuantFormat

if TYPE_CHECKING:
    from rwkv_edge.converters.model_source import ModelSource
    from rwkv_edge.runtime.footprint import MemoryEstimate

# The module and the extra that an engine or a tokenizer needs beside the base install.
ENGINE_PACKAGES = {"llama": ("llama_cpp", "llama"), "onnx": ("onnxruntime", "onnx")}
TOKENIZER_PACKAGES = {
    "huggingface": ("tokenizers", "neox"),
    "sentencepiece": ("sentencepiece", "spm"),
}


def engines_for(
    hyperparameters: Hyperparameters, formats: Collection[type[QuantFormat]]
) -> tuple[EngineInfo, ...]:
    """Every engine, with what keeps it from running a model of this shape in these formats."""
    from rwkv_edge.runtime.backends.obstacles import OBSTACLES

    return tuple(
        EngineInfo(
            name=name,
            problem=obstacle(hyperparameters, formats),
            missing=missing_package(*ENGINE_PACKAGES[name]) if name in ENGINE_PACKAGES else None,
        )
        for name, obstacle in OBSTACLES.items()
    )


def missing_for_tokenizer(kind: str) -> str | None:
    """What a kind of tokenizer needs that is not installed, as a sentence; None for nothing."""
    command = missing_package(*TOKENIZER_PACKAGES[kind]) if kind in TOKENIZER_PACKAGES else None
    return None if command is None else f"it takes a package that is not here: {command}"


def memory_in_numba(
    hyperparameters: Hyperparameters, formats: Mapping[str, type[QuantFormat]]
) -> "MemoryEstimate | None":
    """What it takes to run a model there; None where that cannot be. formats: of all tensors."""
    from rwkv_edge.runtime.backends.obstacles import OBSTACLES
    from rwkv_edge.runtime.footprint import estimate_memory

    if OBSTACLES["numba"](hyperparameters, set(formats.values())) is not None:
        return None
    return estimate_memory(hyperparameters, formats)


def targets_of(model: "ModelSource") -> tuple[TokenizerInfo, tuple[TargetInfo, ...]]:
    """The tokenizer that a conversion would embed, and every weight type that it could write."""
    from rwkv_edge.converters.gguf_file import header_bytes
    from rwkv_edge.converters.plan import plan_conversion
    from rwkv_edge.converters.weight_types import FILE_TYPES

    # The header is as long in one weight type as in another: only numbers in it differ.
    n_header: int | None = None
    try:
        header = plan_conversion(model, next(iter(FILE_TYPES))).header
    except RwkvEdgeError as error:
        tokenizer = TokenizerInfo(kind=None, problem=str(error).removeprefix(f"{model.path}: "))
    else:
        n_header = header_bytes(header)
        tokenizer = TokenizerInfo(header.tokenizer.kind, header.tokenizer.origin)
    return tokenizer, tuple(targets(model.hyperparameters, n_header))


def targets(hyperparameters: Hyperparameters, n_header: int | None) -> Iterator[TargetInfo]:
    """Every weight type; n_header: bytes of the header, None where it is not known."""
    from rwkv_edge.converters.plan import padded_bytes, planned_tensors
    from rwkv_edge.converters.weight_types import FILE_TYPES

    for weight_type in FILE_TYPES:
        tensors = planned_tensors(hyperparameters, weight_type)
        yield TargetInfo(
            weight_type=weight_type,
            n_bytes=padded_bytes(tensors) + (n_header or 0),
            is_exact=n_header is not None,
            memory=memory_in_numba(hyperparameters, {t.spec.name: t.quant for t in tensors}),
        )
