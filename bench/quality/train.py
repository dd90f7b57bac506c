"""One training run of a contender in a process of its own; its weights at each mark, and what they took."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from contenders import PACKAGES, PEERS, Package, Settings
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from ebb.data.pictures import sent
from ebb.data.scan import read
from ebb.machine import keep_freed_memory
from ebb.recipe.document import from_yaml
from ebb.run.meter import peak_memory_mb
from ebb.system.system import load

AHEAD = 20
"""Updates after which a GPU is waited for, so that no more than these are under way when a mark passes."""

PROBE = 32
"""Images of a batch that precisions are timed on."""


def factor(rate: str, step: int, passes: float, spent: float) -> float:
    """The learning rate of an update as a share of its peak, at `step`, after `passes` and a share `spent` of time."""
    if rate == "cosine":  # as get_cosine_schedule_with_warmup of diffusers, 500 steps and 100 passes
        return min(step / 500, 0.5 * (1 + math.cos(math.pi * min(1.0, passes / 100))))
    if rate == "budget":
        return max(0.0, min(1.0, spent / 0.05, (1 - spent) / 0.25))
    return 1.0


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Indices of batches without end: every pass sees each image once, in a new order; the last few are left out."""
    while True:
        order = rng.permutation(count)
        for first in range(0, count - size + 1, size):
            yield order[first : first + size]


class Way(NamedTuple):
    """How a network computes: its type, and how its images and weights lie in memory."""

    bf16: bool
    channels_last: bool

    def __str__(self) -> str:
        return ("bf16" if self.bf16 else "fp32") + " channels_last" * self.channels_last

    @property
    def layout(self) -> torch.memory_format:
        """Of images and weights."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def computing(self, device: torch.device) -> AbstractContextManager[object]:
        """bf16 by autocast, or nothing."""
        return torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext()


PLAIN = Way(bf16=False, channels_last=False)
WAYS = [Way(*each) for each in itertools.product((False, True), repeat=2)]


def fastest(package: Package, images: Tensor, labels: Tensor, *, backward: bool) -> Way:
    """The fastest of bf16 and fp32, in channels_last or not; the network is left in its layout.

    They take turns, once to warm up and twice timed, so that whatever else the machine does does not decide.
    """
    took = dict.fromkeys(WAYS, math.inf)
    for turn in range(3):
        for way in WAYS:
            package.network.to(memory_format=way.layout)
            laid = images.contiguous(memory_format=way.layout)
            began = time.perf_counter()
            with way.computing(images.device), torch.set_grad_enabled(backward):
                loss = package.loss(laid, labels)
            if backward:
                loss.backward()
            loss.item()
            took[way] = min(took[way], time.perf_counter() - began if turn else math.inf)
    package.network.zero_grad(set_to_none=True)
    way = min(WAYS, key=took.__getitem__)
    package.network.to(memory_format=way.layout)
    return way


class Training:
    """A peer's training loop: `step` is one update, `package.weights()` what it would sample from."""

    def __init__(
        self, settings: Settings, pixels: NDArray[np.uint8], labels: NDArray[np.int64], seed: int, device: torch.device
    ) -> None:
        torch.manual_seed(seed)
        self.settings, self.device, self.done = settings, device, 0
        self.pixels, self.labels = torch.from_numpy(pixels).to(device), torch.from_numpy(labels).to(device)
        self.order = batches(len(pixels), settings.batch, np.random.default_rng(seed))
        self.package = PACKAGES[settings.package](settings, device)
        self.way = fastest(self.package, *self.batch(PROBE), backward=True) if settings.fast else PLAIN
        kind = getattr(torch.optim, settings.optimiser)
        own = {"lr": settings.lr, "betas": settings.betas, "weight_decay": settings.weight_decay}
        own |= {"fused": True} if settings.fast else {}
        self.optimizer = kind(self.package.network.parameters(), **own)
        self.follow = self.package.follow() if settings.average else None

    def batch(self, most: int | None = None) -> tuple[Tensor, Tensor]:
        """Images in [−1, 1], half of them mirrored where the row says so, and their labels."""
        index = sent(torch.from_numpy(next(self.order)[:most]), self.device)
        images = self.pixels[index].float() / 127.5 - 1
        if self.settings.flip:
            mirrored = torch.rand(len(images), 1, 1, 1, device=self.device) < 0.5
            images = torch.where(mirrored, images.flip(3), images)
        return images, self.labels[index]

    def step(self, spent: float) -> int:
        """One update when a share `spent` of the time is over; the number of images in it."""
        images, labels = self.batch()
        with self.way.computing(self.device):
            loss = self.package.loss(images.contiguous(memory_format=self.way.layout), labels)
        loss.backward()
        if self.settings.clip:
            nn.utils.clip_grad_norm_(self.package.network.parameters(), self.settings.clip)
        passes = self.done * len(images) / len(self.pixels)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * factor(self.settings.rate, self.done, passes, spent)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.follow:
            self.follow()
        self.done += 1
        return len(images)


