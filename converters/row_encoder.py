"""Rows of a checkpoint to rows of a file, on several threads and in little memory."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_edge.converters.checkpoints.base import ELEMENT_DTYPES, Checkpoint
from rwkv_edge.converters.kernels.floats import (
    encode_bf16,
    encode_f16,
    largest_magnitude_bits,
    widen_bf16,
    widen_f16,
)
from rwkv_edge.converters.kernels.half import F32_INFINITY
from rwkv_edge.converters.kernels.iq4_nl import encode_iq4_nl
from rwkv_edge.converters.kernels.iq4_xs import encode_iq4_xs
from rwkv_edge.converters.kernels.lanes import new_scratch
from rwkv_edge.converters.kernels.q2_k import encode_q2_k
from rwkv_edge.converters.kernels.q3_k import encode_q3_k
from rwkv_edge.converters.kernels.q4_0 import encode_q4_0
from rwkv_edge.converters.kernels.q4_1 import encode_q4_1
from rwkv_edge.converters.kernels.q4_k import encode_q4_k
from rwkv_edge.converters.kernels.q5_0 import encode_q5_0
from rwkv_edge.converters.kernels.q5_1 import encode_q5_1
from rwkv_edge.converters.kernels.q5_k import encode_q5_k
from rwkv_edge.converters.kernels.q6_k import encode_q6_k
from rwkv_edge.converters.kernels.q8_0 import encode_q8_0
from rwkv_edge.errors import FormatError
from rwkv_edge.quant import (
    BF16,
    F16,
    F32,
    IQ4_NL,
    IQ4_XS,
    Q2_K,
    Q3_K,
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_0,
    Q5_1,
    Q5_K,
    Q6_K,
    Q8_0,
    Bytes,
    Float32Array,
    QuantFormat,
)

# What a thread takes at a time: enough that starting it costs nothing, 4 MiB of bfloat16.
CHUNK_WEIGHTS = 1 << 21
# What is widened at a time, so that the float32 never leave the second-level cache.
PIECE_WEIGHTS = 1 << 15


def copy_f32(weights: Float32Array, out: Float32Array) -> bool:
    """The format that needs no code."""
    out[:] = weights
    return True


def searching(kernel: Callable[..., bool]) -> Callable[[Float32Array, Bytes], bool]:
    """A kernel that searches for scales, with the scratch memory that it wants."""

    def encode(weights: Float32Array, out: Bytes) -> bool:
        # 15 KiB for each piece of weights: nothing beside the search.
        return kernel(weights, new_scratch(), out)

    return encode


# By format: the kernel, and the dtype of the array that it writes.
ENCODERS: dict[type[QuantFormat], tuple[Callable[..., bool], npt.DTypeLike]] = {
    F32: (copy_f32, np.float32),
    F16: (encode_f16, np.uint16),
    BF16: (encode_bf16, np.uint16),
    Q4_0: (encode_q4_0, np.uint8),
    Q4_1: (searching(encode_q4_1), np.uint8),
    Q5_0: (searching(encode_q5_0), np.uint8),
    Q5_1: (searching(encode_q5_1), np.uint8),
    Q8_0: (encode_q8_0, np.uint8),
    Q2_K: (searching(encode_q2_k), np.uint8),
    Q3_K: (searching(encode_q3_k), np.uint8),
    Q4_K: (searching(encode_q4_k), np.uint8),
    Q5_K: (searching(encode_q5_k), np.uint8),
    Q6_K: (searching(encode_q6_k), np.uint8),
    IQ4_NL: (searching(encode_iq4_nl), np.uint8),
    IQ4_XS: (searching(encode_iq4_xs), np.uint8),
}


class _Slot:
    """Buffers of one chunk on its way: allocated once, because fresh memory is slow."""

    def __init__(self) -> None:
        self._raw = np.empty(0, np.uint8)
        self._encoded = np.empty(0, np.uint8)
        self.piece = np.empty(PIECE_WEIGHTS, np.float32)

    def raw(self, n_bytes: int) -> Bytes:
        if self._raw.size < n_bytes:
            self._raw = np.empty(n_bytes, np.uint8)
        return self._raw[:n_bytes]

    def encoded(self, n_bytes: int) -> Bytes:
        if self._encoded.size < n_bytes:
            self._encoded = np.empty(n_bytes, np.uint8)
        return self._encoded[:n_bytes]


@dataclass(frozen=True)
class _Rows:
    """Rows [start, stop) of one tensor, and the format that they go to."""

    checkpoint: Checkpoint
    key: str
    start: int
    stop: int
    quant: type[QuantFormat]


class RowEncoder:
    """Encodes tensors chunk by chunk; use it in a `with` block, which ends its threads."""

    def __init__(self, threads: int) -> None:
        """Start up to `threads` threads when they are needed."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="encode")
        # One more than the threads: it is written while they work.
        self._free = deque(_Slot() for _ in range(threads + 1))

    def __enter__(self) -> "RowEncoder":
        """Return self."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Wait for the chunks under way and drop those not begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def encode_stored(
        self, checkpoint: Checkpoint, key: str, quant: type[QuantFormat]
    ) -> Iterator[Bytes]:
        """The bytes of a two-dimensional tensor of the checkpoint, in order.

        Each piece is overwritten after the next is taken. Raises FormatError.
        """
        checkpoint.require_readable(key)
        n_rows, n_columns = checkpoint.shape(key)

        def encode(start: int, stop: int, slot: _Slot) -> Bytes:
            return _encode_rows(_Rows(checkpoint, key, start, stop, quant), slot)

        yield from self._encode_chunks(encode, n_rows, n_columns)

    def encode_computed(
        self,
        read_rows: Callable[[int, int], Float32Array],
        shape: tuple[int, ...],
        quant: type[QuantFormat],
        where: str,
    ) -> Iterator[Bytes]:
        """The bytes of a two-dimensional tensor whose rows read_rows(start, stop) gives, in order.

        Each piece is overwritten after the next is taken. where: file and tensor, for messages.
        Raises FormatError.
        """
        n_rows, n_columns = shape

        def encode(start: int, stop: int, slot: _Slot) -> Bytes:
            weights = np.ascontiguousarray(read_rows(start, stop)).reshape(-1)
            out = slot.encoded((stop - start) * quant.row_bytes(n_columns))
            encode_weights(weights, quant, out, where)
            return out

        yield from self._encode_chunks(encode, n_rows, n_columns)

    def _encode_chunks(
        self, encode: Callable[[int, int, _Slot], Bytes], n_rows: int, n_columns: int
    ) -> Iterator[Bytes]:
        """What encode(start, stop, slot) gives for all rows, in order, on several threads."""
        step = max(1, CHUNK_WEIGHTS // n_columns)
        under_way: deque[tuple[_Slot, Future[Bytes]]] = deque()
        starts = iter(range(0, n_rows, step))
        try:
            while True:
                while self._free and (start := next(starts, None)) is not None:
                    slot = self._free.popleft()
                    stop = min(start + step, n_rows)
                    under_way.append((slot, self._pool.submit(encode, start, stop, slot)))
                if not under_way:
                    return
                yield under_way[0][1].result()
                self._free.append(under_way.popleft()[0])
        finally:
            for slot, task in under_way:
                if not task.cancel():
                    wait([task])
                self._free.append(slot)


def _encode_rows(rows: _Rows, slot: _Slot) -> Bytes:
    """One chunk, on one thread; the result lies in the slot."""
    checkpoint, key, quant = rows.checkpoint, rows.key, rows.quant
    n_rows, n_columns = rows.stop - rows.start, checkpoint.shape(key)[1]
    dtype = checkpoint.dtype(key)
    element = ELEMENT_DTYPES[dtype]
    n_weights = n_rows * n_columns
    stored = slot.raw(n_weights * element.itemsize).view(element).reshape(n_rows, n_columns)
    checkpoint.read_rows(key, rows.start, rows.stop, stored)
    flat = stored.reshape(-1)
    out = slot.encoded(n_rows * quant.row_bytes(n_columns))
    block_len, block_bytes = quant.block_len, quant.block.itemsize
    for first in range(0, n_weights, PIECE_WEIGHTS):
        last = min(first + PIECE_WEIGHTS, n_weights)
        weights = _widen(flat[first:last], dtype, slot.piece)
        piece = out[first // block_len * block_bytes : last // block_len * block_bytes]
        encode_weights(weights, quant, piece, f"{checkpoint.path}: {key}")
    return out


def _widen(elements: npt.NDArray[Any], dtype: str, piece: Float32Array) -> Float32Array:
    """Elements as stored to float32, in `piece` unless they are float32 already."""
    if dtype == "float32":
        return elements
    out = piece[: elements.size]
    if dtype == "bfloat16":
        widen_bf16(elements, out)
    else:
        widen_f16(elements.view(np.uint16), out)
    return out


def encode_weights(weights: Float32Array, quant: type[QuantFormat], out: Bytes, where: str) -> None:
    """Flat weights, whole blocks, into `out`; raises FormatError for what cannot be stored.

    where: file and tensor, for the message.
    """
    if largest_magnitude_bits(weights) >= F32_INFINITY:
        raise FormatError(
            f"{where}: holds NaN or infinity; the checkpoint is damaged or its training diverged"
        )
    encode, dtype = ENCODERS[quant]
    if not encode(weights, out.view(dtype)):
        raise FormatError(
            f"{where}: holds {np.abs(weights).max():g}, too large for {quant.__name__}; "
            "convert to F32"
        )
