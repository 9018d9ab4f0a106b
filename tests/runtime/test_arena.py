"""Packing many matrices: what is refused, and how much of the file is read before it goes."""

import numpy as np
import pytest

from rwkv_edge.errors import FormatError
from rwkv_edge.gguf_reader import GgufTensor
from rwkv_edge.quant import F32
from rwkv_edge.runtime import arena
from rwkv_edge.runtime.team import ThreadTeam

N_COLUMNS = 32
# Rows of the matrices of a model, in the order of the file.
N_ROWS = (64, 64, 32, 256, 64, 128)


def tensors(damaged: dict[int, int] | None = None) -> list[GgufTensor]:
    """Matrices of ones. damaged: the row that holds a NaN, by the number of the matrix."""
    made = []
    for number, n_rows in enumerate(N_ROWS):
        weights = np.ones((n_rows, N_COLUMNS), np.float32)
        if damaged and number in damaged:
            weights[damaged[number], 0] = np.nan
        made.append(GgufTensor(f"w{number}", weights.shape, F32, F32.encode(weights)))
    return made


def pack(given: list[GgufTensor], n_threads: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pack them, and say how many bytes the arena held each time when the file's pages went."""
    # Addresses are compiled for; packing needs none.
    monkeypatch.setattr(arena, "kernel_addresses", lambda kind: (0, 0))
    made = arena.Arena(given)
    made.weights[:] = 0
    seen: list[int] = []
    team = ThreadTeam(n_threads)
    try:
        made.pack(team, lambda: seen.append(np.count_nonzero(made.weights.view(np.float32)) * 4))
    finally:
        team.close()
    return seen


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_pages_go_before_more_was_read_than_the_largest_matrix(
    n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tensors()
    seen = pack(given, n_threads, monkeypatch)
    assert seen[-1] == sum(tensor.raw.nbytes for tensor in given)
    read = np.diff([0, *seen])
    # The first three go together, and the last two: threads meet three times instead of six.
    assert read.tolist() == [rows * N_COLUMNS * 4 for rows in (160, 256, 192)]


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("rows", [{0: 0, 1: 63}, {0: 63, 1: 0}, {3: 255, 4: 0}])
def test_the_first_damaged_matrix_is_named_whichever_thread_finds_it(
    n_threads: int, rows: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FormatError, match=rf"tensor w{min(rows)} \(F32\) holds numbers that are"):
        pack(tensors(rows), n_threads, monkeypatch)
