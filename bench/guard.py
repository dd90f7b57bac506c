"""What the guard saves and what it costs: runs with a planted fault, and an update with and without it.

    python bench/guard.py [--runs 100] [--seed 1]

Each run trains a small U-Net on 8×8 digits; at one random step one element of a batch, a gradient or a weight becomes
NaN, Inf or 1e4. A run is recovered if it ends with a validation loss at most 10 % above that of the healthy run. Costs
are ratios of medians of interleaved updates in one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

import ebb
from ebb.data.dataset import Dataset
from ebb.data.loader import Batch, Loader
from ebb.data.scan import read
from ebb.errors import EbbError
from ebb.events import finished
from ebb.process.bins import tally
from ebb.recipe.groups import OptimiserRecipe, UNetRecipe
from ebb.recipe.recipe import Recipe, Sampling
from ebb.recipe.starting import complete
from ebb.run import supervise
from ebb.run.build import Built, build
from ebb.run.folder import Log
from ebb.run.prepare import prepared
from ebb.system.families.family import facts_of, in_place
from ebb.train.ema import EMA
from ebb.train.guard import Guard, unsound
from ebb.train.loop import Step, Training, updates
from ebb.train.muon import muon
from ebb.train.objectives.denoising import Denoising
from ebb.train.objectives.objective import Loss, Objective

STEPS = 300
WHERE, VALUES = ("batch", "gradient", "weight"), {"NaN": float("nan"), "Inf": float("inf"), "1e4": 1e4}


@lru_cache
def digits() -> Dataset:
    return read("digits")


def recipe() -> Recipe:
    """A U-Net that learns digits in a second or two."""
    asked = Recipe(
        steps=STEPS,
        batch=32,
        sheets=1,
        precision="fp32",
        ema_halflife=2000,
        network=UNetRecipe(width=16, depth=1),
        optimiser=OptimiserRecipe(lr=2e-3, warmup=20),
        sample=Sampling(steps=1, precision="fp32"),
    )
    return complete(asked, facts_of(finished(prepared(asked, digits()))))[0]


@dataclass(frozen=True)
class Fault:
    """One element, chosen by `pick`, of what is `where` becomes `value` at update `step`, once."""

    where: str
    value: float
    step: int
    pick: int

    def strike(self, tensor: Tensor) -> None:
        place = torch.unravel_index(torch.tensor(self.pick % tensor.numel()), tensor.shape)
        tensor[place] = self.value


@dataclass(frozen=True)
class Poisoned(Loader):
    """Batches of which one is bad, whenever it is asked for."""

    fault: Fault | None = None

    def __call__(self, step: int) -> Batch:
        batch = super().__call__(step)
        if self.fault is not None and step == self.fault.step:
            self.fault.strike(batch.x0)
        return batch


@dataclass
class Struck:
    """`objective` before which a weight, or after which a gradient, is struck, once."""

    objective: Objective
    fault: Fault
    calls: int = 0

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        self.calls += 1
        if self.calls != self.fault.step + 1:
            return self.objective(model, batch, generator)
        parameters = list(model.parameters())
        chosen = parameters[self.fault.pick % len(parameters)]
        if self.fault.where == "weight":
            with torch.no_grad():
                self.fault.strike(chosen)
            return self.objective(model, batch, generator)
        handle = chosen.register_hook(lambda gradient: self.gradient(gradient, handle))
        return self.objective(model, batch, generator)

    def gradient(self, gradient: Tensor, handle: torch.utils.hooks.RemovableHandle) -> Tensor:
        handle.remove()
        struck = gradient.clone()
        self.fault.strike(struck)
        return struck


def planted(parts: Built, fault: Fault | None) -> Built:
    if fault is None:
        return parts
    if fault.where == "batch":
        return replace(parts, loader=Poisoned(**vars(parts.loader), fault=fault))
    return replace(parts, objective=Struck(parts.objective, fault))


@dataclass(frozen=True)
class End:
    """How a run ended: its validation loss (None if it was stopped), what the guard did, and bad checkpoints."""

    loss: float | None
    events: list[str]
    unsound: int


def trained(fault: Fault | None) -> End:
    """One run in a folder of its own, with a checkpoint every quarter of a second."""
    supervise.CHECKPOINT_EVERY = 0.25
    parts, bad = planted(build(recipe(), finished(prepared(recipe(), digits())), torch.device("cpu")), fault), 0
    with tempfile.TemporaryDirectory() as name, counted() as saved:
        folder = Path(name)
        try:
            deque(supervise.follow(folder, recipe(), parts, Log(folder, 0)), 0)
            loss = parts.validation(parts.training.ema.model) if parts.validation else None
        except EbbError:
            loss = None
        file = folder / "guard.json"
        events = [event["what"] for event in json.loads(file.read_text())] if file.exists() else []
        bad = saved["unsound"]
    return End(loss, events, bad)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the checkpoints that are saved with something in them that is not finite."""
    found, save = Counter[str](), supervise.checkpoint.save

    def counting(folder: Path, step: int, state: dict[str, dict[str, Tensor]], about: dict[str, object]) -> Path:
        found["unsound"] += unsound(state) is not None
        return save(folder, step, state, about)

    supervise.checkpoint.save = counting
    try:
        yield found
    finally:
        supervise.checkpoint.save = save


