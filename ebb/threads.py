"""Waiting threads that give way: what torch's threads do while another program wants their cores.

An operation of torch is shared out to the threads of OpenMP, and one that has done its part spins until the others
have: on an idle machine the fastest way to wait. Where another program has displaced one of them, the others spin for
nothing on the cores it could have, and a small network runs at a quarter to a fiftieth of its speed. libgomp, which
torch brings on Linux, spins 3,000 times more shortly, and then sleeps, while it manages more threads than there are
cores (its manual, GOMP_SPINCOUNT). `give_way` looks ten times a second how long the threads of this process wait for
a core; while that is much it keeps a few more threads, asleep, so that libgomp waits as it does beside others.

How many threads compute, and in what order, stays as it is: so do all results, bit for bit.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
import time
from functools import lru_cache
from pathlib import Path

import torch

EVERY = 0.1
"""Seconds between two looks."""

MUCH, LITTLE = 0.25, 0.12
"""Seconds a second for which threads are kept waiting for a core: beside others there are more than MUCH (measured: 0.6
to 0.7, and 0.3 to 0.6 asleep), alone less than LITTLE (0.01 to 0.08)."""

SURE = 3
"""Looks in a row with much waiting after which there are others: what starts and ends at once is not waited for."""

CALM = 5
"""Looks in a row with little waiting after which they have gone."""

THREADS = Path("/proc/self/task")

CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Where one of these is set in the environment, that choice stands."""


@lru_cache(maxsize=1)
def give_way() -> bool:
    """Watch from now on whether other programs want the cores; True where this process can give way to them.

    It cannot where a variable of CHOSEN is set, with another OpenMP than libgomp, or off Linux; a single thread waits
    for no other.
    """
    library = libgomp()
    if library is None or waited() is None or torch.get_num_threads() < 2 or any(name in os.environ for name in CHOSEN):
        return False
    threading.Thread(target=watch, args=(library,), name="ebb gives way", daemon=True).start()
    return True


def libgomp() -> Path | None:
    """The file of the libgomp that this process computes with; None where it uses none."""
    try:
        mapped = Path("/proc/self/maps").read_text(encoding="utf8", errors="replace").splitlines()
    except OSError:
        return None
    files = (line.split(maxsplit=5)[-1] for line in mapped)
    return next((Path(file) for file in files if re.search(r"/libgomp[^/]*\.so[^/]*$", file)), None)


def waited() -> float | None:
    """Seconds for which the threads of this process were ready to run and had no core, in all; None if nobody counts.

    From the second number of /proc/PID/task/TID/schedstat, in nanoseconds (proc(5)); Linux only.
    """
    total = 0
    try:
        for thread in os.listdir(THREADS):
            try:
                total += int((THREADS / thread / "schedstat").read_bytes().split()[1])
            except ProcessLookupError:  # it ended while we looked
                continue
    except (OSError, IndexError, ValueError):
        return None
    return total / 1e9


def watch(library: Path) -> None:
    """Keep a sleeping team while the threads of this process wait for cores; without end."""
    team, crowded, calm = None, 0, 0
    before, then = waited() or 0.0, time.monotonic()
    while True:
        time.sleep(EVERY)
        found, now = waited() or 0.0, time.monotonic()
        share = (found - before) / (now - then)
        before, then = found, now
        crowded, calm = crowded + 1 if share > MUCH else 0, calm + 1 if share < LITTLE else 0
        if team is None and crowded >= SURE:
            team = SleepingTeam(library, spare())
        elif team is not None and calm >= CALM:
            team.end()
            team = None


def spare() -> int:
    """The fewest threads of a second team that make libgomp manage more than there are cores."""
    cores = len(os.sched_getaffinity(0))
    return max(2, cores - torch.get_num_threads() + 2)


class SleepingTeam:
    """A team of OpenMP threads that has done nothing and sleeps until its `end`."""

    def __init__(self, library: Path, size: int) -> None:
        self.over, self.there = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.sleep, args=(library, size), name="ebb sleeps", daemon=True)
        self.thread.start()
        self.there.wait()

    def sleep(self, library: Path, size: int) -> None:
        """Make this thread the master of a team, and wait: the team lasts as long as its master.

        What its members run is free(NULL), which does nothing.
        """
        parallel, nothing = ctypes.CDLL(str(library)).GOMP_parallel, ctypes.CDLL(None).free
        parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        parallel(ctypes.cast(nothing, ctypes.c_void_p), None, size, 0)
        self.there.set()
        self.over.wait()

    def end(self) -> None:
        """Let it go."""
        self.over.set()
        self.thread.join()
