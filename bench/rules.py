"""The rules that texts on diffusion models teach, each measured: one table a rule, on two data sets and two seeds.

    python bench/rules.py targets --data digits mnist/

`targets`, `weights`, `paths`, `mistakes`, `guidance` and `rates`: small U-Nets after equal numbers of updates, drawn by
the same solver from the same noise, judged by the same classifiers. Updates and not minutes are equal, so that what
else the machine does spoils no figure. A training whose lines are in `--out` is not made again, and rows of several
tables share it; without `--data` the tables of the lines that are there are printed. Those of docs/rules.md are in
bench/rules.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mistakes import MISTAKES, widened

from ebb.data.dataset import Dataset
from ebb.data.images import to_pixels
from ebb.data.loader import Batch
from ebb.data.pictures import batches, to_unit
from ebb.data.scan import read
from ebb.errors import EbbError
from ebb.evaluate.by_class import label_accuracy
from ebb.evaluate.figures import Pile, Sets, frechet, neighbours
from ebb.evaluate.measure import split
from ebb.events import finished
from ebb.judge.distances import wilson
from ebb.judge.ensemble import Ensemble, load_ensemble, save_ensemble, train_ensemble
from ebb.judge.features import extract
from ebb.process.bins import centres
from ebb.recipe.recipe import DiffusionRecipe
from ebb.recipe.starting import complete
from ebb.run.build import Built, build, updates_of
from ebb.run.plan import rate_of
from ebb.run.prepare import prepared
from ebb.system.families.family import facts_of
from ebb.system.system import System
from ebb.understand.levels import levels

CPU = torch.device("cpu")
SIDE = 16
"""The side that larger images are brought to; with patches of 2 the networks work at 8 × 8, as they do on digits."""
LEVELS = 6
"""Bins of the log-SNR at which the loss is told."""
LINEAR = {"times": "uniform", "path": "linear"}
COSINE = {"times": "uniform", "path": "cosine", "prediction": "v"}
HOW = {"guidance": 1.0, "average": True}
"""How a row is drawn from its training, unless it says otherwise."""

TABLES: dict[str, dict[str, dict[str, Any]]] = {
    "targets": {name: LINEAR | {"prediction": name} for name in ("noise", "data", "v", "velocity")},
    "guidance": {f"{scale:g}": {"guidance": scale} for scale in (0.0, 1.0, 3.0, 7.5, 15.0)},
    "paths": {
        name: COSINE | {"path": name}
        for name in ("ddpm_linear", "beta_table(betas='scaled_linear')", "cosine", "cosine(s=0.008)", "linear")
    },
    "weights": {
        "unit": COSINE,
        **{name: COSINE | {"weight": name} for name in ("simple", "vlb", "min_snr", "edm", "inverse_snr")},
    },
    "mistakes": {
        "none": {},
        "no average": {"average": False},
        "batch normalisation": {"mistake": "batch_norm"},
        "data in [0, 1]": {"mistake": "half_range"},
        "no time": {"mistake": "timeless"},
        "random crops": {"mistake": "cropped"},
        "no clipping": {"mistake": "unclipped"},
        "learning rate × 5": {"optimiser": {"lr": 0.03}},
        "learning rate × 5, no clipping": {"optimiser": {"lr": 0.03}, "mistake": "unclipped"},
    },
    "rates": {
        **{name: {"optimiser": {"schedule": name}} for name in ("level_then_fall", "linear", "cosine")},
        "level": {"optimiser": {"decay": 0.0}},
    },
}
"""Each table's rows: settings of a recipe, a `mistake` of bench/mistakes.py, and what differs from `HOW`."""

FIGURES = {"Fréchet distance": ".2f", "recall": ".2f", "label accuracy": ".0%"}


