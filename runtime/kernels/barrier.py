"""Where the threads of a team meet.

`sync` is int64 words, each on a cache line of its own: how many have arrived, how often all have
met, and whether a member failed to come.
"""

import numpy as np

from rwkv_edge.jit import kernel
from rwkv_edge.runtime.simd.atomics import (
    atomic_add,
    atomic_load,
    atomic_store,
    pause,
    yield_thread,
)

# Words of 8 bytes, two cache lines apart: CPUs fetch lines in pairs.
ARRIVED, MEETINGS, ABORTED, SYNC_WORDS = 0, 16, 32, 48
# A meeting takes well under a microsecond; after some 20 the core is better lent to who is late.
SPINS_BEFORE_YIELD = 2000


def new_sync() -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """The words for one team."""
    return np.zeros(SYNC_WORDS, np.int64)


@kernel
def meet(sync, n_threads):
    """Wait until all threads are here; False if one cannot come.

    What any thread wrote before, every thread sees after.
    """
    if n_threads == 1:
        return True
    meetings = atomic_load(sync, MEETINGS)
    if atomic_add(sync, ARRIVED, 1) == n_threads - 1:
        atomic_store(sync, ARRIVED, 0)
        atomic_add(sync, MEETINGS, 1)
        return True
    spins = 0
    while atomic_load(sync, MEETINGS) == meetings:
        if atomic_load(sync, ABORTED) != 0:
            return False
        pause()
        spins += 1
        if spins > SPINS_BEFORE_YIELD:
            yield_thread()
    return True