def recovery(runs: int, seed: int) -> dict[str, object]:
    """Plant a fault in each run and count those that end as well as the healthy one."""
    healthy = trained(None)
    print(f"healthy: validation loss {healthy.loss:.4f}, guard {healthy.events or 'silent'}")
    draw = torch.Generator().manual_seed(seed)
    kinds = [(where, name) for where in WHERE for name in VALUES]
    recovered, bad, total = Counter[tuple[str, str]](), 0, Counter[tuple[str, str]]()
    for i in range(runs):
        where, name = kinds[i % len(kinds)]
        step, pick = torch.randint(STEPS, (1,), generator=draw), torch.randint(2**31, (1,), generator=draw)
        end = trained(Fault(where, VALUES[name], int(step), int(pick)))
        good = end.loss is not None and healthy.loss is not None and end.loss <= 1.1 * healthy.loss
        total[where, name] += 1
        recovered[where, name] += good
        bad += end.unsound
        if not good:
            print(
                f"  not recovered: {name} in {where} at {int(step)}, {int(pick)}: loss {end.loss}, {end.events}",
                flush=True,
            )
    print(f"{'recovered':10s}" + "".join(f"{name:>8s}" for name in VALUES))
    for where in WHERE:
        print(f"{where:10s}" + "".join(f"{recovered[where, n]:>5d}/{total[where, n]}" for n in VALUES))
    return {"runs": runs, "seed": seed, "recovered": sum(recovered.values()), "non_finite_checkpoints": bad}


class Asleep(Guard):
    """The guard that is not there."""

    def __call__(self, loss: Tensor, norm: Tensor) -> Tensor:
        return self.memory[0] != 0


def mnist_loop(guarded: bool) -> Iterator[Step]:
    """Updates of a network of the size of an MNIST run's, at its batch."""
    torch.manual_seed(0)
    network = ebb.UNet(
        1, width=64, multipliers=(1, 2), depth=2, patch=2, attention=(), ports={"label": "classes(count=10)"}
    )
    model = in_place(ebb.NetworkDenoiser(network, ebb.Linear(), ebb.velocity))
    training = Training(model, muon(model, 6e-3), EMA(model), guard=Guard() if guarded else Asleep())
    batch = Batch(torch.rand(128, 1, 28, 28) * 2 - 1, {"label": torch.arange(128) % 10})
    return updates(training, Denoising(), lambda _: batch, steps=10**6)


def cost(repeats: int) -> dict[str, float]:
    """The time of an update with the guard ÷ without, and what its operations and the tally of levels take of one."""
    loops, took = {True: mnist_loop(True), False: mnist_loop(False)}, dict[bool, list[float]]({True: [], False: []})
    for repeat in range(repeats + 2):
        for guarded in (True, False) if repeat % 2 else (False, True):
            took[guarded].append(spent(lambda steps=loops[guarded]: next(steps), 1))  # type: ignore[misc]
    with_guard, without = took[True][2:], took[False][2:]
    guard, one, t, losses = Guard(), torch.ones(()), torch.rand(128, dtype=torch.float64), torch.rand(128)
    step = statistics.median(without)
    ratio = statistics.median(a / b for a, b in zip(with_guard, without, strict=True))
    own = spent(lambda: guard(one, one), 500) + spent(lambda: tally(ebb.Linear(), t, losses), 500)
    return {"step_ms": step * 1e3, "ratio": ratio, "guard_share": own / step}


def spent(call: Callable[[], object], repeats: int) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the faults: the limits were looked at with 0")
    asked = parser.parse_args()
    costs = cost(asked.repeats)
    print(f"an update of {costs['step_ms']:.0f} ms: with guard ÷ without {costs['ratio']:.4f}")
    print(f"the operations of guard and levels: {costs['guard_share']:.3%} of it")
    print(json.dumps(recovery(asked.runs, asked.seed) | costs))


if __name__ == "__main__":
    main()