def learnt(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that matter to the training."""
    return {name: value for name, value in settings.items() if name not in HOW}


def pile(rows: np.ndarray, labels: np.ndarray, judge: Ensemble) -> Pile:
    """Images with what the judge sees in them."""
    return Pile(rows, labels, extract(judge, batches(rows)))


@dataclass(frozen=True)
class Bench:
    """What all rows of one data set share."""

    dataset: Dataset
    judge: Ensemble
    updates: int
    n: int

    @property
    def key(self) -> dict[str, Any]:
        """What a line is of, besides its settings and its seed."""
        return {"data": self.dataset.summary.name, "updates": self.updates, "n": self.n}

    @cached_property
    def real(self) -> tuple[Pile, Pile]:
        """As many real images as there are samples, for the floor, and the reference."""
        of = zip(*(split(of_all, self.n, 0) for of_all in (self.dataset.rows, self.dataset.labels)), strict=True)
        floor, reference = (pile(rows, labels, self.judge) for rows, labels in of)
        return floor, reference

    def trained(self, settings: dict[str, Any], seed: int) -> Built:
        """The parts after the updates, of 64 images each."""
        patch = 1 if self.dataset.summary.shape[-1] <= 8 else 2
        small = {"width": 16, "depth": 1, "patch": patch, "multipliers": (1, 2)}
        usual = {"seed": seed, "precision": "fp32", "batch": 64, "network": small, "steps": self.updates, "sheets": 1}
        fields = {name: value for name, value in settings.items() if name != "mistake"}
        asked = DiffusionRecipe.model_validate(usual | fields)
        data = finished(prepared(asked, self.dataset))
        recipe, _ = complete(asked, facts_of(data))
        parts = build(recipe, data, CPU)
        if "mistake" in settings:
            recipe, parts = MISTAKES[settings["mistake"]](recipe, parts)
        for _ in updates_of(recipe, parts, steps=self.updates, rate=rate_of(recipe)):
            pass
        return parts

    def by_level(self, system: System) -> list[float | None]:
        """The error of x̂0 at rising log-SNR over that of the mean image, on images that were not trained on."""
        unseen = self.dataset.held_out
        x0, cond = to_unit(torch.from_numpy(unseen.rows[:128])), {"label": torch.from_numpy(unseen.labels[:128])}
        found = levels(system.denoiser, Batch(x0, cond), Batch(x0, cond), bins=LEVELS)
        return [loss and trivial and loss / trivial for loss, trivial in zip(found.loss, found.trivial, strict=True)]

    def drawn(self, system: System, settings: dict[str, Any]) -> dict[str, Any]:
        """The figures of the samples, with labels as the data has them: each with its 95 % interval and its floor."""
        labels = np.random.default_rng(0).choice(self.dataset.labels, self.n)
        asked = {"steps": 16, "solver": "dpmpp_2m", "grid": "log_snr", "precision": "fp32"}
        samples = system.sample(self.n, label=labels.tolist(), guidance=(HOW | settings)["guidance"], **asked)
        samples = widened(samples) if settings.get("mistake") == "half_range" else samples
        mine, (floor, reference) = pile(to_pixels(samples), labels, self.judge), self.real
        sets = Sets(mine, floor, reference, self.judge, 0, 20)
        found = dict(frechet(sets)) | dict(neighbours(sets))
        share, real = (label_accuracy(self.judge, each.features, each.labels, None)[0] for each in (mine, floor))
        low, high = wilson(share, self.n)
        accuracy = {"value": share, "low": low, "high": high, "floor": real}
        return {name: vars(found[name]) for name in ("Fréchet distance", "recall")} | {"label accuracy": accuracy}

    def lines(self, training: dict[str, Any], wanted: Sequence[dict[str, Any]], seed: int) -> Iterator[dict[str, Any]]:
        """The lines of all `wanted` rows that one training serves."""
        began = time.process_time()
        parts = self.trained(training, seed)
        spent = round(time.process_time() - began, 1)
        weights = {True: parts.training.ema.model.state_dict(), False: parts.training.model.state_dict()}
        weights = {of: {name: value.clone() for name, value in state.items()} for of, state in weights.items()}
        system = parts.system
        system.denoiser.eval().requires_grad_(False)
        for settings in wanted:
            system.denoiser.load_state_dict(weights[(HOW | settings)["average"]])
            facts = self.key | {"seed": seed, "settings": settings, "seconds": spent}
            yield facts | {"levels": self.by_level(system)} | self.drawn(system, settings)


def judge_of(dataset: Dataset, folder: Path) -> Ensemble:
    """The classifiers that judge, trained once and kept in the folder."""
    file, fingerprint = folder / f"{dataset.summary.fingerprint[:12]}.safetensors", dataset.summary.fingerprint
    known = load_ensemble(file, fingerprint)
    if known is None:
        aside = (dataset.held_out.rows, dataset.held_out.labels)
        known = train_ensemble(dataset.rows, dataset.labels, len(dataset.names), seconds=20, held_out=aside)
        save_ensemble(file, *known, fingerprint)
    return known[0].eval().requires_grad_(False)


def read_small(where: str, cache: Path) -> Dataset:
    """The images, at SIDE pixels at most."""
    return read(where, cache=cache) if where == "digits" else read(where, size=SIDE, cache=cache)


def known_lines(results: Path) -> list[dict[str, Any]]:
    """The lines that are there."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def plain(settings: dict[str, Any]) -> str:
    """Settings as one text, by which they compare: a tuple is a list, and an order does not matter."""
    return json.dumps(settings, sort_keys=True)


def missing(bench: Bench, tables: Sequence[str], seed: int, results: Path) -> list[list[dict[str, Any]]]:
    """The rows that have no line yet, those of one training together."""
    there = {
        plain(line["settings"]) for line in known_lines(results) if (bench.key | {"seed": seed}).items() <= line.items()
    }
    every = {plain(row): row for table in tables for row in TABLES[table].values()}
    groups: dict[str, list[dict[str, Any]]] = {}
    for text, row in every.items():
        if text not in there:
            groups.setdefault(plain(learnt(row)), []).append(row)
    return list(groups.values())


def spread(figures: Sequence[dict[str, float]], digits: str) -> str:
    """The mean over seeds, and from the lowest to the highest end of their intervals."""
    low, high = min(each["low"] for each in figures), max(each["high"] for each in figures)
    return f"{statistics.mean(each['value'] for each in figures):{digits}} ({low:{digits}} to {high:{digits}})"


def markdown(cells: Sequence[str]) -> str:
    """One row of a table."""
    return f"| {' | '.join(cells)} |"


def table(name: str, lines: Sequence[dict[str, Any]]) -> str:
    """The rule's table in Markdown: a row for each member and data set, its seeds together."""
    by_level = name in ("targets", "weights", "paths")
    heads = [name, "data", *FIGURES, *([f"{centre:+g}" for centre in centres(LEVELS)] if by_level else [])]
    out = [markdown(heads), markdown(["---"] * len(heads))]
    for data in dict.fromkeys(line["data"] for line in lines):
        floor: list[str] = []
        for row, settings in TABLES[name].items():
            mine = [x for x in lines if x["data"] == data and plain(x["settings"]) == plain(settings)]
            if not mine:
                continue
            cells = [row, data, *(spread([line[what] for line in mine], digits) for what, digits in FIGURES.items())]
            if by_level:
                errors = zip(*(line["levels"] for line in mine), strict=True)
                cells += ["" if None in each else f"{statistics.mean(each):.3g}" for each in errors]
            out.append(markdown(cells))
            floor = [f"{statistics.mean(line[what]['floor'] for line in mine):{d}}" for what, d in FIGURES.items()]
        out.append(markdown(["real images", data, *floor, *[""] * (LEVELS * by_level)]))
    return "\n".join(out)


def filled(page: str, tables: dict[str, str]) -> str:
    """The page with each table between its two marks: `<!-- targets -->` and `<!-- /targets -->`."""
    for name, text in tables.items():
        before, mark, rest = page.partition(f"<!-- {name} -->\n")
        page = f"{before}{mark}{text}\n{rest[rest.index(f'<!-- /{name} -->') :]}" if mark else page
    return page


def made(where: str, how: argparse.Namespace, results: Path) -> None:
    """Train, draw and judge every row of the tables that has no line yet, the first seed of all before the second."""
    dataset = read_small(where, how.out)
    bench = Bench(dataset, judge_of(dataset, how.out), how.updates, how.n)
    for seed in how.seeds:
        for rows in missing(bench, how.tables, seed, results):
            for line in bench.lines(learnt(rows[0]), rows, seed):
                with results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                value = line["Fréchet distance"]["value"]
                print(f"{where}, {line['settings']}, seed {seed}: {value:.3f}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}; all of them")
    parser.add_argument("--data", nargs="+", default=(), help="as `ebb train` takes it, with labels and a test set")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1))
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--n", type=int, default=500, help="samples")
    parser.add_argument("--page", type=Path, help="a page of Markdown whose marked tables are filled, docs/rules.md")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "rules", help="judges and results.jsonl")
    how = parser.parse_args()
    if wrong := [name for name in how.tables if name not in TABLES]:
        parser.error(f"there is no table {wrong[0]!r}, known: {', '.join(TABLES)}")
    how.tables = how.tables or list(TABLES)
    how.out.mkdir(parents=True, exist_ok=True)
    results = how.out / "results.jsonl"
    torch.set_num_threads(1)
    try:
        for where in how.data:
            made(where, how, results)
    except EbbError as error:
        sys.exit(str(error))
    tables = {name: table(name, known_lines(results)) for name in how.tables}
    if how.page:
        how.page.write_text(filled(how.page.read_text(encoding="utf8"), tables), encoding="utf8")
    for name, text in tables.items():
        print(f"\n{name}\n\n{text}")


if __name__ == "__main__":
    main()
