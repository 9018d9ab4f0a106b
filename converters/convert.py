"""A checkpoint to a GGUF."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rwkv_edge.arch import Role
from rwkv_edge.atomic_file import atomic_write
from rwkv_edge.converters.arch import AsStored, ComputedRows, Source
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
# Room for the header and for what file systems take for themselves.
SPARE_BYTES = 16 << 20


@dataclass(frozen=True)
class ConversionSummary:
    """What was written.

    n_bytes: size of the file; weight_type: "Q4_0" and so on; tokenizer: its kind,
    "world", "bytes", "huggingface" or "sentencepiece"; vocabulary: where it came from; notes:
    sentences for the user, often none.
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


def convert(
    source: str | Path,
    destination: str | Path,
    weight_type: str = "Q4_0",
    *,
    tokenizer: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ConversionSummary:
    """Convert a `.pth` or safetensors checkpoint to a GGUF, which appears whole or not at all.

    weight_type: a name of `weight_types.WEIGHT_TYPES`, "Q4_K_M" and so on.
    tokenizer: a vocabulary in the World format, a Hugging Face tokenizer.json or a sentencepiece
    model; by default `<source stem>.vocab.txt` beside the source, else what the number of
    embeddings says, see `choose_tokenizer`.
    threads: default, all that the machine has, at most MAX_THREADS.
    progress: called with (bytes done, bytes in all).
    Raises RwkvEdgeError.
    """
    began = time.perf_counter()
    source, destination = Path(source), Path(destination)
    require_weight_type(weight_type)
    if threads is not None and threads < 1:
        raise InputError(f"threads {threads}: wanted at least 1")
    with open_model_source(source) as model:
        require_other_file(source, destination)
        plan = plan_conversion(model, weight_type, tokenizer)
        require_space(destination, plan.n_bytes + SPARE_BYTES)
        try:
            with atomic_write(destination) as file:
                write_header(file, plan.header)
                report = _Reporter(plan.n_bytes, progress)
                # Closed by name: on an error its threads must have ended when this returns.
                with closing(encoded(plan, threads)) as pieces:
                    for piece in pieces:
                        if piece is None:
                            pad(file)
                        else:
                            file.write(piece.data)
                            report.add(piece.size)
        except OSError as error:
            raise write_error(destination, error, plan.n_bytes) from error
    words = plan.header.tokenizer
    return ConversionSummary(
        path=destination,
        n_bytes=destination.stat().st_size,
        n_tensors=len(plan.tensors),
        seconds=time.perf_counter() - began,
        hyperparameters=plan.hyperparameters,
        weight_type=weight_type,
        tokenizer=words.kind,
        vocabulary=words.origin,
        notes=plan.notes,
    )


class _Reporter:
    """Tells a callback how far the writing has come."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done = 0
        self._total = total
        self._progress = progress

    def add(self, n_bytes: int) -> None:
        self._done += n_bytes
        if self._progress is not None:
            self._progress(self._done, self._total)


def encoded(plan: ConversionPlan, threads: int | None) -> Generator[Bytes | None, None, None]:
    """The bytes of every tensor in file order; None stands where one ends."""
    # numba takes a second to import: a wrong file name should not wait for it.
    from rwkv_edge.converters.row_encoder import RowEncoder

    model = plan.model
    with RowEncoder(threads or min(os.cpu_count() or 1, MAX_THREADS)) as encoder:
        for tensor in plan.tensors:
            source = model.sources[tensor.spec.name]
            yield from encoded_tensor(encoder, model.checkpoint, tensor, source)
            yield None


def encoded_tensor(
    encoder: "RowEncoder", checkpoint: Checkpoint, tensor: PlannedTensor, source: Source
) -> Iterator[Bytes]:
    """The bytes of one tensor: matrices and tables streamed, the small rest at once."""
    from rwkv_edge.converters.row_encoder import encode_weights

    where = f"{checkpoint.path}: {tensor.spec.name}"
    if tensor.spec.role is Role.MATRIX and isinstance(source, AsStored):
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


def require_other_file(source: Path, destination: Path) -> None:
    """Refuse to write over the checkpoint; raises InputError."""
    if destination.is_dir():
        raise InputError(f"{destination}: is a folder; name the file to write")
    if destination.exists() and destination.samefile(source):
        raise InputError(f"{destination}: is the checkpoint itself; name another file to write")
    if not destination.parent.is_dir():
        raise InputError(f"{destination}: its folder does not exist")


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
