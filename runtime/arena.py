"""All matrices of a model, packed once at load into one block of memory."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rwkv_edge.errors import UnsupportedModelError
from rwkv_edge.gguf_reader import GgufTensor
from rwkv_edge.quant import BF16, F16, F32, Q4_0, Q8_0, QuantFormat
from rwkv_edge.runtime.kernels import matmul_q4_0, matmul_q8_0
from rwkv_edge.runtime.kernels.activations import BLOCK, COLUMN_PADDING, padded
from rwkv_edge.runtime.kernels.columns import GROUP_ROWS
from rwkv_edge.runtime.kernels.columns import SCALE_BYTES as GROUP_SCALE_BYTES
from rwkv_edge.runtime.kernels.elementwise import share
from rwkv_edge.runtime.kernels.matmul import MATRIX, PackedFormat, kernel_addresses
from rwkv_edge.runtime.kernels.matmul_floats import COLUMN_GROUP_ROWS, COLUMN_STEP
from rwkv_edge.runtime.kernels.pack import (
    ROWS,
    pack_blocks,
    pack_byte_columns,
    pack_columns,
    pack_nibble_columns,
    tile_bytes,
)
from rwkv_edge.runtime.simd.dot_products import multiplies_unsigned
from rwkv_edge.runtime.simd.shuffles import rows_side_by_side
from rwkv_edge.runtime.team import ThreadTeam

# Rows are shared out by blocks of 32 quantized activations.
ROW_PADDING = 2 * ROWS
CACHE_LINE = 64

PACKED_FORMATS: dict[type[QuantFormat], PackedFormat] = {
    F32: PackedFormat.F32,
    F16: PackedFormat.F16,
    BF16: PackedFormat.BF16,
    Q8_0: PackedFormat.Q8_0,
    Q4_0: PackedFormat.Q4_0,
}
# The same, laid out so that single columns are cheap to read.
BY_COLUMNS: dict[PackedFormat, PackedFormat] = {
    PackedFormat.Q8_0: PackedFormat.Q8_0_COLUMNS,
    PackedFormat.Q4_0: PackedFormat.Q4_0_COLUMNS,
    PackedFormat.F32: PackedFormat.F32_COLUMNS,
    PackedFormat.F16: PackedFormat.F16_COLUMNS,
    PackedFormat.BF16: PackedFormat.BF16_COLUMNS,
}
QUANTIZED_COLUMNS = (PackedFormat.Q8_0_COLUMNS, PackedFormat.Q4_0_COLUMNS)
# Bytes of the codes of one packed block of 16 rows, or of one column of 128 rows.
CODE_BYTES: dict[PackedFormat, int] = {
    PackedFormat.Q8_0: matmul_q8_0.CODE_BYTES,
    PackedFormat.Q4_0: matmul_q4_0.CODE_BYTES,
    PackedFormat.Q8_0_COLUMNS: matmul_q8_0.COLUMN_BYTES,
    PackedFormat.Q4_0_COLUMNS: matmul_q4_0.COLUMN_BYTES,
}


def packed_format(quant_format: type[QuantFormat]) -> PackedFormat:
    """The packed twin of a file's format."""
    found = PACKED_FORMATS.get(quant_format)
    if found is None:
        raise UnsupportedModelError(
            f"the numba backend has no kernel for {quant_format.__name__}; "
            "convert the original checkpoint again, or use --backend reference"
        )
    return found


