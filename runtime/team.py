"""A team of plain Python threads that run one nogil kernel together.

The caller is member 0; the others sleep until there is work. numba's own `parallel=True` would
cost microseconds per call and seconds of cache loading.
"""

import os
import queue
import threading
import weakref
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from rwkv_edge.runtime.kernels.barrier import ABORTED, ARRIVED, new_sync

Task = Callable[[int, int], object]


class ThreadTeam:
    """Runs `task(thread, n_threads)` on every member at once.

    `sync` is what kernels meet at. A team serves one call at a time: `run` is locked.
    The members start with the first task, and end when the team is closed or dropped.
    """

    def __init__(self, n_threads: int) -> None:
        assert n_threads >= 1
        self.n_threads = n_threads
        self.sync = new_sync()
        self._lock = threading.Lock()
        self._tasks: list[queue.SimpleQueue[Task | None]] = []
        self._finished: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        # Members hold no reference to the team, so that dropping it lets them go.
        weakref.finalize(self, _dismiss, self._tasks)

    def run(self, task: Task) -> None:
        """Run the task on all members and wait for them; raises what a member raised.

        If a member cannot begin (Ctrl-C reaches the caller first), those already waiting at the
        first meeting of the kernel are sent home: it returns False, and nothing was changed.
        """
        with self._lock:
            n_started = 0
            failure: BaseException | None = None
            try:
                self._start_members()
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

    def _start_members(self) -> None:
        for thread in range(len(self._tasks) + 1, self.n_threads):
            tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
            threading.Thread(
                target=_work,
                args=(tasks, self._finished, self.sync, thread, self.n_threads),
                name=f"rwkv-edge-{thread}",
                daemon=True,
            ).start()
            self._tasks.append(tasks)

    def close(self) -> None:
        """Let the members end; another task would start new ones."""
        with self._lock:
            _dismiss(self._tasks)

    def forget_members(self) -> None:
        """In a forked process, where they do not exist: be as before the first task."""
        self._lock = threading.Lock()
        self._tasks.clear()
        self._finished = queue.SimpleQueue()
        self.sync[:] = 0


_shared_teams: "weakref.WeakValueDictionary[int, ThreadTeam]" = weakref.WeakValueDictionary()
_sharing = threading.Lock()


def shared_team(n_threads: int) -> ThreadTeam:
    """The one team of this size: models take turns with it rather than crowd the cores.

    It lives until the last who asked for it has dropped it; nobody closes it.
    """
    _survive_forks()
    with _sharing:
        team = _shared_teams.get(n_threads)
        if team is None:
            team = _shared_teams[n_threads] = ThreadTeam(n_threads)
        return team


@cache
def _survive_forks() -> None:
    """A forked process has all models of its parent, but none of its threads."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_begin_anew)


def _begin_anew() -> None:
    global _sharing  # noqa: PLW0603 - a thread that is not here may have held it
    _sharing = threading.Lock()
    for team in _shared_teams.values():
        team.forget_members()


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
    while tasks_of_members:
        tasks_of_members.pop().put(None)
