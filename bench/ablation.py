"""Each ingredient of the recipe against the default, at equal wall clock and several seeds.

    python bench/ablation.py mnist/ --seconds 60 --seeds 3

A variant is the default recipe at its usual width with some fields set otherwise, or with a change of `bench/tried.py`,
which is to be compared after the same `--updates`; those of `minute` are to be compared with "width 32". Every run is a
process of its own that trains for the same seconds, draws the same number of samples from the same noise without
guidance, and is judged by the same classifiers, which are trained once and kept beside the results. One JSON line a
run; a run that has its line is not made again. The two-sample test is not looked at: it is kept for the end. The lines
of docs/recipe.md are in bench/ablation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tried import CHANGES

from ebb.data.dataset import Dataset
from ebb.data.images import to_pixels
from ebb.data.scan import read
from ebb.errors import EbbError
from ebb.evaluate.measure import Classes, measure
from ebb.events import finished
from ebb.judge.ensemble import load_ensemble, save_ensemble, train_ensemble
from ebb.machine import keep_freed_memory
from ebb.recipe.recipe import DiffusionRecipe, resolved
from ebb.recipe.starting import complete
from ebb.run.build import build, updates_of
from ebb.run.plan import pace, rate_of
from ebb.run.prepare import prepared
from ebb.system.families.family import facts_of
from ebb.system.system import System

CPU = torch.device("cpu")
FIGURES = ("Fréchet distance", "kernel distance", "precision", "recall")


def centred(**settings: Any) -> dict[str, Any]:
    """Settings with times centred on equal parts of data and noise: the ground on which most variants were tried."""
    return {"times": "logit_normal"} | settings


def muon(lr: float) -> dict[str, Any]:
    """Muon at another learning rate."""
    return {"optimiser": {"lr": lr}}


def minute(**settings: Any) -> dict[str, Any]:
    """Settings at the width that a minute takes."""
    return {"network": {"width": 32}} | settings


VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "the EDM path, prediction and weight": minute(path="edm", weight="edm"),
    "the cosine path, prediction v": minute(path="cosine"),
    "min-SNR": minute(weight="min_snr"),
    **{f"the rate falls over {share:g}": minute(optimiser={"decay": share}) for share in (1.0, 0.5, 0.25, 0.15)},
    "the rate falls as a cosine": minute(optimiser={"schedule": "cosine"}),
    **{f"learning rate {lr:g}": minute(**muon(lr)) for lr in (3e-3, 4.5e-3, 9e-3)},
    "contrastive flow matching": minute(change="contrastive"),
    "shifted when sampling": minute(change="shifted"),
    "noise by optimal transport": minute(change="transported"),
    "dispersive loss": minute(change="dispersive"),
    "batches that double halfway": minute(change="growing"),
    "images of half the sides first": minute(change="rising"),
    **{f"SOAP, learning rate {lr:g}": minute(change="soap", **muon(lr)) for lr in (1.5e-3, 3e-3, 6e-3, 12e-3)},
    **{f"an average over {share:g}": minute(change=f"averaged {share:g}") for share in (0.02, 0.1, 0.15, 0.25)},
    "times further to the noise": {"times": "logit_normal(mean=0.8)"},
    "times wider": {"times": "logit_normal(mean=0.4,std=1.4)"},
    **{f"width {width}": {"network": {"width": width}} for width in (16, 32, 48, 64, 96, 128)},
    "width 32, batch 64": {"network": {"width": 32}, "batch": 64},
    "width 48, batch 64": {"network": {"width": 48}, "batch": 64},
    "a transformer": {"network": {"kind": "dit"}},
    "a transformer, adamw": {"network": {"kind": "dit"}, "optimiser": {"kind": "adamw"}},
    "times centred": centred(),
    "centred, adamw": centred(optimiser={"kind": "adamw"}),
    "centred, adamw, lr × 4": centred(optimiser={"kind": "adamw", "lr": 6e-3}),
    "centred, lr ÷ 4": centred(**muon(1.5e-3)),
    "centred, lr ÷ 2": centred(**muon(3e-3)),
    "centred, lr × 2": centred(**muon(12e-3)),
    "centred, a tenth of the warm-up": centred(optimiser={"warmup": 10}),
    "centred, batch 64": centred(batch=64),
    "centred, batch 256": centred(batch=256),
    "centred, width 48": centred(network={"width": 48}),
    "centred, width 96": centred(network={"width": 96}),
    "centred, one block a resolution": centred(network={"depth": 1}),
    "centred, three resolutions": centred(network={"multipliers": (1, 2, 2)}),
    "centred, attention at the lowest resolution": centred(network={"attention": (1,)}),
    "centred, patches of 4, width 128": centred(network={"patch": 4, "width": 128}),
    "centred, prediction of the data": centred(prediction="data"),
    "centred, the nearest of 4 noises": centred(coupling="nearest"),
}


def falling(settings: dict[str, Any], decay: float | None) -> dict[str, Any]:
    """Settings whose learning rate falls over this share of the run, unless they say so themselves."""
    return settings if decay is None else settings | {"optimiser": {"decay": decay} | settings.get("optimiser", {})}


def trained(
    dataset: Dataset, settings: dict[str, Any], seed: int, seconds: float, steps: int | None
) -> tuple[System, dict[str, Any]]:
    """The system after `steps` updates, else as many as fit in `seconds` by the pace of a few that are thrown away."""
    fields = {name: value for name, value in settings.items() if name != "change"}
    asked = DiffusionRecipe.model_validate({"seed": seed} | fields)
    learnt = finished(prepared(asked, dataset))
    recipe, _ = complete(asked, facts_of(learnt))
    steps = steps or max(1, int(seconds * pace(recipe, learnt, CPU, 4.0) / resolved(recipe.batch)))
    optimiser = recipe.optimiser.model_copy(update={"warmup": min(resolved(recipe.optimiser.warmup), steps // 10)})
    recipe = recipe.model_copy(update={"steps": steps, "optimiser": optimiser})
    parts = build(recipe, learnt, CPU)
    if "change" in settings:
        recipe, parts = CHANGES[settings["change"]](recipe, parts)
    began = time.perf_counter()
    for _ in updates_of(recipe, parts, steps=resolved(recipe.steps), rate=rate_of(recipe)):
        pass
    took = time.perf_counter() - began
    parts.system.denoiser.load_state_dict(parts.training.ema.model.state_dict())
    parts.system.denoiser.eval().requires_grad_(False)
    return parts.system, {"steps": parts.training.step, "images": parts.training.seen, "seconds": took}


def judged(system: System, dataset: Dataset, count: int, judges: Path, precision: str) -> dict[str, Any]:
    """The figures of `count` samples, with labels as the data has them, against unseen images."""
    kept, unseen = load_ensemble(judges, dataset.summary.fingerprint), dataset.held_out
    labels = np.random.default_rng(0).choice(dataset.labels, count)
    how = {"steps": 12, "solver": "dpmpp_2m", "grid": "log_snr", "guidance": 1.0, "precision": precision}
    samples = to_pixels(system.sample(count, label=labels.tolist(), **how))
    found = measure(samples, unseen.rows, kept[0], Classes(labels, names=dataset.names), resamples=2)
    figures = {name: found.distances[name].value for name in FIGURES}
    return figures | {"label accuracy": found.label_accuracy, "floor": found.distances[FIGURES[0]].floor}


def train_judges(dataset: Dataset, file: Path) -> None:
    """Train the classifiers that judge, unless they are there."""
    if not file.exists():
        aside = (dataset.held_out.rows, dataset.held_out.labels)
        found = train_ensemble(dataset.rows, dataset.labels, len(dataset.names), held_out=aside)
        save_ensemble(file, *found, dataset.summary.fingerprint)


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each variant: the median distance, and those of all seeds."""
    lines = []
    for name in VARIANTS:
        found = sorted(row[FIGURES[0]] for row in rows if row["variant"] == name)
        if found:
            lines.append(f"{name:40s} {statistics.median(found):.3f}  ({', '.join(f'{each:.3f}' for each in found)})")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="as `ebb train` takes it; it has labels and a test set")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training")
    parser.add_argument("--updates", type=int, help="instead of seconds, where all cost the same")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--decay", type=float, help="the share of a run over which every variant's learning rate falls")
    parser.add_argument("--n", type=int, default=2000, help="samples")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="fp32 where a CPU has no AVX-512")
    parser.add_argument("--only", nargs="+", default=tuple(VARIANTS), choices=tuple(VARIANTS), metavar="VARIANT")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="a folder for the judges and the lines")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.decay is not None and not 0 <= given.decay <= 1:
        parser.error(f"--decay is a share from 0 to 1, got {given.decay:g}")
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        dataset = read(given.data, cache=given.out)
    except EbbError as error:
        sys.exit(str(error))
    judges = given.out / f"{dataset.summary.fingerprint[:12]}.safetensors"
    if given.one:
        torch.set_num_threads(2)
        keep_freed_memory()
        name, seed = given.one
        settings = falling(VARIANTS[name], given.decay) | {"precision": given.precision}
        system, facts = trained(dataset, settings, seed, given.seconds, given.updates)
        print(json.dumps(facts | judged(system, dataset, given.n, judges, given.precision)))
        return
    train_judges(dataset, judges)
    asked = {"asked": given.seconds} if given.updates is None else {"updates": given.updates}
    mine = {"data": dataset.summary.name, "n": given.n, "decay": given.decay} | asked
    mine |= {} if given.precision == "bf16" else {"computed in": given.precision}
    results = given.out / "results.jsonl"
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for seed in range(given.seeds):
        for name in given.only:
            key = mine | {"variant": name, "seed": seed}
            if any(key.items() <= row.items() for row in rows):
                continue
            command = [sys.executable, *sys.argv, "--one", json.dumps([name, seed])]
            found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            rows.append(key | json.loads(found.splitlines()[-1]))
            with results.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(f"{name}, seed {seed}: {rows[-1][FIGURES[0]]:.3f} after {rows[-1]['steps']} updates", flush=True)
    print(summary([row for row in rows if mine.items() <= row.items()]))


if __name__ == "__main__":
    main()
