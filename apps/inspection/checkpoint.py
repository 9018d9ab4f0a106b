"""Weights that are no GGUF: a model to convert, or why it cannot be, or part of one."""

import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_edge.apps.inspection.adapters import describe_adapter
from rwkv_edge.apps.inspection.models import engines_for, targets_of
from rwkv_edge.apps.inspection.schema import FileInfo, TensorInfo, n_parameters, totals
from rwkv_edge.errors import FormatError, RwkvEdgeError, UnsupportedModelError
from rwkv_edge.quant import QUANT_FORMATS
from rwkv_edge.tuned_state import TUNED_STATE_KEY

if TYPE_CHECKING:
    from rwkv_edge.converters.checkpoints import Checkpoint
    from rwkv_edge.converters.model_source import ModelSource

# Bytes of a number, by the name that checkpoints give its type.
NUMBER_BYTES = {
    "float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2,
    "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
# Names that RWKV's own checkpoints use, whichever version.
RWKV_NAME = re.compile(r"blocks\.\d+\.(?:att|ffn|ln\d)\.|emb\.weight$|head\.weight$|ln_out\.")


def describe_checkpoint(path: Path) -> FileInfo:
    """Weights in any container but GGUF. Raises FormatError, OSError."""
    from rwkv_edge.converters.model_source import open_model_source

    try:
        with open_model_source(path) as model:
            return describe_model(path, model)
    except (FormatError, UnsupportedModelError) as error:
        return describe_rest(path, error)


def describe_model(path: Path, model: "ModelSource") -> FileInfo:
    """A checkpoint that can be converted."""
    hp = model.hyperparameters
    tokenizer, targets = targets_of(model)
    command = f"rwkv-edge convert {shlex.quote(str(path))}"
    if tokenizer.problem is not None:
        command += " --tokenizer FILE"
    facts = listed(path, model.checkpoint)
    if TUNED_STATE_KEY in model.own_keys:
        facts.details["tuned state"] = "inside, and goes into the GGUF"
    return replace(
        facts,
        use="convert",
        version=hp.version,
        hyperparameters=hp,
        tokenizer=tokenizer,
        engines=engines_for(hp, ()),
        targets=targets,
        advice=f"convert it: {command}",
    )


def describe_rest(path: Path, error: RwkvEdgeError) -> FileInfo:
    """Weights that are no model that can be converted, which `error` says; raises it for others."""
    from rwkv_edge.converters.arch.versions import version_of
    from rwkv_edge.converters.checkpoints import open_checkpoint
    from rwkv_edge.converters.model_source import open_model_checkpoint

    try:
        checkpoint = open_model_checkpoint(path)
    except FormatError:
        try:
            # Names that a naming knows, and shapes that it does not.
            checkpoint = open_checkpoint(path)
        except FormatError:
            raise error from None
    with checkpoint:
        facts = listed(path, checkpoint)
        shapes = checkpoint.shapes()
    adapter = describe_adapter(facts)
    if adapter is not None:
        return adapter
    facts = replace(facts, problem=str(error).removeprefix(f"{path}: "))
    if any(RWKV_NAME.match(name) for name in shapes) and "emb.weight" not in shapes:
        advice = (
            "if it is what a training changed, merge it into the model that was trained: "
            f"rwkv-edge convert MODEL --adapter {shlex.quote(str(path))}"
        )
        return replace(facts, kind="part of a checkpoint", advice=advice)
    try:
        return replace(facts, version=version_of(shapes))
    except UnsupportedModelError:
        # One that is damaged can be of any kind.
        is_foreign = isinstance(error, UnsupportedModelError)
        return replace(facts, kind="weights of another kind of model") if is_foreign else facts


def listed(path: Path, checkpoint: "Checkpoint") -> FileInfo:
    """What can be said of any weights."""
    directory = checkpoint.directory
    tensors = tuple(
        tensor_of(name, checkpoint.stored_as(name), shape)
        for name, shape in checkpoint.shapes().items()
    )
    return FileInfo(
        path=path,
        kind="checkpoint",
        use="none",
        n_bytes=sum(file.stat().st_size for file in directory.files),
        container=container_title(directory.container),
        n_parameters=n_parameters(tensors),
        types=totals((tensor.dtype, tensor.n_bytes) for tensor in tensors),
        details={"names": directory.naming} if directory.naming else {},
        tensors=tensors,
    )


def tensor_of(name: str, dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    """One tensor; types that nobody knows the size of count as nothing."""
    quant = QUANT_FORMATS.get(dtype)
    if quant is not None and shape and shape[-1] % quant.block_len == 0:
        n_bytes = math.prod(shape[:-1]) * quant.row_bytes(shape[-1])
    else:
        n_bytes = math.prod(shape) * NUMBER_BYTES.get(dtype, 0)
    return TensorInfo(name, dtype, shape, n_bytes)


def container_title(name: str) -> str | None:
    """What people call a kind of file."""
    from rwkv_edge.converters.checkpoints import CONTAINERS

    return next((container.title for container in CONTAINERS if container.name == name), None)
