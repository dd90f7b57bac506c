"""Sample what a run left at its marks, each contender with its own fast sampler, and judge all by the same metrics."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders import PACKAGES, PEERS
from numpy.typing import NDArray
from run import here
from safetensors.torch import load_file
from torch import Tensor
from train import PROBE, fastest

from ebb.data.dataset import Dataset
from ebb.data.images import to_pixels
from ebb.data.scan import read
from ebb.evaluate.measure import Classes, measure
from ebb.judge.ensemble import Ensemble, load_ensemble, save_ensemble, train_ensemble
from ebb.machine import keep_freed_memory
from ebb.store.checkpoint import sha256
from ebb.system.system import System, load
from ebb.understand.cost import gflop

BATCH = 250

Sampler = Callable[[NDArray[np.int64], int], NDArray[np.uint8]]
"""(labels [n], seed) → uint8 [n, c, h, w]."""


def judges(dataset: Dataset, file: Path, seconds: float = 60.0) -> tuple[Ensemble, float]:
    """The classifiers of this data, trained once and kept in `file`, with the accuracy of their vote."""
    kept = load_ensemble(file, dataset.summary.fingerprint)
    if kept is None:
        aside = dataset.held_out
        unseen = None if aside is None else (aside.rows, aside.labels)
        kept = train_ensemble(dataset.rows, dataset.labels, len(dataset.names), held_out=unseen, seconds=seconds)
        save_ensemble(file, *kept, dataset.summary.fingerprint)
    return kept


def sampler_of(
    data: str, name: str, weights: Path, shape: tuple[int, int, int], device: torch.device
) -> tuple[Sampler, dict[str, Any]]:
    """A peer that samples from `weights`, the fastest way here, and what to say of it."""
    settings = PEERS[data][name]
    package = PACKAGES[settings.package](settings, device)
    package.network.load_state_dict(load_file(weights))
    package.network.eval().requires_grad_(False)
    images, some = torch.zeros(PROBE, *shape, device=device), torch.zeros(PROBE, dtype=torch.long, device=device)
    way = fastest(package, images, some, backward=False)

    def sample(labels: NDArray[np.int64], seed: int) -> NDArray[np.uint8]:
        torch.manual_seed(seed)
        with torch.inference_mode(), way.computing(device):
            return to_pixels(package.sample(torch.from_numpy(labels).to(device)))

    with torch.no_grad():
        arithmetic = gflop(lambda: package.once(images[:1], some[:1]))
    return sample, {"sampler": settings.sampler, "sampling_precision": str(way), "gflop": arithmetic}


def sampler_of_ebb(run: Path, device: torch.device) -> tuple[Sampler, dict[str, Any]]:
    """The run as `ebb sample` samples it, and what to say of it."""
    system = load(run, device=device)

    def sample(labels: NDArray[np.int64], seed: int) -> NDArray[np.uint8]:
        names = [system.labels.names[label] for label in labels]
        return to_pixels(system.sample(len(labels), label=names, seed=seed))

    how = system.settled().model_dump()
    return sample, {
        "sampler": how,
        "sampling_precision": how["precision"],
        "gflop": gflop(lambda: once(system, device)),
    }


def once(system: System, device: torch.device) -> Tensor:
    """One evaluation of the network."""
    cond = system.conditions(system.given(1), 1)
    return system.denoiser(torch.zeros(1, *system.shape, device=device), torch.full((1,), 0.5, device=device), cond)


def drawn(sample: Sampler, labels: NDArray[np.int64], seed: int, file: Path) -> tuple[NDArray[np.uint8], float]:
    """Samples for `labels` and the seconds that each took; kept in `file` and taken from there."""
    if file.exists():
        with np.load(file) as kept:
            if len(kept["pixels"]) >= len(labels):
                return kept["pixels"][: len(labels)], float(kept["seconds"])
    began = time.perf_counter()
    firsts = range(0, len(labels), BATCH)
    pixels = np.concatenate([sample(labels[first : first + BATCH], 10**6 * seed + first) for first in firsts])
    seconds = (time.perf_counter() - began) / len(labels)
    np.savez(file, pixels=pixels, labels=labels, seconds=seconds)
    return pixels, seconds


def figures(
    samples: NDArray[np.uint8], labels: NDArray[np.int64], dataset: Dataset, seen: Ensemble, unseen: bool
) -> dict[str, Any]:
    """All that `measure` finds, against the images trained on as `ebb evaluate` does, and against unseen ones too."""
    found = {}
    for what, real in (("training", dataset), ("held out", dataset.held_out if unseen else None)):
        if real is not None:
            classes = Classes(labels, real.labels, dataset.names)
            found[what] = asdict(measure(samples, real.rows, seen, classes))
    return found


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were made on."""
    return {**here(str(device)), "threads": torch.get_num_threads(), "torch": torch.__version__}


def score(
    data: str, name: str, where: str, seed: int, counts: dict[str, list[int]], run: Path, results: Path,
    device: torch.device,
) -> None:  # fmt: skip
    """Append a line to `results`/`data`.jsonl for each mark of `run` and each number of samples in `counts`."""
    dataset = read(where, cache=run)
    file = results / f"{data}.judges.safetensors"
    seen, accuracy = judges(dataset, file)
    judge = sha256(file)[:12]
    marks = json.loads((run / "marks.json").read_text())
    for mark in marks:
        at = f"{mark['asked']:g}"
        if at not in counts:
            continue
        home = run / "run" if name == "ebb" else run / f"{at}.safetensors"
        if name == "ebb":
            sample, about = sampler_of_ebb(home, device)
        else:
            sample, about = sampler_of(data, name, home, dataset.summary.shape, device)
        wanted = np.random.default_rng(0).choice(dataset.labels, max(counts[at]))
        pixels, each = drawn(sample, wanted, seed, run / f"{at}.samples.npz")
        for count in counts[at]:
            line = {"data": data, "contender": name, "seed": seed, "n": count} | mark | about
            line |= {"images_per_second": mark["images"] / mark["seconds"], "sampling_seconds": each}
            line |= {"classifier_accuracy": accuracy, "judges": judge, "machine": machine(device)}
            line |= figures(pixels[:count], wanted[:count], dataset, seen, unseen=mark is marks[-1])
            with (results / f"{data}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "name", "where"):
        parser.add_argument(name)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--counts", type=json.loads, required=True, help="mark → numbers of samples, JSON")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.results.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    left = given.run, given.results, given.device
    score(given.data, given.name, given.where, given.seed, given.counts, *left)


if __name__ == "__main__":
    main()
