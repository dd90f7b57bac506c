"""Contenders side by side: each in a process of its own, their repeats interleaved, one working at a time.

A contender is a function that prepares everything and returns another that does one repeat. A process of its own keeps
one contender's settings (allocator, compiled code) from another; interleaving spreads a slow minute over all of them.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection

Prepare = Callable[[], Callable[[], object]]


def work(prepare: Prepare, threads: int, pipe: Connection) -> None:
    """Prepare, then time one repeat for each request until there are no more."""
    import torch

    torch.set_num_threads(threads)
    began = time.perf_counter()
    repeat = prepare()
    repeat()
    pipe.send(time.perf_counter() - began)
    while pipe.recv():
        began = time.perf_counter()
        repeat()
        pipe.send(time.perf_counter() - began)


def contest(contenders: Mapping[str, Prepare], repeats: int = 7, threads: int = 2) -> dict[str, tuple[float, float]]:
    """name → (median seconds of a repeat, seconds to prepare and warm up), from `repeats` interleaved repeats."""
    spawn = multiprocessing.get_context("spawn")
    pipes, processes, prepared = {}, [], {}
    for name, prepare in contenders.items():
        here, there = spawn.Pipe()
        processes.append(spawn.Process(target=work, args=(prepare, threads, there), daemon=True))
        processes[-1].start()
        there.close()  # so that a contender that fails ends the wait for it
        pipes[name], prepared[name] = here, here.recv()  # one prepares at a time
    took: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, pipe in pipes.items():
            time.sleep(0.3)  # until the last one's threads have stopped spinning
            pipe.send(True)
            took[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    for process in processes:
        process.join()
    return {name: (statistics.median(times), prepared[name]) for name, times in took.items()}
