"""Quality over wall-clock: ebb and its peers on the same bytes, threads and seconds, sampled and judged alike.

    make bench-quality MNIST=mnist/ CIFAR10=cifar10-train.zip

Every run is a process of its own, one after the other, all contenders of a seed before the next seed. A peer trains
once and is sampled at every mark; `ebb train` sizes its learning rate to its budget, so it is run once for each. A line
of RESULTS/DATA.jsonl holds all figures of a run at a mark; what has its line is not made again, and a run that was
trained but not scored is scored from its folder. Lines of another machine stay, and are never mixed with those of this;
after a change of ebb or of a row its old lines have to go by hand. Those of this repository are in `results`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MARKS = {"mnist": (60, 120, 300, 600), "cifar10": (120, 300, 600, 1200)}
BUDGETS = {"mnist": (15, 30, 60, 120, 300, 600), "cifar10": (30, 45, 60, 120, 300, 1200)}
NAMES = (
    "ebb", "diffusers", "denoising-diffusion-pytorch", "diffusers, tuned", "denoising-diffusion-pytorch, tuned"
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One process that trains: until the last of its marks, in seconds, with the samples wanted at each."""

    data: str
    name: str
    seed: int
    marks: tuple[float, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def folder(self) -> str:
        """Its name among the runs."""
        marks = "-".join(f"{mark:g}" for mark in self.marks)
        return f"{self.data}/{self.name.replace(', ', '-')}-{marks}s-{self.seed}"

    def left(self, lines: Iterable[dict[str, Any]]) -> dict[str, list[int]]:
        """mark → numbers of samples that have no line yet; a mark with none left is left out."""
        there = {(a["data"], a["contender"], a["seed"], float(a["asked"]), a["n"]) for a in lines}
        mine = self.data, self.name, self.seed
        found = {
            f"{mark:g}": [n for n in counts if (*mine, float(mark), n) not in there]
            for mark, counts in zip(self.marks, self.counts, strict=True)
        }
        return {mark: counts for mark, counts in found.items() if counts}


def schedule(
    data: Sequence[str], seeds: int, only: Sequence[str], samples: tuple[int, int, int], marks: Sequence[float] = ()
) -> Iterator[Run]:
    """All runs in order; `samples` at a peer's marks before its last, at the last and for ebb, and at ebb's longest.

    `marks` replace those of the data set, and its budgets, for a trial.
    """
    early, late, most = samples
    for seed in range(seeds):
        for each in data:
            for name in only:
                if name == "ebb":
                    budgets = tuple(marks or BUDGETS[each])
                    for budget in budgets:
                        counts = tuple(sorted({late, most})) if budget == budgets[-1] else (late,)
                        yield Run(each, name, seed, (budget,), (counts,))
                else:
                    at = tuple(marks or MARKS[each])
                    yield Run(each, name, seed, at, ((early,),) * (len(at) - 1) + ((late,),))


def lines_of(results: Path, data: str) -> list[dict[str, Any]]:
    """The lines kept so far, of all machines."""
    file = results / f"{data}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def machine_of(line: dict[str, Any]) -> str:
    """What a line was measured on: the processor, and the GPU where one was used."""
    return ", ".join(line["machine"][part] for part in ("gpu", "cpu") if part in line["machine"])


def processor() -> str:
    """The name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def here(device: str) -> dict[str, str]:
    """What lines of this machine say of it; only a GPU needs torch to be named."""
    if device == "cpu":
        return {"cpu": processor()}
    import torch

    return {"gpu": torch.cuda.get_device_name(device), "cpu": processor()}


def work(run: Run, given: argparse.Namespace) -> None:
    """Train and score what is left of a run, each in a process of its own."""
    mine = machine_of({"machine": here(given.device)})
    left = run.left(a for a in lines_of(given.results, run.data) if machine_of(a) == mine)
    folder, where = given.runs / run.folder, getattr(given, run.data)
    shared = [run.data, run.name, where, "--seed", run.seed, "--threads", given.threads, "--device", given.device]
    train = ["train.py", *shared, "--marks", *run.marks, "--out", folder]
    score = ["score.py", *shared, "--counts", json.dumps(left), "--run", folder, "--results", given.results]
    trained = folder / "marks.json"
    if left and "train" in given.stage and not trained.exists():
        start(train, run, given.threads)
    if left and "score" in given.stage and trained.exists():
        start(score, run, given.threads)


def start(command: Sequence[object], run: Run, threads: int) -> None:
    """Run a script of this folder to its end; end with a line that says what to do where it fails."""
    script, *rest = map(str, command)
    print(f"{script.removesuffix('.py')}: {run.folder}", flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    done = subprocess.run([sys.executable, HERE / script, *rest], env=environment, check=False)
    if done.returncode:
        sys.exit(f"{script} of {run.folder} ended with exit code {done.returncode}; the same command goes on there")


def checked(given: argparse.Namespace) -> None:
    """End with a line that says what to do where peers or data are missing."""
    for module in ("diffusers", "denoising_diffusion_pytorch", "ema_pytorch"):
        if importlib.util.find_spec(module) is None:
            sys.exit(f"{module} is not installed here: make bench-quality makes an environment with all peers")
    for data in MARKS:
        where = getattr(given, data)
        if where and not Path(where).exists():
            sys.exit(f"{where} does not exist: --{data} is a folder or file that `ebb train` takes")
    if not (given.mnist or given.cifar10):
        sys.exit("no data: give --mnist PATH, --cifar10 PATH or both")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", metavar="PATH")
    parser.add_argument("--cifar10", metavar="PATH")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES, metavar="NAME", help="; ".join(NAMES))
    parser.add_argument("--stage", nargs="+", default=("train", "score"), choices=("train", "score"))
    parser.add_argument("--samples", type=int, nargs=3, default=(1000, 2000, 10_000), metavar=("EARLY", "LATE", "MOST"))
    parser.add_argument("--marks", type=float, nargs="+", default=(), help="seconds, instead of those of the data set")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=Path, default=HERE / "runs", help="for weights and samples")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    given = parser.parse_args()
    checked(given)
    data = [each for each in MARKS if getattr(given, each)]
    for run in schedule(data, given.seeds, given.only, tuple(given.samples), given.marks):
        work(run, given)


if __name__ == "__main__":
    main()
