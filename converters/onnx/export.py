"""A checkpoint, or a GGUF, to an ONNX model that runs in onnxruntime alone.

The plan and the numbers are those of the GGUF of the same weight type; blocks are taken apart into
codes and scales on their way into the file.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_edge.arch import Role, architecture_of
from rwkv_edge.converters.adapters import Adapter, TunedState
from rwkv_edge.converters.convert import (
    ConversionSummary,
    Progress,
    Reporter,
    encoded,
    planned,
    require_threads,
    summary_of,
    writing,
)
from rwkv_edge.converters.gguf_file import PlannedTensor
from rwkv_edge.converters.plan import ConversionPlan
from rwkv_edge.errors import BackendUnavailableError, InputError, UnsupportedModelError
from rwkv_edge.fingerprint import Fingerprint
from rwkv_edge.model_file import ADAPTERS_KEY
from rwkv_edge.onnx_model_file import HELD_TYPES
from rwkv_edge.quant import Bytes

if TYPE_CHECKING:
    from rwkv_edge.converters.onnx.model_writer import ModelLayout


@dataclass(frozen=True)
class OnnxPlan:
    """What an export will write: the tensors of a GGUF, and where they will lie in which file."""

    gguf: ConversionPlan
    layout: "ModelLayout"
    notes: tuple[str, ...]

    @property
    def tensors(self) -> list[PlannedTensor]:
        """Those of the GGUF that something reads."""
        return read_tensors(self.gguf)

    @property
    def tensor_bytes(self) -> dict[str, int]:
        """Bytes of all tensors that the model holds, by their GGUF names."""
        from rwkv_edge.converters.onnx.stored_weights import initializers_of

        return {
            tensor.spec.name: sum(weight.n_bytes for weight in initializers_of(tensor))
            for tensor in self.tensors
        }

    @property
    def weights_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(weight.n_bytes for weight in self.layout.weights)

    @property
    def file_bytes(self) -> int:
        """The size of the model, exactly, its data file included."""
        return self.layout.model_bytes + self.layout.data_bytes


def convert_to_onnx(
    source: str | Path,
    destination: str | Path,
    weight_type: str | None = "Q4_0",
    *,
    tokenizer: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    adapters: Sequence[Adapter | TunedState] = (),
    external_data: bool = False,
) -> ConversionSummary:
    """Convert weights to an ONNX model, which appears whole or not at all.

    weight_type: one of HELD_TYPES; None for a GGUF whose tensors shall keep theirs, and every
    number. external_data: weights of 1 KiB and more lie in a data file beside the model, as they do
    in any case where one file would be larger than protobuf's 2 GB.
    The others are those of `convert`. Raises RwkvEdgeError.
    """
    began = time.perf_counter()
    source, destination = Path(source), Path(destination)
    require_threads(threads)
    with (
        planned_onnx(
            source,
            destination,
            weight_type,
            tokenizer=tokenizer,
            adapters=adapters,
            external_data=external_data,
        ) as plan,
        writing(destination, plan.file_bytes),
    ):
        from rwkv_edge.converters.onnx.metadata import metadata_props

        fingerprint = Fingerprint()
        report = Reporter(plan.weights_bytes, progress)

        def metadata() -> dict[str, str]:
            adapted = plan.gguf.model.own_keys.get(ADAPTERS_KEY)
            if isinstance(adapted, str):
                fingerprint.add_adapters(adapted)
            return metadata_props(plan.gguf.header, fingerprint.digits)

        # Closed by name: on an error its threads must have ended when this returns.
        with (
            closing(encoded(plan.gguf, threads)) as blocks,
            closing(weight_pieces(plan, blocks, fingerprint, report)) as pieces,
        ):
            data = plan.layout.write(pieces, metadata)
    summary = summary_of(plan.gguf, destination, began)
    return replace(
        summary,
        n_tensors=len(plan.tensors),
        notes=plan.notes,
        data_path=data,
        data_bytes=plan.layout.data_bytes,
    )


@contextmanager
def planned_onnx(
    source: Path,
    destination: Path,
    weight_type: str | None,
    *,
    tokenizer: str | Path | None = None,
    adapters: Sequence[Adapter | TunedState] = (),
    external_data: bool = False,
) -> Iterator[OnnxPlan]:
    """What `convert_to_onnx` will do with the same arguments; nothing is written.

    The checkpoint is open until the block ends. Raises RwkvEdgeError.
    """
    if weight_type is not None and weight_type not in HELD_TYPES:
        raise InputError(
            f"weight type {weight_type}: an ONNX model holds {', '.join(HELD_TYPES)}; "
            "choose one of these, or convert to a GGUF"
        )
    require_onnx()
    from rwkv_edge.converters.onnx.metadata import metadata_props
    from rwkv_edge.converters.onnx.model import build_model
    from rwkv_edge.converters.onnx.model_writer import ModelLayout
    from rwkv_edge.converters.onnx.stored_weights import initializers_of

    with planned(source, destination, weight_type, tokenizer=tokenizer, adapters=adapters) as plan:
        for tensor in plan.tensors:
            require_stored(source, tensor)
        layout = ModelLayout(
            destination,
            build_model(plan.hyperparameters, plan.tensors),
            [weight for tensor in read_tensors(plan) for weight in initializers_of(tensor)],
            metadata_props(plan.header),
            external=external_data,
        )
        notes = plan.notes
        if layout.is_external and not external_data:
            notes += (
                "the weights lie in a data file beside the model: protobuf holds no more than 2 GB",
            )
        yield OnnxPlan(plan, layout, notes)


def weight_pieces(
    plan: OnnxPlan,
    blocks: Iterator[tuple[PlannedTensor, Bytes | None]],
    fingerprint: Fingerprint,
    report: Reporter,
) -> Generator[Bytes | None, None, None]:
    """The bytes of every weight in the order of the plan; None stands where one ends.

    blocks: as `encoded` gives them. What a tensor has beside codes, its scales, is kept until all
    of its codes are gone: for the largest matrix of a model of 1.5 billion weights 17 MB. Vectors
    go into the fingerprint on their way.
    """
    from rwkv_edge.converters.onnx.stored_weights import initializers_of, split_blocks

    written = {tensor.spec.name for tensor in plan.tensors}
    kept: list[list[Bytes]] = []
    for tensor, piece in blocks:
        if piece is not None and tensor.spec.role is Role.VECTOR:
            fingerprint.add_vector(tensor.quant.decode(piece, tensor.spec.shape[-1]))
        if tensor.spec.name not in written:
            continue
        if piece is not None:
            first, *others = split_blocks(tensor.quant, piece)
            kept = kept or [[] for _ in initializers_of(tensor)[1:]]
            for parts, other in zip(kept, others, strict=True):
                parts.append(other)
            yield first
            report.add(first.nbytes)
            continue
        yield None
        for parts in kept:
            for part in parts:
                yield part
                report.add(part.nbytes)
            yield None
        kept = []


def read_tensors(plan: ConversionPlan) -> list[PlannedTensor]:
    """Tensors without those that a GGUF has because llama.cpp asks: onnxruntime would warn."""
    hp = plan.hyperparameters
    unread = architecture_of(hp.version).unread(hp)
    return [tensor for tensor in plan.tensors if tensor.spec.name not in unread]


def require_stored(path: Path, tensor: PlannedTensor) -> None:
    """Raise UnsupportedModelError for a tensor of a type that ONNX does not hold."""
    name = tensor.quant.__name__
    if name not in HELD_TYPES:
        raise UnsupportedModelError(
            f"{path}: {tensor.spec.name} is {name}; an ONNX model holds {', '.join(HELD_TYPES)}; "
            "convert the .pth that it came from, or a GGUF of these types"
        )


def require_onnx() -> None:
    """Raise BackendUnavailableError where the onnx package is missing."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise BackendUnavailableError(
            f'an ONNX model is written by the onnx package; pip install "rwkv-edge[onnx]" ({error})'
        ) from None
