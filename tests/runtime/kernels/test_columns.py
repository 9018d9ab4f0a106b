"""Which columns are listed as active, beside plain numpy; the products are in `test_matmul.py`."""

import numpy as np
import pytest

from rwkv_edge.runtime.kernels.activations import BLOCK, HALF
from rwkv_edge.runtime.kernels.columns import (
    list_active,
    list_active_values,
    new_active_columns,
    reads_all,
)

N_BLOCKS = 6
# All, none, few and most inputs are zero, and single ones at the ends of halves.
INPUTS = {
    "zeros": np.zeros(BLOCK),
    "ones": np.ones(BLOCK),
    "few": np.isin(np.arange(BLOCK), [3, 15, 16, 31]) * 2.0,
    "first half": np.arange(BLOCK) < HALF,
    "second half": np.arange(BLOCK) >= HALF,
    "odd": np.arange(BLOCK) % 2,
}


def inputs_of(dtype):
    """Six blocks, each of another kind."""
    return np.concatenate(list(INPUTS.values())).astype(dtype)


def dirty_lists():
    """Lists of a token before, which had other columns."""
    active = new_active_columns(1, N_BLOCKS * BLOCK)
    active.columns[:] = 7
    active.codes[:] = 9
    return active


@pytest.mark.parametrize("part_len", [BLOCK, HALF])
def test_codes_that_are_not_zero_are_listed_in_order(part_len):
    codes, active = inputs_of(np.int8), dirty_lists()
    list_active(codes, active, 0, part_len, 0, codes.size)
    for block, row in enumerate(codes.reshape(-1, BLOCK)):
        wanted = np.flatnonzero(row)
        low = int(np.count_nonzero(row[:HALF]))
        if part_len == HALF:
            # The second half begins at a whole quad.
            gap = np.zeros(-low % 4, int)
            wanted = np.concatenate([wanted[:low], gap, wanted[low:]])
            wanted_codes = np.concatenate([row[row != 0][:low], gap, row[row != 0][low:]])
            low += gap.size
        else:
            wanted_codes = row[row != 0]
        n = wanted.size
        assert (active.counts[0, block], active.low_counts[0, block]) == (n, low)
        assert active.columns[0, block, :n].tolist() == wanted.tolist()
        assert active.codes[0, block, :n].tolist() == wanted_codes.tolist()
        assert not active.columns[0, block, n:].any()
        assert not active.codes[0, block, n:].any()


def test_of_values_the_even_columns_come_first():
    values, active = inputs_of(np.float32), dirty_lists()
    values[5] = np.nan
    list_active_values(values, active, 0, 0, values.size)
    for block, row in enumerate(values.reshape(-1, BLOCK)):
        even, odd = (np.flatnonzero(row[first::2]) * 2 + first for first in (0, 1))
        n = even.size + odd.size
        assert (active.counts[0, block], active.low_counts[0, block]) == (n, even.size)
        assert active.columns[0, block, :n].tolist() == [*even, *odd]


def test_only_the_blocks_that_are_asked_for_are_listed():
    codes, active = inputs_of(np.int8), dirty_lists()
    active.counts[:] = -1
    list_active(codes, active, 0, BLOCK, BLOCK, 3 * BLOCK)
    assert active.counts[0].tolist() == [-1, BLOCK, 4, -1, -1, -1]
    list_active_values(codes.astype(np.float32), active, 0, 4 * BLOCK, 5 * BLOCK)
    assert active.counts[0].tolist() == [-1, BLOCK, 4, -1, HALF, -1]


@pytest.mark.parametrize(
    ("n_tokens", "n_active", "wanted"),
    [(1, 256, False), (3, 256, False), (4, 80, False), (4, 81, True), (5, 64, False),
     (5, 65, True), (6, 0, True)],
)  # fmt: skip
def test_a_few_tokens_read_all_columns_if_each_has_many(n_tokens, n_active, wanted):
    active = new_active_columns(5, 256)
    active.counts[:, 0] = n_active
    assert reads_all(active, n_tokens, 256) == wanted
