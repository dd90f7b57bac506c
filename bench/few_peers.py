"""A model of few steps by what others do in the same seconds: reflow, and consistency tuning on diffusers' network.

    python bench/few_peers.py runs/small --seconds 120

From one run of labelled pictures, each by as many seconds of one processor: `ebb distil`; reflow, the drawing of its
pairs included; and the public recipe of easy consistency tuning (Geng et al. 2024) on diffusers' UNet2DModel of as many
numbers as a small U-Net of ebb, which is first trained as EDM for as many seconds as the run was. The recipe: EDM's
preconditioning, log-normal times, q = 256 at once, ‖Δ‖/(t − r), RAdam of rate 1e-4, an average of 0.9993; and, since so
short a time is not what that rate is for, the same of ten times that rate. Samples are of the same labels.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from few import Bench
from numpy.typing import NDArray
from torch import Tensor, nn

from ebb.events import finished
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import DiffusionRecipe, FewStepRecipe, Recipe
from ebb.run.distil import asked_of
from ebb.run.train import train
from ebb.system.sampler import Request, Sampler
from ebb.system.system import load

STEPS = (1, 2, 4)
SHORT = (1, 9)
"""Updates of two short runs, from whose seconds those of a long one follow."""
RATES = (1e-4, 1e-3)
LEVELS = (80.0, 0.821, 0.3, 0.1)
"""σ from which samples in up to four steps go to the data; the recipe has the first two."""


def worked(made: Callable[[], object]) -> float:
    """The seconds of the processor that something takes."""
    began = time.process_time()
    made()
    return time.process_time() - began


def of_length(place: Path, data: str, asked: Recipe, steps: int) -> Path:
    """A run of so many updates."""
    return finished(train(data, asked.model_copy(update={"steps": steps}), run=place, fresh=place.exists()))


def within(place: Path, data: str, asked: Recipe, seconds: float) -> tuple[int, float]:
    """A run of as many updates as so many seconds of the processor allow: how many, and the seconds that it took with
    what is made once for all runs (pairs)."""
    short = place.with_name("short")
    first, few, more = (worked(lambda n=n: of_length(short, data, asked, n)) for n in (SHORT[0], *SHORT))
    each = (more - few) / (SHORT[1] - SHORT[0])
    steps = max(1, SHORT[0] + int((seconds - first) / each))
    return steps, first - few + worked(lambda: of_length(place, data, asked, steps))


@dataclass(eq=False)
class Preconditioned:
    """A network F with EDM's preconditioning (Karras et al. 2022, table 1), for data of the deviation `std`."""

    network: nn.Module
    std: float = 0.5

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """x̂0 at x = x0 + σ·ε, σ [b]."""
        s, both = sigma[:, None, None, None], (sigma**2 + self.std**2)[:, None, None, None]
        answer = self.network(x / both.sqrt(), sigma.log() / 4, labels).sample
        out: Tensor = self.std**2 / both * x + s * self.std / both.sqrt() * answer
        return out

    def denoising(self, x0: Tensor, labels: Tensor) -> Tensor:
        """EDM's loss: of unit size at every σ before anything is learned."""
        sigma = (torch.randn(len(x0)) * 1.2 - 1.2).exp()
        error = self(x0 + sigma[:, None, None, None] * torch.randn_like(x0), sigma, labels) - x0
        weight = (sigma**2 + self.std**2) / (sigma * self.std) ** 2
        return (weight * error.square().flatten(1).mean(1)).mean()

    def consistency(self, x0: Tensor, labels: Tensor) -> Tensor:
        """The loss of easy consistency tuning: r = t·(1 − (1 + 8·sigmoid(−t))/q) of the same noise, q = 256."""
        t, eps = (torch.randn(len(x0)) * 2 - 1.1).exp(), torch.randn_like(x0)
        r = t * (1 - (1 + 8 * torch.sigmoid(-t)) / 256)
        with torch.no_grad():
            nearer = self(x0 + r[:, None, None, None] * eps, r, labels)
        error = self(x0 + t[:, None, None, None] * eps, t, labels) - nearer
        return (error.flatten(1).norm(dim=1) / (t - r)).mean()

    def sample(self, labels: Tensor, shape: tuple[int, ...], steps: int) -> Tensor:
        """To the data, and up again by fresh noise to the next of LEVELS."""
        x0 = torch.zeros(len(labels), *shape)
        for level in LEVELS[:steps]:
            with torch.no_grad():
                x0 = self(x0 + level * torch.randn(x0.shape), torch.full((len(x0),), level), labels)
        return x0.clamp(-1, 1)


Batches = Callable[[], tuple[Tensor, Tensor]]


