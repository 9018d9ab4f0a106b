import gc
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager

import numpy as np
import pytest

from rwkv_edge import Model
from rwkv_edge.jit import kernel
from rwkv_edge.runtime.kernels.barrier import meet
from rwkv_edge.runtime.team import ThreadTeam, shared_team


@contextmanager
def new_threads():
    """The members of teams that start inside; other tests' may be ending just now."""
    before = set(threading.enumerate())
    members = []
    yield members
    started = set(threading.enumerate()) - before
    members.extend(thread for thread in started if thread.name.startswith("rwkv-edge"))


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


def test_who_waits_long_sleeps_and_is_woken():
    with closing(ThreadTeam(2)) as team:
        counts = np.zeros(48, np.int64)
        cpu_seconds = []

        def task(thread, n):
            if thread == 1:
                time.sleep(0.5)
            began = time.thread_time()
            count_in_turns(counts, team.sync, thread, n, 5)
            cpu_seconds.append(time.thread_time() - began)

        team.run(lambda thread, n: count_in_turns(counts, team.sync, thread, n, 0))
        team.run(task)
        assert counts[0] == counts[16] == 5
        # Spinning would have taken all of the half second.
        assert max(cpu_seconds) < 0.1 or sys.platform != "linux"


def test_an_idle_team_takes_no_time_of_the_cpu():
    with closing(ThreadTeam(3)) as team:
        team.run(lambda thread, n: None)
        before = time.process_time()
        time.sleep(1)
        assert time.process_time() - before < 0.05


def test_threads_end_with_the_team():
    team = ThreadTeam(3)
    with new_threads() as members:
        team.run(lambda thread, n: None)
    assert len(members) == 2
    team.close()
    for thread in members:
        thread.join(timeout=5)
        assert not thread.is_alive()


def test_teams_of_one_size_are_one_team_while_somebody_has_it():
    team = shared_team(5)
    assert shared_team(5) is team
    assert shared_team(6) is not team
    with new_threads() as members:
        team.run(lambda thread, n: None)
    assert len(members) == 4
    del team
    gc.collect()
    for thread in members:
        thread.join(timeout=5)
        assert not thread.is_alive()


def test_models_share_threads_and_take_turns(q8_gguf, q4_gguf):
    tokens = [1, 2, 3]
    with ExitStack() as stack:
        with new_threads() as members:
            paths = (q8_gguf, q4_gguf, q8_gguf)
            models = [stack.enter_context(Model.load(path, threads=4)) for path in paths]
            wanted = [model.forward(tokens)[0] for model in models]
        assert len(members) == 3
        with ThreadPoolExecutor(3) as pool:
            for _ in range(20):
                found = pool.map(lambda model: model.forward(tokens)[0], models)
                for row, same in zip(found, wanted, strict=True):
                    np.testing.assert_array_equal(row, same)
        models[0].close()
        np.testing.assert_array_equal(models[1].forward(tokens)[0], wanted[1])


# In a process of its own: one that forks should have no threads but those it is about.
FORKED = """
import os, sys, threading
import numpy as np
from rwkv_edge import Model

def stays_the_same(model, wanted):
    return all(np.array_equal(model.forward([1, 2, 3])[0], wanted) for _ in range(10))

with Model.load(sys.argv[1], threads=2) as model:
    wanted = model.forward([1, 2, 3])[0]
    # The fork may come in the middle of a call: whatever that thread holds, the child lacks.
    endless = threading.Thread(target=stays_the_same, args=(model, wanted))
    endless.start()
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            with Model.load(sys.argv[1], threads=2) as other:
                works = stays_the_same(model, wanted) and stays_the_same(other, wanted)
                os._exit(0 if works else 1)
        children.append(child)
    assert stays_the_same(model, wanted)
    endless.join()
    for child in children:
        _, status = os.waitpid(child, 0)
        assert status == 0, status
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_model_works_on_in_a_forked_process(q8_gguf):
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, str(q8_gguf)], check=True, timeout=120
    )
