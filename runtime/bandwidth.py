"""How fast this machine reads memory, measured with the threads and instructions of the kernels."""

import time

import numpy as np

from rwkv_edge.runtime.kernels.elementwise import share
from rwkv_edge.runtime.kernels.read_bandwidth import TURN, sum_of
from rwkv_edge.runtime.team import ThreadTeam

# Far more than any cache holds.
BUFFER_BYTES = 1 << 30
PASSES = 5


def read_bandwidth(n_threads: int, n_bytes: int = BUFFER_BYTES, passes: int = PASSES) -> float:
    """Bytes a second that `n_threads` read together from a buffer of about n_bytes: the best pass.

    Comparable to STREAM's reading half. Raises MemoryError if there is no room for the buffer.
    """
    # Written, because pages that nobody wrote to are all the same one.
    buffer = np.ones(max(1, n_bytes // 4 // TURN) * TURN, np.float32)
    sums = np.zeros(n_threads, np.float32)
    team = ThreadTeam(n_threads)

    def read_share(thread: int, n: int) -> None:
        first, last = share(buffer.size, TURN, thread, n)
        sums[thread] = sum_of(buffer, first, last)

    try:
        team.run(read_share)  # compiles, and touches every page
        seconds = []
        for _ in range(passes):
            began = time.perf_counter()
            team.run(read_share)
            seconds.append(time.perf_counter() - began)
    finally:
        team.close()
    return buffer.nbytes / min(seconds)
