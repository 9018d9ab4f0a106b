"""A GGUF: a model that runs here, or why it does not."""

import shlex
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from rwkv_edge.apps.inspection.models import (
    engines_for,
    memory_in_numba,
    missing_for_tokenizer,
    targets_of,
)
from rwkv_edge.apps.inspection.schema import (
    FileInfo,
    TargetInfo,
    TensorInfo,
    TokenizerInfo,
    n_parameters,
    totals,
)
from rwkv_edge.arch import ARCHITECTURES
from rwkv_edge.chat_templates import TEMPLATE_KEY, template_name_in_gguf
from rwkv_edge.errors import FormatError, RwkvEdgeError, UnsupportedModelError, shown
from rwkv_edge.gguf_reader import GgufFile
from rwkv_edge.model_file import ADAPTERS_KEY, ModelFile
from rwkv_edge.tokenizers.gguf_vocabulary import KIND_KEY, MODEL_KEY, kind_in_gguf
from rwkv_edge.tuned_state import TUNED_STATE_KEY

NAME_KEY = "general.name"
# Further keys that conversions leave: what they are called here, and what they mean.
NOTABLE_KEYS = {
    ADAPTERS_KEY: ("adapters", "merged into the weights"),
    TUNED_STATE_KEY: ("tuned state", "inside: conversations begin with it"),
}


def describe_gguf(path: Path) -> FileInfo:
    """A GGUF of any architecture, in any weight types. Raises FormatError, OSError."""
    with GgufFile(path, any_type=True) as file:
        metadata, unread = file.metadata, file.unread
        read = (
            TensorInfo(name, tensor.quant_format.__name__, tensor.shape, tensor.raw.nbytes)
            for name, tensor in file.tensors.items()
        )
        others = (TensorInfo(t.name, t.type_name, t.shape, t.n_bytes) for t in unread.values())
        tensors = (*read, *others)
    facts = FileInfo(
        path=path,
        kind="GGUF model",
        use="none",
        n_bytes=path.stat().st_size,
        container="GGUF",
        n_parameters=n_parameters(tensors),
        tokenizer=tokenizer_in(metadata),
        types=totals((tensor.dtype, tensor.n_bytes) for tensor in tensors),
        details=details_of(metadata),
        tensors=tensors,
    )
    name = metadata.get("general.architecture")
    architecture = ARCHITECTURES.get(name) if isinstance(name, str) else None
    if architecture is None:
        known = ", ".join(ARCHITECTURES)
        problem = f"its architecture is {shown(name)}; this version runs {known}"
        return replace(facts, kind="GGUF of another kind of model", problem=problem)
    try:
        hp = architecture.hyperparameters_from_gguf(metadata, {t.name: t.shape for t in tensors})
    except FormatError as error:
        raise FormatError(f"{path}: {error}; convert it again") from None
    facts = replace(facts, version=hp.version, hyperparameters=hp)
    if unread:
        names = ", ".join(sorted({tensor.type_name for tensor in unread.values()}))
        problem = (
            f"its weights are {names}, which this version does not run; convert the checkpoint "
            "that it was made of"
        )
        return replace(facts, problem=problem)
    return runnable(facts)


def runnable(facts: FileInfo) -> FileInfo:
    """What it takes to run a GGUF whose weight types are all known. Raises FormatError."""
    with closing(ModelFile(facts.path)) as model:
        hp = model.hyperparameters
        specs = model.architecture.tensors(hp)
        formats = {spec.name: model.tensor(spec.name).quant_format for spec in specs}
        details = {**facts.details, "weight type": model.file_type}
    engines = tuple(
        replace(engine, missing="rwkv-edge convert --onnx")
        if engine.name == "onnx" and engine.problem is engine.missing is None
        else engine
        for engine in engines_for(hp, set(formats.values()))
    )
    targets = targets_from_gguf(facts.path)
    assert facts.tokenizer is not None
    problem = facts.tokenizer.problem
    command = f"rwkv-edge chat {shlex.quote(str(facts.path))}"
    return replace(
        facts,
        use="run" if problem is None else "none",
        engines=engines,
        memory=memory_in_numba(hp, formats),
        targets=targets,
        problem=None if problem is None else f"its tokenizer cannot be used: {problem}",
        advice=f"talk with it: {command}" if problem is None else None,
        details=details,
    )


def targets_from_gguf(path: Path) -> tuple[TargetInfo, ...]:
    """The weight types that a GGUF can be converted to; none for one that cannot be."""
    from rwkv_edge.converters.model_source import open_model_source

    try:
        with open_model_source(path) as model:
            return targets_of(model)[1]
    except (FormatError, UnsupportedModelError):
        return ()


def tokenizer_in(metadata: Mapping[str, object]) -> TokenizerInfo:
    """The kind of a GGUF's tokenizer, and as what llama.cpp reads it; its tokens are not read."""
    model = metadata.get(MODEL_KEY)
    # One of another model's is said by its name all the same.
    unusable = TokenizerInfo(None, None, None if model is None else shown(model))
    for key in (MODEL_KEY, KIND_KEY):
        if not isinstance(metadata.get(key, ""), str):
            return replace(unusable, problem=f"key {key} is not a text")
    try:
        kind = kind_in_gguf(metadata)
    except RwkvEdgeError as error:
        return replace(unusable, problem=str(error))
    llama_cpp = None if model in (kind, "rwkv") else shown(model)
    return TokenizerInfo(kind, None, llama_cpp, missing_for_tokenizer(kind))


def details_of(metadata: Mapping[str, object]) -> dict[str, str]:
    """What the header says beside the shape."""
    details = {"architecture": shown(metadata.get("general.architecture"))}
    if NAME_KEY in metadata:
        details["name"] = shown(metadata[NAME_KEY])
    if TEMPLATE_KEY in metadata:
        details["chat template"] = shown(template_name_in_gguf(metadata))
    details |= dict(words for key, words in NOTABLE_KEYS.items() if key in metadata)
    return details
