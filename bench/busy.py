"""Beside other work: repeats a second alone, and while one other program keeps a core busy, side by side.

    make bench-busy

Each contender has a process of its own that waits without spinning while it is not asked. In every round each works
for some seconds alone and then for as many beside a process that counts; the medians of the rounds are printed.
Peers are run as their pages show, and with what PyTorch's and libgomp's documentation offer against this:
OMP_WAIT_POLICY, GOMP_SPINCOUNT, one thread.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
from step import CPU, UPDATES, default_of_ebb, laid_out, unet_of_diffusers, with_ebb
from torch import Tensor

from ebb.judge.features import train_classifier
from ebb.machine import multiplies_bf16

SHAPE, BATCH = (1, 28, 28), 32
FAST = multiplies_bf16(CPU)
PRECISION = "bf16" if FAST else "fp32"

COUNTING = [sys.executable, "-c", "while True: sum(range(10_000))"]
"""The other program."""

BEFORE = {"GOMP_SPINCOUNT": "300000"}
"""libgomp's own default; that it is set keeps ebb from doing anything about it."""

Prepare = Callable[[], Callable[[], object]]


@dataclass(frozen=True)
class Contender:
    """What is repeated, and the variables of the environment that it starts with."""

    prepare: Prepare
    environment: Mapping[str, str]


def sampling(count: int) -> Callable[[], object]:
    """`System.sample` of a few images with ebb's default network, eight steps."""
    system = default_of_ebb(SHAPE, 8, "fp32")[1].system
    return lambda: system.sample(count, steps=8)


def judging() -> Callable[[], object]:
    """A classifier that judges, trained for a few updates."""
    pixels = torch.randint(0, 256, (512, *SHAPE), dtype=torch.uint8).numpy()
    labels = torch.arange(512).remainder(10).numpy()
    return lambda: train_classifier(pixels, labels, 10, seconds=0.5)


def forward_of_diffusers(fast: bool) -> Callable[[], object]:
    """A forward pass of its network, as its sampling pipeline makes one for each step."""
    network, x = laid_out(unet_of_diffusers(SHAPE, 32), fast), laid_out(torch.randn(4, *SHAPE), fast)

    def forward() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=fast and FAST):
            found: Tensor = network(x, 500).sample
            return found

    return forward


def update_of(peer: str, fast: bool) -> Callable[[], object]:
    """An update of a peer's network; bf16 is one of its fast options where the machine multiplies it."""
    return UPDATES[peer](peer, SHAPE, BATCH, 32, fast and FAST)


def contenders() -> dict[str, Contender]:
    """All of them, by name."""
    ours: dict[str, Prepare] = {
        "ebb, an update": functools.partial(with_ebb, SHAPE, BATCH, PRECISION),
        "ebb, sampling 1": functools.partial(sampling, 1),
        "ebb, sampling 16": functools.partial(sampling, 16),
        "ebb, training a judge": judging,
    }
    made = {}
    for name, prepare in ours.items():
        made[name] = Contender(prepare, {})
        made[f"{name}, before"] = Contender(prepare, BEFORE)
    theirs: dict[str, Prepare] = {
        "diffusers, a step of sampling": functools.partial(forward_of_diffusers, False),
        "diffusers, an update": functools.partial(update_of, "diffusers", False),
        "denoising-diffusion-pytorch, an update": functools.partial(update_of, "denoising-diffusion-pytorch", False),
    }
    options = {"as it is": {}, "passive": {"OMP_WAIT_POLICY": "passive"}, "spins 1000": {"GOMP_SPINCOUNT": "1000"}}
    options["one thread"] = {"OMP_NUM_THREADS": "1"}
    for name, prepare in theirs.items():
        made |= {f"{name}, {how}": Contender(prepare, environment) for how, environment in options.items()}
    made["diffusers, an update, fast options"] = Contender(functools.partial(update_of, "diffusers", True), {})
    return made


def work(prepare: Prepare, seconds: float, pipe: Connection) -> None:
    """Prepare, then say how many repeats a second there are for each request, until there are no more."""
    repeat = prepare()
    repeat()
    pipe.send(True)
    while pipe.recv():
        began, made = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            repeat()
            made += 1
        pipe.send(made / (time.perf_counter() - began))


@contextmanager
def beside() -> Iterator[None]:
    """With another program at work."""
    other = subprocess.Popen(COUNTING)
    try:
        yield
    finally:
        other.kill()
        other.wait()


def started(contender: Contender, seconds: float) -> Connection:
    """The pipe to a contender in its own process, which starts with its environment."""
    spawn, before = multiprocessing.get_context("spawn"), dict(os.environ)
    here, there = spawn.Pipe()
    os.environ.update(contender.environment)
    try:
        spawn.Process(target=work, args=(contender.prepare, seconds, there), daemon=True).start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    there.close()  # so that a contender that fails ends the wait for it
    here.recv()
    return here


def asked(pipe: Connection) -> float:
    """Repeats a second of one contender from now on."""
    pipe.send(True)
    found: float = pipe.recv()
    return found


def measured(rounds: int, seconds: float, only: str) -> dict[str, dict[str, float]]:
    """name → repeats a second alone and beside the other program, medians of the rounds."""
    pipes = {name: started(one, seconds) for name, one in contenders().items() if name.startswith(only)}
    alone: dict[str, list[float]] = {name: [] for name in pipes}
    busy: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            time.sleep(0.3)  # until the last one's threads have stopped spinning
            alone[name].append(asked(pipe))
            with beside():
                busy[name].append(asked(pipe))
    for pipe in pipes.values():
        pipe.send(False)
    return {n: {"idle": statistics.median(alone[n]), "busy": statistics.median(busy[n])} for n in pipes}


def show(found: Mapping[str, Mapping[str, float]]) -> None:
    """The table."""
    print(f"{'repeats a second':58s} {'idle':>8s} {'busy':>8s}  busy/idle")
    for name, row in found.items():
        print(f"{name:58s} {row['idle']:8.2f} {row['busy']:8.2f}  {row['busy'] / row['idle']:9.2f}")
    for name in (name for name in found if f"{name}, before" in found):
        before = found[f"{name}, before"]
        ratios = (found[name][when] / before[when] for when in ("idle", "busy"))
        print("{:58s} ×{:.2f} of before idle, ×{:.2f} busy".format(name, *ratios))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each contender in a round, alone and beside")
    parser.add_argument("--only", default="", help="contenders whose names begin so, such as ebb")
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores")
    results = measured(given.rounds, given.seconds, given.only)
    show(results)
    print(json.dumps(results))
