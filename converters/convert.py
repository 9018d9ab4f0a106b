"""A checkpoint to a GGUF."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rwkv_edge.arch import Role
from rwkv_edge.atomic_file import atomic_write
from rwkv_edge.converters.adapters import Adapter, TunedState
from rwkv_edge.converters.arch import AsStored, ComputedRows, Source, Unchanged
from rwkv_edge.converters.checkpoints import Checkpoint
from rwkv_edge.converters.gguf_file import PlannedTensor, pad, write_header
from rwkv_edge.converters.model_source import open_model_source
from rwkv_edge.converters.plan import ConversionPlan, plan_conversion, require_weight_type
from rwkv_edge.errors import InputError, RwkvEdgeError
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.quant import Bytes

if TYPE_CHECKING:
    from rwkv_edge.converters.row_encoder import RowEncoder

Progress = Callable[[int, int], None]

# Windows knows no quotas.
DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
# By default: with more, they wait for the file, and each takes 8 MiB of buffers.
MAX_THREADS = 8
# Of what is taken as it lies in a file, at a time.
COPIED_BYTES = 1 << 22
# Room for the header and for what file systems take for themselves.
SPARE_BYTES = 16 << 20


@dataclass(frozen=True)
class ConversionSummary:
    """What was written.

    n_bytes: size of the file; weight_type: "Q4_0" and so on; tokenizer: its kind,
    "world", "bytes", "huggingface" or "sentencepiece"; vocabulary: where it came from; notes:
    sentences for the user, often none. data_path, data_bytes: of the data file beside an ONNX
    model, whose size is not in n_bytes.
    """

    path: Path
    n_bytes: int
    n_tensors: int
    seconds: float
    hyperparameters: Hyperparameters
    weight_type: str
    tokenizer: str
    vocabulary: str
    notes: tuple[str, ...]
    data_path: Path | None = None
    data_bytes: int = 0


def convert(
    source: str | Path,
    destination: str | Path,
    weight_type: str = "Q4_0",
    *,
    tokenizer: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    adapters: Sequence[Adapter | TunedState] = (),
) -> ConversionSummary:
    """Convert weights to a GGUF, which appears whole or not at all.

    source: a file of any of the `CONTAINERS`, or a Hugging Face folder.
    weight_type: a name of `weight_types.WEIGHT_TYPES`, "Q4_K_M" and so on.
    tokenizer: a vocabulary in the World format, a Hugging Face tokenizer.json or a sentencepiece
    model; by default `<source stem>.vocab.txt` beside the source, else what the number of
    embeddings says, see `choose_tokenizer`.
    threads: default, all that the machine has, at most MAX_THREADS.
    progress: called with (bytes done, bytes in all).
    adapters: what is merged into the checkpoint, in this order, see `Adapter` and `TunedState`.
    Raises RwkvEdgeError.
    """
    began = time.perf_counter()
    source, destination = Path(source), Path(destination)
    require_threads(threads)
    with (
        planned(source, destination, weight_type, tokenizer=tokenizer, adapters=adapters) as plan,
        writing(destination, plan.n_bytes),
        atomic_write(destination) as file,
    ):
        write_header(file, plan.header)
        report = Reporter(plan.n_bytes, progress)
        # Closed by name: on an error its threads must have ended when this returns.
        with closing(encoded(plan, threads)) as pieces:
            for _, piece in pieces:
                if piece is None:
                    pad(file)
                else:
                    file.write(piece.data)
                    report.add(piece.size)
    return summary_of(plan, destination, began)


@contextmanager
def planned(
    source: Path,
    destination: Path,
    weight_type: str | None,
    *,
    tokenizer: str | Path | None = None,
    adapters: Sequence[Adapter | TunedState] = (),
) -> Iterator[ConversionPlan]:
    """What `convert` will do with the same arguments; the checkpoint is open until the block ends.

    weight_type: None keeps those of a GGUF, and every number as it is there.
    Nothing is written. Raises RwkvEdgeError.
    """
    if weight_type is not None:
        require_weight_type(weight_type)
    with open_model_source(source, adapters, as_stored=weight_type is None) as model:
        require_other_file(destination, model.files, files_of(adapters))
        yield plan_conversion(model, weight_type, tokenizer)


class Reporter:
    """Tells a callback how far the writing has come."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        """total: bytes to come."""
        self._done = 0
        self._total = total
        self._progress = progress

    def add(self, n_bytes: int) -> None:
        """So many more have been written."""
        self._done += n_bytes
        if self._progress is not None:
            self._progress(self._done, self._total)


def summary_of(plan: ConversionPlan, written: Path, began: float) -> ConversionSummary:
    """What to say of a conversion that `began`, as time.perf_counter counts, and is done."""
    words = plan.header.tokenizer
    return ConversionSummary(
        path=written,
        n_bytes=written.stat().st_size,
        n_tensors=len(plan.tensors),
        seconds=time.perf_counter() - began,
        hyperparameters=plan.hyperparameters,
        weight_type=plan.header.weight_type,
        tokenizer=words.kind,
        vocabulary=words.origin,
        notes=plan.notes,
    )


def encoded(
    plan: ConversionPlan, threads: int | None
) -> Generator[tuple[PlannedTensor, Bytes | None], None, None]:
    """The bytes of every tensor in file order, each piece with its tensor; None where one ends.

    Each piece is overwritten after the next is taken. Raises FormatError, at the end if the
    checkpoint has changed meanwhile.
    """
    # numba takes a second to import: a wrong file name should not wait for it.
    from rwkv_edge.converters.row_encoder import RowEncoder

    model = plan.model
    with RowEncoder(threads or min(os.cpu_count() or 1, MAX_THREADS)) as encoder:
        for tensor in plan.tensors:
            source = model.sources[tensor.spec.name]
            for piece in encoded_tensor(encoder, model.checkpoint, tensor, source):
                yield tensor, piece
            yield tensor, None
    model.checkpoint.require_unchanged()


def encoded_tensor(
    encoder: "RowEncoder", checkpoint: Checkpoint, tensor: PlannedTensor, source: Source
) -> Iterator[Bytes]:
    """The bytes of one tensor: matrices and tables streamed, the small rest at once."""
    from rwkv_edge.converters.row_encoder import encode_weights

    if isinstance(source, Unchanged):
        yield from copied_tensor(checkpoint, tensor, source)
        return
    where = f"{checkpoint.path}: {tensor.spec.name}"
    if tensor.spec.role in (Role.MATRIX, Role.TABLE) and isinstance(source, AsStored):
        yield from encoder.encode_stored(checkpoint, source.key, tensor.quant)
        return
    if isinstance(source, ComputedRows):
        shape = tensor.spec.shape
        rows = source.open(checkpoint)
        yield from encoder.encode_computed(rows, shape, tensor.quant, where)
        return
    weights = source.load(checkpoint, tensor.spec.shape)
    out = np.empty(tensor.n_bytes, np.uint8)
    encode_weights(np.ascontiguousarray(weights).reshape(-1), tensor.quant, out, where)
    yield out


def copied_tensor(
    checkpoint: Checkpoint, tensor: PlannedTensor, source: Unchanged
) -> Iterator[Bytes]:
    """The bytes of one tensor as they lie in the file, some rows at a time."""
    row_bytes = tensor.quant.row_bytes(tensor.spec.shape[-1])
    step = max(1, COPIED_BYTES // row_bytes) * row_bytes
    buffer = np.empty(min(step, tensor.n_bytes), np.uint8)
    for start in range(0, tensor.n_bytes, step):
        piece = buffer[: tensor.n_bytes - start]
        checkpoint.read_stored(source.key, start, piece)
        yield piece


def require_threads(threads: int | None) -> None:
    """Raise InputError unless it is a number of threads, or None."""
    if threads is not None and threads < 1:
        raise InputError(f"threads {threads}: wanted at least 1")


def files_of(adapters: Sequence[Adapter | TunedState]) -> Iterator[Path]:
    """Every file that is read for adapters."""
    for adapter in adapters:
        yield Path(adapter.path)
        if isinstance(adapter, Adapter) and adapter.pissa_init is not None:
            yield Path(adapter.pissa_init)


def require_other_file(destination: Path, model: Iterable[Path], adapters: Iterable[Path]) -> None:
    """Refuse to write over what is read; raises InputError."""
    if destination.is_dir():
        raise InputError(f"{destination}: is a folder; name the file to write")
    for what, files in (("the checkpoint", model), ("an adapter", adapters)):
        if destination.exists() and any(map(destination.samefile, files)):
            raise InputError(f"{destination}: is {what} itself; name another file to write")
    if not destination.parent.is_dir():
        raise InputError(f"{destination}: its folder does not exist")


@contextmanager
def writing(destination: Path, n_bytes: int) -> Iterator[None]:
    """Ask for the space before the block, and say in one line what goes wrong in it."""
    require_space(destination, n_bytes + SPARE_BYTES)
    try:
        yield
    except OSError as error:
        raise write_error(destination, error, n_bytes) from error


def require_space(destination: Path, n_bytes: int) -> None:
    """Raise RwkvEdgeError if the file system says that a file cannot fit."""
    n_free = shutil.disk_usage(destination.parent).free
    if n_free < n_bytes:
        raise RwkvEdgeError(
            f"{destination}: needs {n_bytes} bytes on its disk, which has {n_free} free"
        )


def write_error(destination: Path, error: OSError, n_bytes: int) -> RwkvEdgeError:
    """One line for a write of `n_bytes` that failed."""
    if error.errno in DISK_FULL:
        n_free = shutil.disk_usage(destination.parent).free
        return RwkvEdgeError(
            f"{destination}: the disk is full: it needs {n_bytes} bytes, and {n_free} are free "
            "now that the unfinished file is removed"
        )
    return RwkvEdgeError(f"{destination}: cannot be written: {error.strerror or error}")