def train(data: str, name: str, where: str, seed: int, marks: list[float], out: Path, device: torch.device) -> None:
    """Train a peer until the clock passes each mark; weights and marks.json go to `out`.

    The clock runs from before the network is built, so that timing precisions and first steps are paid for. It stands
    still while weights are saved, and importing and reading the data come before it, which ebb pays for (`train_ebb`).
    """
    dataset, settings = read(where, cache=out), PEERS[data][name]
    PACKAGES[settings.package](settings, device)  # imports the package
    catch_up = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    found, seen, saving = [], 0, 0.0
    began = time.perf_counter()
    if settings.fast:
        keep_freed_memory()
    training = Training(settings, dataset.rows, dataset.labels, seed, device)
    for mark in marks:
        while (spent := time.perf_counter() - began - saving) < mark:
            seen += training.step(spent / marks[-1])
            if training.done % AHEAD == 0:
                catch_up()
        catch_up()
        spent = (saved := time.perf_counter()) - began - saving
        weights = {key: value.detach().cpu().contiguous().clone() for key, value in training.package.weights().items()}
        save_file(weights, out / f"{mark:g}.safetensors")
        found.append({"asked": mark, "seconds": spent, "images": seen, "updates": training.done})
        saving += time.perf_counter() - saved
    facts = {
        "precision": str(training.way),
        "parameters": sum(p.numel() for p in training.package.network.parameters()),
        "peak_mb": peak_memory_mb(),
        "settings": asdict(settings),
    }
    keep(out, [mark | facts for mark in found])


def train_ebb(where: str, seed: int, budget: float, out: Path, device: torch.device) -> None:
    """Run `ebb train` with a budget of so many seconds and nothing else; its time is from its start to its exit."""
    command = [Path(sys.executable).with_name("ebb"), "train", where, "--budget", f"{budget:g}s", "--seed", str(seed)]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device.type == "cpu" else {}
    began = time.perf_counter()
    subprocess.run([*command, "--run", out / "run", "--fresh"], check=True, env=os.environ | hidden)
    seconds = time.perf_counter() - began
    recipe, _ = from_yaml(out / "run" / "run.yaml")
    last = json.loads((out / "run" / "log.jsonl").read_text().splitlines()[-1])
    facts = {
        "precision": recipe.precision,
        "parameters": sum(p.numel() for p in load(out / "run").denoiser.network.parameters()),
        "peak_mb": last["memory_mb"],
        "settings": recipe.model_dump(mode="json") | {"package": "ebb", "row": "default"},
        "commit": json.loads((out / "run" / "env.json").read_text())["git"],
    }
    mark = {"asked": budget, "seconds": seconds, "images": last["images"], "updates": last["step"]}
    keep(out, [mark | facts])


def keep(out: Path, marks: list[dict[str, Any]]) -> None:
    """Write marks.json, whole or not at all: where it is, the run is not made again."""
    unfinished = out / "marks.json.tmp"
    unfinished.write_text(json.dumps([{"date": time.strftime("%Y-%m-%d")} | mark for mark in marks], indent=1))
    unfinished.replace(out / "marks.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "name", "where"):
        parser.add_argument(name)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--marks", type=float, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    for stale in given.out.glob("*.samples.npz"):  # of other weights than those that are trained now
        stale.unlink()
    if given.name == "ebb":
        train_ebb(given.where, given.seed, given.marks[-1], given.out, given.device)
    else:
        train(given.data, given.name, given.where, given.seed, given.marks, given.out, given.device)


if __name__ == "__main__":
    main()
