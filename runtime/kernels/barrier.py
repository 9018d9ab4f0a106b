"""Where the threads of a team meet.

`sync` is int64 words, each on a cache line of its own: how many have arrived, how often all have
met, whether a member failed to come, and how many sleep until the rest arrive.
"""

import numpy as np

from rwkv_edge.jit import kernel
from rwkv_edge.runtime.simd.atomics import (
    atomic_add,
    atomic_load,
    atomic_store,
    pause,
    sleep_while,
    wake_sleepers,
)

# Words of 8 bytes, two cache lines apart: CPUs fetch lines in pairs.
ARRIVED, MEETINGS, ABORTED, SLEEPERS, SYNC_WORDS = 0, 16, 32, 48, 64
# A meeting takes well under a microsecond, but shares of the same work take 5 to 50 more or less,
# and to be woken costs as much. Who is later still may have lost its core to another program: ours
# is then better left to it, which spinning and even yielding would not do.
SPINS_BEFORE_SLEEP = 3000


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
        if atomic_load(sync, SLEEPERS) != 0:
            wake_sleepers(sync, MEETINGS)
        return True
    spins = 0
    while atomic_load(sync, MEETINGS) == meetings:
        if atomic_load(sync, ABORTED) != 0:
            return False
        if spins < SPINS_BEFORE_SLEEP:
            pause()
            spins += 1
        else:
            atomic_add(sync, SLEEPERS, 1)
            sleep_while(sync, MEETINGS, meetings)
            atomic_add(sync, SLEEPERS, -1)
    return True
