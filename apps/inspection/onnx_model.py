"""An ONNX: a model that rwkv-edge exported, or somebody else's; and weights that lie beside one."""

import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from rwkv_edge.apps.inspection.gguf_model import details_of, tokenizer_in
from rwkv_edge.apps.inspection.models import ENGINE_PACKAGES
from rwkv_edge.apps.inspection.other_files import ALONE
from rwkv_edge.apps.inspection.schema import (
    EngineInfo,
    FileInfo,
    TensorInfo,
    ValueInfo,
    missing_package,
    n_parameters,
    totals,
)
from rwkv_edge.errors import FormatError, RwkvEdgeError, UnsupportedModelError, shown
from rwkv_edge.onnx_model_file import CODES, FORMAT_KEY, SCALES, OnnxModelFile
from rwkv_edge.onnx_parts import OnnxValue, is_plain_name, type_name
from rwkv_edge.onnx_reader import SUFFIX, OnnxFile

ENGINE = "onnx"
RUNS_GGUF = "it runs GGUFs alone; convert the checkpoint without --onnx"
FOREIGN = f"it is not an RWKV model of ours: it has no key {FORMAT_KEY}; only those are run here"
DATA_KIND = "weights of an ONNX"
# How an export names the file that its weights lie in.
DATA_NAME = re.compile(r".+\.[0-9a-f]{8}\.data")
# Files in a folder that are asked whether they refer to another.
MOST_ASKED = 64


def describe_onnx(path: Path) -> FileInfo:
    """An ONNX of any model. Raises FormatError for a damaged one, OSError."""
    with OnnxFile(path) as file:
        tensors = tuple(
            TensorInfo(name, tensor.type_name, tensor.shape, tensor.n_bytes)
            for name, tensor in file.tensors.items()
        )
        beside = {location: size_beside(path, location) for location in file.locations}
        is_ours = FORMAT_KEY in file.metadata
        facts = FileInfo(
            path=path,
            kind="ONNX model" if is_ours else "ONNX of another kind of model",
            use="none",
            n_bytes=path.stat().st_size + sum(filter(None, beside.values())),
            container="ONNX",
            n_parameters=n_parameters(tensors),
            types=totals((tensor.dtype, tensor.n_bytes) for tensor in tensors),
            details=(details_of(file.metadata) if is_ours else {}) | graph_details(file, beside),
            tensors=tensors,
            inputs=values_of(file.inputs),
            outputs=values_of(file.outputs),
        )
        if not is_ours:
            return replace(facts, problem=FOREIGN)
        facts = replace(facts, tokenizer=tokenizer_in(file.metadata))
    try:
        return runnable(facts)
    except UnsupportedModelError as error:
        return replace(facts, problem=str(error).removeprefix(f"{path}: "))
    except FormatError as error:
        # Whole by itself: who copied it forgot something.
        if None not in beside.values():
            raise
        return replace(facts, problem=str(error).removeprefix(f"{path}: "))


def runnable(facts: FileInfo) -> FileInfo:
    """What is known of one of ours. Raises FormatError, UnsupportedModelError, OSError."""
    with closing(OnnxModelFile(facts.path)) as model:
        hp = model.hyperparameters
        tensors = tuple(weights_of(model))
        facts = replace(
            facts,
            version=hp.version,
            hyperparameters=hp,
            n_parameters=model.n_parameters,
            types=totals((tensor.dtype, tensor.n_bytes) for tensor in tensors),
            engines=engines(),
            details={**facts.details, "weight type": model.file_type},
            tensors=tensors,
        )
    assert facts.tokenizer is not None
    problem = facts.tokenizer.problem
    if problem is not None:
        return replace(facts, problem=f"its tokenizer cannot be used: {problem}")
    command = f"rwkv-edge chat {shlex.quote(str(facts.path))}"
    return replace(facts, use="run", advice=f"talk with it: {command}")


def weights_of(model: OnnxModelFile) -> Iterator[TensorInfo]:
    """The tensors by their GGUF names, codes and scales as one; then what else the graph holds."""
    tensors = model.onnx.tensors
    parts: set[str] = set()
    for spec in model.architecture.tensors(model.hyperparameters):
        if spec.name in model.formats:
            names = {spec.name, spec.name + CODES, spec.name + SCALES} & tensors.keys()
            n_bytes = sum(tensors[name].n_bytes for name in names)
            yield TensorInfo(spec.name, model.formats[spec.name].__name__, spec.shape, n_bytes)
            parts |= names
    for name, tensor in tensors.items():
        if name not in parts:
            yield TensorInfo(name, tensor.type_name, tensor.shape, tensor.n_bytes)


def engines() -> tuple[EngineInfo, ...]:
    """The one that runs an ONNX, and those that do not."""
    from rwkv_edge.runtime.backends.obstacles import OBSTACLES

    return tuple(
        EngineInfo(name, None, missing_package(*ENGINE_PACKAGES[name]))
        if name == ENGINE
        else EngineInfo(name, RUNS_GGUF, None)
        for name in OBSTACLES
    )


def graph_details(file: OnnxFile, beside: Mapping[str, int | None]) -> dict[str, str]:
    """What the file says of itself, whoever made it."""
    opsets = ", ".join(f"{shown(domain)} {version}" for domain, version in file.opsets.items())
    details = {
        "made by": shown(file.producer) if file.producer else "nobody who says so",
        "opset": opsets or "none",
        "graph": f"{file.n_nodes:,} nodes",
    }
    if beside:
        details["weights in"] = ", ".join(
            shown(name) if size is not None else f"{shown(name)}, which is not there"
            for name, size in beside.items()
        )
    return details


def values_of(values: list[OnnxValue]) -> tuple[ValueInfo, ...]:
    """Inputs or outputs as `info` lists them."""
    return tuple(ValueInfo(value.name, type_name(value.data_type), value.dims) for value in values)


def size_beside(path: Path, location: str) -> int | None:
    """Bytes of a file that weights lie in; None if it is not there, or nowhere that is looked."""
    if not is_plain_name(location):
        return None
    try:
        return (path.parent / location).stat().st_size
    except OSError:
        return None


def describe_data(path: Path) -> FileInfo | None:
    """A file that an ONNX in the same folder refers to; None for any other."""
    for owner in onnx_files_beside(path):
        try:
            with OnnxFile(owner) as file:
                if path.name not in file.locations:
                    continue
        except (RwkvEdgeError, OSError):
            continue
        advice = f"it belongs to {shown(owner.name)}: rwkv-edge info {shlex.quote(str(owner))}"
        return data(path, advice)
    return None


def describe_lost_data(path: Path) -> FileInfo | None:
    """A file whose name an export would give to weights; None for any other."""
    if not DATA_NAME.fullmatch(path.name):
        return None
    return data(
        path, "no ONNX in its folder refers to it; put the one that it belongs to beside it"
    )


def data(path: Path, advice: str) -> FileInfo:
    """Weights without a word about them."""
    n_bytes = path.stat().st_size
    return FileInfo(path, DATA_KIND, "none", n_bytes, problem=ALONE, advice=advice)


def onnx_files_beside(path: Path) -> list[Path]:
    """Those whose name this one's begins with come first."""
    try:
        found = [other for other in path.parent.iterdir() if other.suffix.lower() == SUFFIX]
    except OSError:
        return []
    found.sort(key=lambda other: (not path.name.startswith(other.stem), other.name))
    return found[:MOST_ASKED]
