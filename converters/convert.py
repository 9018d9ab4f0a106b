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

from rwkv_edge.arch import Role, TensorSpec, architecture_of
from rwkv_edge.atomic_file import atomic_write
from rwkv_edge.converters.arch import (
    AsStored,
    CheckpointReader,
    ComputedRows,
    Source,
    recognise,
)
from rwkv_edge.converters.checkpoints import Checkpoint, open_checkpoint
from rwkv_edge.converters.gguf_file import FILE_TYPES, GgufHeader, PlannedTensor, pad, write_header
from rwkv_edge.converters.tokenizers import EmbeddedTokenizer, choose_tokenizer
from rwkv_edge.errors import FormatError, InputError, RwkvEdgeError, UnsupportedModelError
from rwkv_edge.hyperparameters import Hyperparameters
from rwkv_edge.quant import BF16, F16, F32, Q8_0, QUANT_FORMATS, Bytes, QuantFormat

if TYPE_CHECKING:
    from rwkv_edge.converters.row_encoder import RowEncoder

Progress = Callable[[int, int], None]

# What the low-rank matrices are stored in, by weight type: they never go below 16 bits.
LORA_FORMATS: dict[str, type[QuantFormat]] = {"F32": F32, "BF16": BF16}
# What tables of a row for each token are stored in, where it is not the weight type.
TABLE_FORMATS: dict[str, type[QuantFormat]] = {"Q4_0": Q8_0}
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

    weight_type: "Q4_0", "Q8_0", "F16", "BF16" or "F32", for the large matrices.
    tokenizer: a vocabulary in the World format, a Hugging Face tokenizer.json or a sentencepiece
    model; by default `<source stem>.vocab.txt` beside the source, else what the number of
    embeddings says, see `choose_tokenizer`.
    threads: default, all that the machine has, at most MAX_THREADS.
    progress: called with (bytes done, bytes in all).
    Raises RwkvEdgeError.
    """
    began = time.perf_counter()
    source, destination = Path(source), Path(destination)
    if weight_type not in FILE_TYPES:
        raise InputError(f"weight type {weight_type}: wanted one of {', '.join(FILE_TYPES)}")
    if threads is not None and threads < 1:
        raise InputError(f"threads {threads}: wanted at least 1")
    with open_checkpoint(source) as checkpoint:
        require_other_file(source, destination)
        reader, hp = recognised(checkpoint)
        words = choose_tokenizer(source, hp.n_vocab, tokenizer)
        architecture = architecture_of(hp.version)
        specs = architecture.tensors(hp)
        tensors = [PlannedTensor(spec, format_of(spec, weight_type)) for spec in specs]
        header = GgufHeader(
            architecture=architecture.name,
            name=source.stem,
            weight_type=weight_type,
            metadata=architecture.gguf_metadata(hp),
            tokenizer=words,
            n_vocab=hp.n_vocab,
            tensors=tensors,
        )
        sources = reader.sources(hp)
        n_bytes = sum(tensor.n_bytes for tensor in tensors)
        require_space(destination, n_bytes + SPARE_BYTES)
        try:
            with atomic_write(destination) as file:
                write_header(file, header)
                report = _Reporter(n_bytes, progress)
                # Closed by name: on an error its threads must have ended when this returns.
                with closing(encoded(checkpoint, tensors, sources, threads)) as pieces:
                    for piece in pieces:
                        if piece is None:
                            pad(file)
                        else:
                            file.write(piece.data)
                            report.add(piece.size)
        except OSError as error:
            raise write_error(destination, error, n_bytes) from error
    return ConversionSummary(
        path=destination,
        n_bytes=destination.stat().st_size,
        n_tensors=len(tensors),
        seconds=time.perf_counter() - began,
        hyperparameters=hp,
        weight_type=weight_type,
        tokenizer=words.kind,
        vocabulary=words.origin,
        notes=tuple(notes_on(tensors, weight_type, words, hp)),
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


def recognised(checkpoint: Checkpoint) -> tuple[CheckpointReader, Hyperparameters]:
    """The version and the shape of a checkpoint; raises FormatError, UnsupportedModelError."""
    shapes = checkpoint.shapes()
    try:
        reader = recognise(shapes)
        hp = reader.check(shapes)
    except (FormatError, UnsupportedModelError) as error:
        raise type(error)(f"{checkpoint.path}: {error}") from error
    for key in shapes:
        checkpoint.require_readable(key)
    return reader, hp


def format_of(spec: TensorSpec, weight_type: str) -> type[QuantFormat]:
    """How a tensor is stored when the user asks for `weight_type`."""
    if spec.role is Role.VECTOR:
        return F32
    if spec.role is Role.LORA:
        return LORA_FORMATS.get(weight_type, F16)
    quant = QUANT_FORMATS[weight_type]
    if spec.role is Role.TABLE:
        quant = TABLE_FORMATS.get(weight_type, quant)
    return quant if spec.shape[-1] % quant.block_len == 0 else F16


def encoded(
    checkpoint: Checkpoint,
    tensors: list[PlannedTensor],
    sources: dict[str, Source],
    threads: int | None,
) -> Generator[Bytes | None, None, None]:
    """The bytes of every tensor in file order; None stands where one ends."""
    # numba takes a second to import: a wrong file name should not wait for it.
    from rwkv_edge.converters.row_encoder import RowEncoder

    with RowEncoder(threads or min(os.cpu_count() or 1, MAX_THREADS)) as encoder:
        for tensor in tensors:
            yield from encoded_tensor(encoder, checkpoint, tensor, sources[tensor.spec.name])
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


def notes_on(
    tensors: list[PlannedTensor], weight_type: str, words: EmbeddedTokenizer, hp: Hyperparameters
) -> Iterator[str]:
    """What the user did not ask for but got."""
    asked = QUANT_FORMATS[weight_type]
    other = [t for t in tensors if t.spec.role is Role.MATRIX and t.quant is not asked]
    if other:
        yield (
            f"{len(other)} matrices are F16: {weight_type} needs rows of a multiple of "
            f"{asked.block_len} weights"
        )
    if words.n_ids < hp.n_vocab and not words.is_padded_always:
        yield f"the vocabulary has {words.n_ids} ids of {hp.n_vocab}: the rest is padding"


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
