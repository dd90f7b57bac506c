"""A model of few steps by what others do in the same seconds: reflow, and consistency tuning on diffusers' network.

    python bench/few_peers.py runs/small --seconds 180

From one run (its data, its side), each by as many seconds of one processor: `ebb distil`; reflow, its pairs included;
and the public recipe of easy consistency tuning (Geng et al. 2024: EDM's preconditioning and levels, q = 256, RAdam,
the weight 1/(t − r), an average of 0.9993) rewritten on diffusers' UNet2DModel, which is first trained as EDM for as
many seconds as the run was. Distances are of the same labels, by the judge of the run's data.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from few import Bench
from torch import Tensor, nn

from ebb.events import finished
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import DiffusionRecipe, FewStepRecipe, Recipe
from ebb.run.distil import asked_of
from ebb.run.train import train
from ebb.system.sampler import Request, Sampler
from ebb.system.system import load

STEPS = (1, 2, 4)
SOME = (8, 24)
"""Updates of two short runs, from whose seconds those of a long one follow."""
PAIRS = 4000


def worked(run: Callable[[], object]) -> float:
    """The seconds of the processor that something takes."""
    began = time.process_time()
    run()
    return time.process_time() - began


def of_length(place: Path, data: str, asked: Recipe, steps: int) -> Path:
    """A run of so many updates."""
    recipe = asked.model_copy(update={"steps": steps})
    return finished(train(data, recipe, run=place, fresh=place.exists()))


def pace(place: Path, data: str, asked: Recipe) -> tuple[float, float]:
    """Seconds of the processor before the first update, with what is made once (pairs), and of each."""
    short = place.with_name(f"{place.name}-short")
    began, first, second = (worked(lambda steps=steps: of_length(short, data, asked, steps)) for steps in (1, *SOME))
    each = (second - first) / (SOME[1] - SOME[0])
    return began - each, each


def within(place: Path, data: str, asked: Recipe, seconds: float) -> tuple[Path, int]:
    """A run of as many updates as so many seconds of the processor allow, and how many these are."""
    before, each = pace(place, data, asked)
    steps = max(1, int((seconds - before) / each))
    return of_length(place, data, asked, steps), steps


@dataclass(eq=False)
class Tuned:
    """diffusers' UNet2DModel with EDM's preconditioning (Karras et al. 2022, table 1), data of deviation 0.5 and
    σ from 0.002 to 80; labels by the library's own embedding."""

    network: nn.Module
    images: Tensor
    labels: Tensor
    batch: int = 128
    data: float = 0.5

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """x̂0 at x = x0 + σ·ε, σ [b]."""
        s, d = sigma[:, None, None, None], self.data
        scaled = x / (s**2 + d**2).sqrt()
        found = self.network(scaled, sigma.log() / 4, labels).sample
        out: Tensor = d**2 / (s**2 + d**2) * x + s * d / (s**2 + d**2).sqrt() * found
        return out

    def drawn(self, mean: float, deviation: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images, labels, noise and log-normal σ of a batch."""
        index = torch.randint(len(self.images), (self.batch,))
        x0 = self.images[index]
        return x0, self.labels[index], torch.randn_like(x0), (torch.randn(self.batch) * deviation + mean).exp()

    def denoising(self) -> Tensor:
        """EDM's loss."""
        x0, labels, eps, sigma = self.drawn(-1.2, 1.2)
        weight = (sigma**2 + self.data**2) / (sigma * self.data) ** 2
        error = self(x0 + sigma[:, None, None, None] * eps, sigma, labels) - x0
        return (weight * error.square().flatten(1).mean(1)).mean()

    def consistency(self) -> Tensor:
        """The loss of easy consistency tuning at q = 256: c = 0, over t − r."""
        x0, labels, eps, t = self.drawn(-1.1, 2.0)
        r = t * (1 - (1 + 8 * torch.sigmoid(-t)) / 256).clamp(min=0)
        state = torch.get_rng_state()
        ahead = self(x0 + t[:, None, None, None] * eps, t, labels)
        torch.set_rng_state(state)  # the same dropout
        with torch.no_grad():
            low = r.clamp(min=1e-6)
            behind = torch.where(r[:, None, None, None] > 0, self(x0 + r[:, None, None, None] * eps, low, labels), x0)
        return ((ahead - behind).flatten(1).norm(dim=1) / (t - r)).mean()

    def train(self, loss: Callable[[], Tensor], optimiser: torch.optim.Optimizer, seconds: float, decay: float) -> int:
        """Updates for so many seconds of the processor; the network is their average then."""
        average, began, step = copy.deepcopy(self.network), time.process_time(), 0
        while time.process_time() - began < seconds:
            optimiser.zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            step += 1
            share = 1 - min(decay, (1 + step) / (10 + step))
            with torch.no_grad():
                for mine, other in zip(average.parameters(), self.network.parameters(), strict=True):
                    mine.lerp_(other, share)
        self.network.load_state_dict(average.state_dict())
        return step

    def sample(self, labels: Tensor, steps: int, levels: tuple[float, ...] = (80.0, 0.821, 0.3, 0.1)) -> Tensor:
        """To the data, and up again by fresh noise to the next of `levels`; the second is the public recipe's."""
        x, x0 = torch.zeros(len(labels), *self.images.shape[1:]), None
        for level in levels[:steps]:
            x = (0 if x0 is None else x0) + level * torch.randn(x.shape)
            with torch.no_grad():
                x0 = self(x, torch.full((len(x),), level), labels)
        return x if x0 is None else x0.clamp(-1, 1)


def peers_network(bench: Bench, width: int = 32) -> Tuned:
    """About as wide as a small U-Net of ebb: two resolutions, no attention."""
    torch.manual_seed(0)
    rows = torch.from_numpy(bench.dataset.rows)
    network = diffusers.UNet2DModel(
        sample_size=rows.shape[-1],
        in_channels=rows.shape[1],
        out_channels=rows.shape[1],
        layers_per_block=2,
        block_out_channels=(width, 2 * width),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=16,
        num_class_embeds=10,
        dropout=0.0,
    )
    labels = torch.from_numpy(bench.dataset.labels)
    return Tuned(network, bench.dataset.modality.unit(rows), labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=180, help="of the processor, for each")
    parser.add_argument("--n", type=int, default=1000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench, home = Bench(given.run, given.n), given.run.parent / "few-peers"
    home.mkdir(exist_ok=True)
    print("| | updates | steps | Fréchet distance | recall | labels |\n| --- | --- | --- | --- | --- | --- |")

    def rows(name: str, updates: int, pixels: Callable[[int], Any]) -> None:
        for steps in STEPS:
            print(f"| {name} | {updates} | {steps} | {bench.figures(pixels(steps))[1]} |", flush=True)

    def of_run(name: str, place: Path, updates: int, **how: Any) -> None:
        system = load(place)
        rows(name, updates, lambda steps: system.modality.stored(
            Sampler(system)(Request(bench.given, given.n, system.settled(steps=steps, **how), 0))))  # fmt: skip

    of_run("the run itself", given.run, 0)
    data, asked = asked_of(given.run, FewStepRecipe(teacher=str(given.run), steps=1, sheets=1))
    of_run("ebb distil", *within(home / "distilled", data, asked, given.seconds))
    reflowed = DiffusionRecipe(reflow=str(given.run), pairs=PAIRS, sheets=1)
    of_run("reflow", *within(home / "reflowed", data, reflowed, given.seconds), solver="euler", grid="uniform")
    peer, made = peers_network(bench), json.loads((given.run / "log.jsonl").read_text().splitlines()[-1])["step"]
    _, each = pace(home / "again", data, from_yaml(given.run / "run.yaml")[0].model_copy(update={"sheets": 1}))
    before = peer.train(peer.denoising, torch.optim.Adam(peer.network.parameters(), 1e-3), made * each, 0.999)
    tuning = torch.optim.RAdam(peer.network.parameters(), 1e-4)
    updates = peer.train(peer.consistency, tuning, given.seconds, 0.9993)
    order = {name: i for i, name in enumerate(bench.dataset.names)}
    labels = torch.tensor([order[name] for name in bench.given["label"]])
    print(f"| | trained as EDM for {before:,} updates before | | | | |")
    rows("ECT, diffusers", updates, lambda steps: bench.dataset.modality.stored(peer.sample(labels, steps)))


if __name__ == "__main__":
    main()