def trained(
    network: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    batch: Batches,
    optimiser: torch.optim.Optimizer,
    seconds: float,
    decay: float,
) -> int:
    """Updates within so many seconds of the processor, after which the network is the average of its weights."""
    average, began, step = copy.deepcopy(network), time.process_time(), 0
    while time.process_time() - began < seconds:
        optimiser.zero_grad()
        loss(*batch()).backward()
        optimiser.step()
        step += 1
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), network.parameters(), strict=True):
                mine.lerp_(theirs, 1 - min(decay, (1 + step) / (10 + step)))
    network.load_state_dict(average.state_dict())
    return step


def unet(shape: tuple[int, ...], widths: tuple[int, ...] = (24, 48)) -> nn.Module:
    """diffusers' own, with its own embedding of labels, of two resolutions: 0.52 million numbers."""
    import diffusers

    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=shape[-1],
        in_channels=shape[0],
        out_channels=shape[0],
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        norm_num_groups=8,
        num_class_embeds=10,
    )


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of the figures of samples, in each of STEPS."""

    bench: Bench

    def rows(self, name: str, updates: int, seconds: float, pixels: Callable[[int], NDArray]) -> None:
        """Print those of a contestant."""
        for steps in STEPS:
            cells = self.bench.figures(pixels(steps))[1]
            print(f"| {name} | {updates:,} | {seconds:.0f} | {steps} | {cells} |", flush=True)

    def of_run(self, name: str, run: Path, updates: int, seconds: float, solver: str | None = None) -> None:
        """Print those of a run, followed by its own solver or by Euler's method."""
        system = load(run)
        how = {} if solver is None else {"solver": solver, "grid": "uniform"}

        def pixels(steps: int) -> NDArray:
            asked = Request(self.bench.given, self.bench.count, system.settled(steps=steps, **how), 0)
            return system.modality.stored(Sampler(system)(asked))

        self.rows(name, updates, seconds, pixels)


def of_ebb(table: Table, run: Path, data: str, seconds: float, pairs: int) -> None:
    """`ebb distil` and reflow."""
    home = run.parent / "few-peers"
    shutil.rmtree(home, ignore_errors=True)  # pairs that are there already would cost nothing
    home.mkdir()
    few = FewStepRecipe(teacher=str(run), sheets=1)
    table.of_run("`ebb distil`", home / "distilled", *within(home / "distilled", data, few, seconds))
    again = DiffusionRecipe(reflow=str(run), pairs=pairs, sheets=1)
    took = within(home / "reflowed", data, again, seconds)
    table.of_run(f"reflow of {pairs:,} pairs", home / "reflowed", *took, solver="euler")


def of_diffusers(table: Table, before: float, seconds: float) -> None:
    """Consistency tuning at each of RATES, after as many seconds as `before` of training as EDM."""
    dataset, random = table.bench.dataset, torch.Generator().manual_seed(0)
    x0, known = dataset.modality.unit(torch.from_numpy(dataset.rows)), torch.from_numpy(dataset.labels)

    def batch() -> tuple[Tensor, Tensor]:
        index = torch.randint(len(x0), (128,), generator=random)
        return x0[index], known[index]

    model, labels = Preconditioned(unet(x0.shape[1:])), torch.from_numpy(table.bench.labels)
    adam = torch.optim.Adam(model.network.parameters(), 1e-3)
    updates = trained(model.network, model.denoising, batch, adam, before, 0.999)
    print(f"| UNet2DModel as EDM | {updates:,} | {before:.0f} | | | | |")
    for rate in RATES:
        tuned = Preconditioned(copy.deepcopy(model.network))
        radam = torch.optim.RAdam(tuned.network.parameters(), rate)
        updates = trained(tuned.network, tuned.consistency, batch, radam, seconds, 0.9993)
        table.rows(
            f"ECT, rate {rate:g}",
            updates,
            seconds,
            lambda steps, tuned=tuned: dataset.modality.stored(tuned.sample(labels, x0.shape[1:], steps)),
        )


def seconds_of(run: Path, data: str) -> float:
    """Of the processor, that the updates of a run take."""
    recipe, short = from_yaml(run / "run.yaml")[0], run.parent / "few-peers" / "short"
    few, more = (worked(lambda n=n: of_length(short, data, recipe.model_copy(update={"sheets": 1}), n)) for n in SHORT)
    updates = json.loads((run / "log.jsonl").read_text().splitlines()[-1])["step"]
    return float(updates) * (more - few) / (SHORT[1] - SHORT[0])


def main() -> None:
    """Print a table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=120, help="of the processor, for each")
    parser.add_argument("--pairs", type=int, default=1000, help="of reflow")
    parser.add_argument("--n", type=int, default=1000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    table, (data, _) = Table(Bench(given.run, given.n)), asked_of(given.run, FewStepRecipe(teacher=str(given.run)))
    print("| | updates | seconds | steps | Fréchet distance | recall | labels |\n|" + " --- |" * 7, flush=True)
    table.of_run("the run itself", given.run, 0, 0)
    of_ebb(table, given.run, data, given.seconds, given.pairs)
    of_diffusers(table, seconds_of(given.run, data), given.seconds)


if __name__ == "__main__":
    main()
