import threading

import numpy as np
import pytest

from rwkv_edge.jit import kernel
from rwkv_edge.runtime.kernels.barrier import meet
from rwkv_edge.runtime.team import ThreadTeam


@kernel
def count_in_turns(counts, sync, thread, n_threads, n_rounds):
    """Every round each member adds to its own counter, then checks that all are as far."""
    if not meet(sync, n_threads):
        return False
    for n in range(n_rounds):
        counts[thread * 16] += 1
        meet(sync, n_threads)
        for other in range(n_threads):
            if counts[other * 16] != n + 1:
                counts[n_threads * 16] += 1
        meet(sync, n_threads)
    return True


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_members_never_pass_a_meeting_apart(n_threads):
    team = ThreadTeam(n_threads)
    counts = np.zeros((n_threads + 1) * 16, np.int64)
    team.run(lambda thread, n: count_in_turns(counts, team.sync, thread, n, 200))
    assert counts[n_threads * 16] == 0
    assert all(counts[i * 16] == 200 for i in range(n_threads))
    team.close()


def test_a_failing_caller_sends_the_others_home_and_the_team_serves_on():
    team = ThreadTeam(2)
    counts = np.zeros(48, np.int64)
    answers = []

    def task(thread, n):
        if thread == 0:
            raise KeyboardInterrupt
        answers.append(count_in_turns(counts, team.sync, thread, n, 5))

    with pytest.raises(KeyboardInterrupt):
        team.run(task)
    assert answers == [False]
    assert not counts.any()
    team.run(lambda thread, n: count_in_turns(counts, team.sync, thread, n, 5))
    assert counts[0] == counts[16] == 5
    team.close()


def test_a_failing_member_is_reported_to_the_caller():
    team = ThreadTeam(2)

    def task(thread, n):
        if thread == 1:
            raise MemoryError("no room")
        count_in_turns(np.zeros(48, np.int64), team.sync, thread, n, 1)

    with pytest.raises(MemoryError, match="no room"):
        # The caller waits at the first meeting for a member that will never come.
        team.run(task)
    team.close()


def test_threads_end_with_the_team():
    # These threads, not their count: threads of other tests' teams may be ending just now.
    before = set(threading.enumerate())
    team = ThreadTeam(3)
    members = set(threading.enumerate()) - before
    assert len(members) == 2
    team.close()
    for thread in members:
        thread.join(timeout=5)
        assert not thread.is_alive()
