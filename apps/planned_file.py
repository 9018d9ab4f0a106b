"""What a conversion would write, for `rwkv-edge convert --plan`."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_edge.apps.inspection.models import memory_in_numba
from rwkv_edge.apps.inspection.schema import TypeTotal, totals
from rwkv_edge.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from rwkv_edge.converters.onnx.export import OnnxPlan
    from rwkv_edge.converters.plan import ConversionPlan
    from rwkv_edge.runtime.footprint import MemoryEstimate

# Raised when a key of the JSON changes its meaning; new keys do not change it.
FORMAT = 1


@dataclass(frozen=True)
class PlannedTensorInfo:
    """One tensor of the file to come. source: what it is made of in the checkpoint."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int
    source: str


@dataclass(frozen=True)
class PlannedFile:
    """A file that a conversion would write; the fields are the keys of its JSON.

    n_bytes: the exact size of the file; data_bytes: of the data file beside an ONNX model, 0 where
    there is none. replaces: a file of this name is there already. free_bytes:
    on its disk now; fits: whether `convert` would begin. memory: to run it in the numba engine,
    None where that cannot. tokenizer: its kind; vocabulary: where it comes from. notes: sentences
    for the user. types: the tensors added up by what they are stored in.
    """

    format: int
    source: Path
    path: Path
    replaces: bool
    n_bytes: int
    data_bytes: int
    free_bytes: int
    fits: bool
    version: str
    hyperparameters: Hyperparameters
    weight_type: str
    tokenizer: str
    vocabulary: str
    notes: tuple[str, ...]
    memory: "MemoryEstimate | None"
    types: tuple[TypeTotal, ...]
    tensors: tuple[PlannedTensorInfo, ...]


def describe_plan(found: "ConversionPlan | OnnxPlan", destination: Path) -> PlannedFile:
    """Nothing is written; raises OSError where the disk cannot be asked for its free space."""
    from rwkv_edge.converters.adapters.adapted_checkpoint import AdaptedCheckpoint
    from rwkv_edge.converters.convert import SPARE_BYTES
    from rwkv_edge.converters.plan import ConversionPlan, provenance

    if isinstance(found, ConversionPlan):
        plan, sizes = found, {tensor.spec.name: tensor.n_bytes for tensor in found.tensors}
        n_bytes, data_bytes, needed = plan.file_bytes, 0, plan.n_bytes
    else:
        plan, sizes = found.gguf, found.tensor_bytes
        n_bytes, data_bytes = found.layout.model_bytes, found.layout.data_bytes
        needed = n_bytes + data_bytes
    hp, checkpoint = plan.hyperparameters, plan.model.checkpoint
    merged = checkpoint.merged if isinstance(checkpoint, AdaptedCheckpoint) else frozenset()
    tensors = tuple(
        PlannedTensorInfo(
            name=tensor.spec.name,
            dtype=tensor.quant.__name__,
            shape=tensor.spec.shape,
            n_bytes=sizes[tensor.spec.name],
            source=provenance(plan.model.sources[tensor.spec.name], merged),
        )
        for tensor in plan.tensors
        if tensor.spec.name in sizes
    )
    memory = None
    if found is plan:
        memory = memory_in_numba(hp, {t.spec.name: t.quant for t in plan.tensors})
    free = shutil.disk_usage(destination.parent).free
    words = plan.header.tokenizer
    return PlannedFile(
        format=FORMAT,
        source=plan.model.path,
        path=destination,
        replaces=destination.exists(),
        n_bytes=n_bytes,
        data_bytes=data_bytes,
        free_bytes=free,
        fits=needed + SPARE_BYTES <= free,
        version=hp.version,
        hyperparameters=hp,
        weight_type=plan.header.weight_type,
        tokenizer=words.kind,
        vocabulary=words.origin,
        notes=found.notes,
        memory=memory,
        types=totals((tensor.dtype, tensor.n_bytes) for tensor in tensors),
        tensors=tensors,
    )