class Arena:
    """Packed matrices by tensor name: `weights` (bytes) and `matrices` (records of `MATRIX`).

    sparse_inputs: names of those whose inputs are mostly zero: laid out by columns.
    """

    def __init__(self, tensors: Sequence[GgufTensor], sparse_inputs: Collection[str] = ()) -> None:
        self._tensors = list(tensors)
        self.matrices: dict[str, np.void] = {}
        self._end = 0
        for tensor in self._tensors:
            kind = packed_format(tensor.quant_format)
            if tensor.name in sparse_inputs:
                kind = BY_COLUMNS[kind]
            self.matrices[tensor.name] = self._place(tensor, kind)
        # A prefetch may run ahead of the end, which is harmless; a load never does.
        block = np.empty(self._end + CACHE_LINE, np.uint8)
        start = -block.ctypes.data % CACHE_LINE
        self.weights: npt.NDArray[np.uint8] = block[start : start + self._end]

    def _place(self, tensor: GgufTensor, kind: PackedFormat) -> np.void:
        """Reserve room for a matrix, on a cache line of its own."""
        n_rows, n_columns = tensor.shape
        rows = -(-n_rows // ROW_PADDING) * ROW_PADDING
        columns = padded(n_columns)
        if kind in QUANTIZED_COLUMNS:
            rows = -(-n_rows // GROUP_ROWS) * GROUP_ROWS
            columns = n_columns
            n_blocks = rows // GROUP_ROWS * (columns // BLOCK)
            n_bytes = n_blocks * (GROUP_SCALE_BYTES + BLOCK * CODE_BYTES[kind])
        elif kind in CODE_BYTES:
            n_bytes = rows // ROWS * (columns // COLUMN_PADDING) * tile_bytes(CODE_BYTES[kind])
        else:
            columns = -(-n_columns // COLUMN_STEP) * COLUMN_STEP
            n_bytes = rows * columns * tensor.quant_format.block.itemsize
        record: np.void = np.array(
            [(self._end, rows, columns, int(kind), *kernel_addresses(kind))], MATRIX
        )[0]
        self._end += -(-n_bytes // CACHE_LINE) * CACHE_LINE
        return record

    def pack(self, team: ThreadTeam, release_pages: Callable[[], None]) -> None:
        """Fill the arena, each matrix by all threads; a matrix's pages of the file go at once."""
        for tensor in self._tensors:
            matrix = self.matrices[tensor.name]
            team.run(lambda thread, n: self._pack_share(tensor, matrix, thread, n))  # noqa: B023
            release_pages()
        self._tensors = []

    def _pack_share(self, tensor: GgufTensor, matrix: np.void, thread: int, n_threads: int) -> None:
        kind = PackedFormat(int(matrix["format"]))
        n_rows, n_columns = int(matrix["n_rows"]), int(matrix["n_columns"])
        first, last = share(n_rows // ROWS, 1, thread, n_threads)
        # Views to the end of the arena: an offset is a multiple of every word's size.
        packed = self.weights[int(matrix["offset"]) :]
        flip = 0x80 if multiplies_unsigned() else 0
        if kind in QUANTIZED_COLUMNS:
            first, last = share(n_rows // GROUP_ROWS, 1, thread, n_threads)
            order = np.array(rows_side_by_side())
            if kind is PackedFormat.Q4_0_COLUMNS:
                pack_nibble_columns(tensor.raw, packed, order, GROUP_ROWS, first, last)
            else:
                pack_byte_columns(
                    tensor.raw, packed, order, GROUP_ROWS, np.uint8(flip), first, last
                )
        elif kind in CODE_BYTES:
            code_flip = flip if kind is PackedFormat.Q8_0 else 0
            code_bytes = CODE_BYTES[kind] // ROWS
            pack_blocks(tensor.raw, packed, code_bytes, np.uint8(code_flip), first, last)
        else:
            is_wide = kind in (PackedFormat.F32, PackedFormat.F32_COLUMNS)
            word = np.uint32 if is_wide else np.uint16
            raw, words = tensor.raw.view(word), whole_words(packed, word)
            group_rows = COLUMN_GROUP_ROWS if kind in BY_COLUMNS.values() else ROWS
            first, last = share(n_rows // group_rows, 1, thread, n_threads)
            pack_columns(raw, words, n_columns, group_rows, first, last)


def whole_words(data: npt.NDArray[np.uint8], word: type[np.unsignedinteger]) -> npt.NDArray[Any]:
    """A view of bytes as words; what is left at the end is dropped."""
    n_bytes = np.dtype(word).itemsize
    return data[: data.size // n_bytes * n_bytes].view(word)
