"""All matrices of a model, packed once at load into one block of memory."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from rwkv_edge.errors import UnsupportedModelError
from rwkv_edge.gguf_reader import GgufTensor
from rwkv_edge.quant import BF16, F16, F32, Q4_0, Q8_0, QuantFormat
from rwkv_edge.runtime.kernels import matmul_q4_0, matmul_q8_0
from rwkv_edge.runtime.kernels.activations import padded
from rwkv_edge.runtime.kernels.elementwise import share
from rwkv_edge.runtime.kernels.matmul import MATRIX, PackedFormat
from rwkv_edge.runtime.kernels.matmul_floats import CHAINS
from rwkv_edge.runtime.kernels.pack import ROWS, pack_blocks, pack_columns, tile_bytes
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
# Bytes of the codes of one packed block, and what is XORed to each 16-bit word of them.
PACKED_BLOCKS: dict[PackedFormat, tuple[int, int]] = {
    PackedFormat.Q8_0: (matmul_q8_0.CODE_BYTES, matmul_q8_0.FLIP_SIGNS),
    PackedFormat.Q4_0: (matmul_q4_0.CODE_BYTES, 0),
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
    """Packed matrices by tensor name: `weights` (bytes) and `matrices` (records of `MATRIX`)."""

    def __init__(self, tensors: Sequence[GgufTensor]) -> None:
        self._tensors = list(tensors)
        self.matrices: dict[str, np.void] = {}
        self._end = 0
        for tensor in self._tensors:
            self.matrices[tensor.name] = self._place(tensor)
        # A prefetch may run ahead of the end, which is harmless; a load never does.
        block = np.empty(self._end + CACHE_LINE, np.uint8)
        start = -block.ctypes.data % CACHE_LINE
        self.weights: npt.NDArray[np.uint8] = block[start : start + self._end]

    def _place(self, tensor: GgufTensor) -> np.void:
        """Reserve room for a matrix, on a cache line of its own."""
        n_rows, n_columns = tensor.shape
        kind = packed_format(tensor.quant_format)
        rows = -(-n_rows // ROW_PADDING) * ROW_PADDING
        if kind in PACKED_BLOCKS:
            columns = padded(n_columns)
            tile_columns = padded(1)
            n_bytes = rows // ROWS * (columns // tile_columns) * tile_bytes(PACKED_BLOCKS[kind][0])
        else:
            columns = -(-n_columns // CHAINS) * CHAINS
            n_bytes = rows * columns * tensor.quant_format.block.itemsize
        record: np.void = np.array([(self._end, rows, columns, int(kind))], MATRIX)[0]
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
        offset, n_columns = int(matrix["offset"]), int(matrix["n_columns"])
        n_groups = int(matrix["n_rows"]) // ROWS
        first, last = share(n_groups, 1, thread, n_threads)
        word = np.uint32 if kind is PackedFormat.F32 else np.uint16
        raw = tensor.raw.view(word)
        # No view of the rest: `offset` is a multiple of every word's size.
        packed = self.weights[offset:]
        packed = packed[: packed.size // raw.itemsize * raw.itemsize].view(word)
        if kind in PACKED_BLOCKS:
            code_bytes, flip = PACKED_BLOCKS[kind]
            code_words = code_bytes // ROWS // 2
            pack_blocks(raw, packed, code_words, np.uint16(flip), first, last)
        else:
            pack_columns(raw, packed, n_columns, first, last)
