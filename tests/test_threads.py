"""What threads do while they wait: they spin alone, and sleep beside other programs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ebb import threads

HERE = threads.libgomp() is not None and threads.waited() is not None
needs_libgomp = pytest.mark.skipif(not HERE, reason="another OpenMP, or no Linux")


class EndedError(Exception):
    pass


def watched(monkeypatch, shares):
    """What `watch` does while the threads wait for these shares of the time: the looks at which a team begins and ends."""
    look, done, total = [0], [], [0.0]

    class Team:
        def __init__(self, *_):
            done.append(("begins", look[0]))

        def end(self):
            done.append(("ends", look[0]))

    def sleep(seconds):
        if look[0] == len(shares):
            raise EndedError
        total[0] += shares[look[0]] * seconds
        look[0] += 1

    monkeypatch.setattr(threads, "SleepingTeam", Team)
    monkeypatch.setattr(threads.time, "sleep", sleep)
    monkeypatch.setattr(threads.time, "monotonic", lambda: threads.EVERY * look[0])
    monkeypatch.setattr(threads, "waited", lambda: total[0])
    with pytest.raises(EndedError):
        threads.watch(Path("libgomp.so.1"))
    return done


def test_a_team_sleeps_as_long_as_others_want_the_cores(monkeypatch):
    assert watched(monkeypatch, [0.02] * 5 + [0.7] * 3 + [0.4] * 40 + [0.02] * 5) == [("begins", 8), ("ends", 53)]


def test_a_moment_is_not_waited_for(monkeypatch):
    assert watched(monkeypatch, ([0.9] * 2 + [0.02]) * 20) == []
    assert watched(monkeypatch, [0.7] * 3 + ([0.02] * 4 + [0.4]) * 20) == [("begins", 3)]


def test_what_lies_between_changes_nothing(monkeypatch):
    between = (threads.MUCH + threads.LITTLE) / 2
    assert watched(monkeypatch, [between] * 50) == []
    assert watched(monkeypatch, [0.7] * 3 + [between] * 50) == [("begins", 3)]


@needs_libgomp
@pytest.mark.parametrize("name", threads.CHOSEN)
def test_the_users_own_choice_stands(monkeypatch, name):
    monkeypatch.setattr(threads.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(threads, "watch", lambda library: None)
    for other in threads.CHOSEN:
        monkeypatch.delenv(other, raising=False)
    assert threads.give_way.__wrapped__()
    monkeypatch.setenv(name, "passive")
    assert not threads.give_way.__wrapped__()


def test_where_nothing_can_be_done_nothing_is(monkeypatch):
    monkeypatch.setattr(threads, "libgomp", lambda: None)
    assert not threads.give_way.__wrapped__()


@needs_libgomp
def test_one_thread_waits_for_no_other(monkeypatch):
    monkeypatch.setattr(threads.torch, "get_num_threads", lambda: 1)
    assert not threads.give_way.__wrapped__()


SLEEPS = """
import resource, torch
from ebb.threads import SleepingTeam, libgomp, spare
torch.set_num_threads(2)
x = torch.randn(64, 64, 3, 3)
def sleeps():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    for _ in range(300):
        torch.nn.functional.conv2d(x, x[:, :, :3, :3])
        sum(range(3000))
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before
sleeps()
alone, first = sleeps(), torch.nn.functional.conv2d(x, x)
team = SleepingTeam(libgomp(), spare())
beside, second = sleeps(), torch.nn.functional.conv2d(x, x)
team.end()
print(alone, beside, sleeps(), torch.equal(first, second))
"""


@needs_libgomp
@pytest.mark.full
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a single core")
def test_beside_a_sleeping_team_threads_sleep_while_they_wait_and_compute_the_same():
    """Voluntary switches of context count how often a thread slept; libgomp spins for 3 ms before it does."""
    env = {name: value for name, value in os.environ.items() if name not in (*threads.CHOSEN, "OMP_NUM_THREADS")}
    out = subprocess.run([sys.executable, "-c", SLEEPS], capture_output=True, text=True, check=True, env=env)
    alone, beside, after, same = out.stdout.split()
    assert int(beside) > 300
    assert int(beside) > 3 * max(int(alone), int(after))
    assert same == "True"
