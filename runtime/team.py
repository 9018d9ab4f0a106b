"""A team of plain Python threads that run one nogil kernel together.

The caller is member 0; the others sleep until there is work. numba's own `parallel=True` would
cost microseconds per call and seconds of cache loading.
"""

import queue
import threading
import weakref
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rwkv_edge.runtime.kernels.barrier import ABORTED, ARRIVED, new_sync

Task = Callable[[int, int], object]


class ThreadTeam:
    """Runs `task(thread, n_threads)` on every member at once.

    `sync` is what kernels meet at. A team serves one call at a time: `run` is locked.
    """

    def __init__(self, n_threads: int) -> None:
        assert n_threads >= 1
        self.n_threads = n_threads
        self.sync = new_sync()
        self._lock = threading.Lock()
        self._tasks: list[queue.SimpleQueue[Task | None]] = []
        self._finished: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        for thread in range(1, n_threads):
            tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
            self._tasks.append(tasks)
            threading.Thread(
                target=_work,
                args=(tasks, self._finished, self.sync, thread, n_threads),
                name=f"rwkv-edge-{thread}",
                daemon=True,
            ).start()
        # Members hold no reference to the team, so that dropping it lets them go.
        self._finalizer = weakref.finalize(self, _dismiss, self._tasks)

    def run(self, task: Task) -> None:
        """Run the task on all members and wait for them; raises what a member raised.

        If a member cannot begin (Ctrl-C reaches the caller first), those already waiting at the
        first meeting of the kernel are sent home: it returns False, and nothing was changed.
        """
        with self._lock:
            n_started = 0
            failure: BaseException | None = None
            try:
                for tasks in self._tasks:
                    tasks.put(task)
                    n_started += 1
                task(0, self.n_threads)
            except BaseException as error:
                failure = error
                self.sync[ABORTED] = 1
            for _ in range(n_started):
                failure = self._wait_for_member() or failure
            if failure is not None:
                self.sync[ABORTED] = 0
                self.sync[ARRIVED] = 0
                raise failure

    def _wait_for_member(self) -> BaseException | None:
        """A member's failure, if it had one. Ctrl-C waits until the member is out of the kernel."""
        interrupt: BaseException | None = None
        while True:
            try:
                failure = self._finished.get()
            except KeyboardInterrupt as error:
                interrupt = error
                continue
            return failure or interrupt

    def close(self) -> None:
        """Let the members end."""
        self._finalizer()


def _work(
    tasks: "queue.SimpleQueue[Task | None]",
    finished: "queue.SimpleQueue[BaseException | None]",
    sync: npt.NDArray[np.int64],
    thread: int,
    n_threads: int,
) -> None:
    while (task := tasks.get()) is not None:
        failure: BaseException | None = None
        try:
            task(thread, n_threads)
        except BaseException as error:
            failure = error
            sync[ABORTED] = 1  # the others may be waiting at the first meeting
        del task
        finished.put(failure)


def _dismiss(tasks_of_members: "list[queue.SimpleQueue[Task | None]]") -> None:
    for tasks in tasks_of_members:
        tasks.put(None)
