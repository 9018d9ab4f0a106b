"""All matrices of a model, packed once at load into one block of memory."""

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from rwkv_edge.errors import FormatError
from rwkv_edge.gguf_reader import GgufTensor
from rwkv_edge.runtime.kernels.activations import BLOCK
from rwkv_edge.runtime.kernels.elementwise import share
from rwkv_edge.runtime.kernels.matmul import MATRIX, kernel_addresses, packed_format
from rwkv_edge.runtime.kernels.packed_format import ROWS, PackedFormat
from rwkv_edge.runtime.team import ThreadTeam

# Rows are shared out by blocks of 32 quantized activations.
ROW_PADDING = 2 * ROWS
CACHE_LINE = 64
Matrices = list[tuple[GgufTensor, PackedFormat]]


class Arena:
    """Packed matrices by tensor name: `weights` (bytes) and `matrices` (records of `MATRIX`).

    sparse_inputs: names of those whose inputs are mostly zero: laid out by columns.
    """

    def __init__(self, tensors: Sequence[GgufTensor], sparse_inputs: Collection[str] = ()) -> None:
        self._tensors: Matrices = [
            (tensor, packed_format(tensor.quant_format, tensor.name in sparse_inputs))
            for tensor in tensors
        ]
        self.matrices: dict[str, np.void] = {}
        self._end = 0
        for tensor, packed in self._tensors:
            self.matrices[tensor.name] = self._place(tensor, packed)
        # A prefetch may run ahead of the end, which is harmless; a load never does.
        block = np.empty(self._end + CACHE_LINE, np.uint8)
        start = -block.ctypes.data % CACHE_LINE
        self.weights: npt.NDArray[np.uint8] = block[start : start + self._end]

    def _place(self, tensor: GgufTensor, packed: PackedFormat) -> np.void:
        """Reserve room for a matrix, on a cache line of its own."""
        n_rows, n_columns = tensor.shape
        row_unit = max(packed.group_rows, ROW_PADDING)
        rows = -(-n_rows // row_unit) * row_unit
        tile_columns = packed.tile_blocks * BLOCK
        columns = -(-n_columns // tile_columns) * tile_columns
        addresses = kernel_addresses(packed)
        record: np.void = np.array(
            [(self._end, rows, columns, packed.part_len, row_unit, *addresses)], MATRIX
        )[0]
        n_bytes = rows // packed.group_rows * group_bytes(packed, columns)
        self._end += -(-n_bytes // CACHE_LINE) * CACHE_LINE
        return record

    def pack(self, team: ThreadTeam, release_pages: Callable[[], None]) -> None:
        """Fill the arena, each matrix by all threads; what was read of the file goes run by run.

        Raises FormatError if a scale or a number is NaN or infinite.
        """
        for run in self._runs():
            damaged: dict[int, FormatError] = {}
            team.run(lambda thread, n: self._pack_run(run, damaged, thread, n))  # noqa: B023
            release_pages()
            if damaged:
                raise damaged[min(damaged)]
        self._tensors = []

    def _runs(self) -> Iterator[Matrices]:
        """The matrices in turn, as many together as are no larger than the largest by itself.

        Waiting for each other after every matrix would cost threads as much time as a small one
        does. What a run reads of the file stays resident until its end.
        """
        most = max((tensor.raw.nbytes for tensor, _ in self._tensors), default=0)
        run: Matrices = []
        n_bytes = 0
        for tensor, packed in self._tensors:
            if n_bytes + tensor.raw.nbytes > most:
                yield run
                run, n_bytes = [], 0
            run.append((tensor, packed))
            n_bytes += tensor.raw.nbytes
        yield run

    def _pack_run(
        self, run: Matrices, damaged: dict[int, FormatError], thread: int, n_threads: int
    ) -> None:
        """One thread's share of each. damaged: gets what is wrong with the first that is not whole.

        Another thread may be further: the least number of all threads is the first.
        """
        for number, (tensor, packed) in enumerate(run):
            try:
                self._pack_share(tensor, packed, thread, n_threads)
            except FormatError as error:
                damaged[number] = error
                return

    def _pack_share(
        self, tensor: GgufTensor, packed: PackedFormat, thread: int, n_threads: int
    ) -> None:
        matrix, group_rows = self.matrices[tensor.name], packed.group_rows
        first, last = share(int(matrix["n_rows"]) // group_rows, 1, thread, n_threads)
        n_whole = tensor.raw.shape[0] // group_rows
        n_bad = packed.pack(tensor.raw, 0, self.weights, matrix, first, min(last, n_whole))
        for group in range(max(first, n_whole), last):
            rows = np.zeros((group_rows, tensor.raw.shape[1]), np.uint8)
            left = tensor.raw[group * group_rows :]
            rows[: left.shape[0]] = left
            # As the rows of a mapped file, so that no kernel is compiled twice.
            rows.flags.writeable = tensor.raw.flags.writeable
            n_bad += packed.pack(rows, group, self.weights, matrix, group, group + 1)
        if n_bad:
            raise FormatError(
                f"tensor {tensor.name} ({tensor.quant_format.__name__}) holds numbers that are NaN "
                "or infinite, which no weight is; convert the checkpoint again"
            )


def group_bytes(packed: PackedFormat, n_columns: int) -> int:
    """Bytes of a group of rows of so many columns, padding included."""
    return n_columns // (packed.tile_blocks * BLOCK) * packed.tile_bytes
