"""What a run reports of its data and its recipe, and the documents of its folder."""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebb.data.dataset import Dataset
from ebb.data.images import save_png
from ebb.errors import DamagedError, UsageError
from ebb.events import Event, Message, Overview, RolledBack, Update, strict
from ebb.recipe.document import from_yaml, to_yaml
from ebb.recipe.recipe import Recipe, flat
from ebb.store.origin import Origin
from ebb.store.write import append_text, replace_text
from ebb.system.system import System, locate
from ebb.terminal import as_options, command


def data_overview(dataset: Dataset, captions: bool = True) -> Iterator[Event]:
    """What was found in the data and what was done about it; and a warning of every source of conditions of which
    little or nothing could be used, of captions only where these are wanted."""
    s = dataset.summary
    rows = list(s.chosen.items())
    if s.classes:
        smallest, largest = min(s.classes.values()), max(s.classes.values())
        rows.append(("classes", f"{len(s.classes)}, with {smallest:,} to {largest:,} {dataset.modality.things}"))
    if s.histogram:
        figures = ", ".join(f"{mean:.2f} ± {std:.2f}" for mean, std in zip(s.mean, s.std, strict=True))
        rows.append(("values", f"{figures} (mean ± deviation by channel; black is -1, white 1)"))
    held_out = dataset.held_out.summary.findings if dataset.held_out else ()
    for where, findings in (("", s.findings), ("held out, ", held_out)):
        for finding in findings:
            what = f"{finding.action}: {', '.join(finding.examples)}".rstrip(": ")
            rows.append((f"{where}{finding.kind} ({finding.count:,})", what))
    yield Overview(f"{s.name}: {s.count:,} {dataset.modality.things}, {s.kind}", tuple(rows))
    for match in s.matches:
        if match.little and (captions or match.condition != "captions"):
            silence = "; or leave captions out: --text.captions ignored" if match.condition == "captions" else ""
            yield Message(f"{match}\n  → {match.advice}{silence}", warning=True)


def chosen_for(recipe: Recipe, reasons: Mapping[str, str], folder: Path) -> Overview:
    """Every choice that was left open for a run in `folder`, and why it was made so, each reason once; first what the
    newest other run beside it has otherwise."""
    values, (name, before) = flat(recipe.model_dump(mode="json")), run_beside(folder, recipe.kind)
    differ = {choice for choice in reasons if before and before.get(choice) != values[choice]}
    first = {reason: at for at, reason in reversed([*enumerate(reasons.values())])}
    rows, why = list[tuple[str, ...]](), dict[str, str]()
    for choice in sorted(reasons, key=lambda choice: (choice not in differ, first[reasons[choice]])):
        reason, other = reasons[choice], str(before.get(choice)) if choice in differ else ""
        because = reason
        if reason in why:  # right below it nothing is said, farther down where it stands
            because = "" if reasons[rows[-1][0]] == reason else f"as {why[reason]}"
        why.setdefault(reason, choice)
        rows.append((choice, str(values[choice]), *([other] if differ else []), because))
    return Overview("the recipe", tuple(rows), ("chosen", "value", *([name] if differ else []), "because"))


def run_beside(folder: Path, kind: str) -> tuple[str, dict[str, Any]]:
    """The name and the recipe, flat, of the newest other run of this kind in the folder that a run is in; nothing
    without one."""
    documents = [file for file in folder.parent.glob("*/run.yaml") if file.parent.name != folder.name]
    for file in sorted(documents, key=lambda file: -file.stat().st_mtime):
        with suppress(UsageError):
            recipe, _ = from_yaml(file)
            if recipe.kind == kind:
                return file.parent.name, flat(recipe.model_dump(mode="json"))
    return "", {}


def origins_of(recipe: Recipe) -> list[Origin]:
    """The runs that a run of this recipe stands on, as they are now. Raises UsageError for one without a checkpoint."""
    return [Origin.of(run, role, locate(run)) for role, run in recipe.origins().items()]


def write_documents(
    folder: Path, recipe: Recipe, asked: Recipe, reasons: dict[str, str], dataset: Dataset, data: str
) -> None:
    """run.yaml, env.json, data.json, choices.json and a labelled sheet of the data."""
    (folder / "samples").mkdir(parents=True)
    values = flat(recipe.model_dump(mode="json"))
    choices = {name: {"value": values[name], "reason": reason} for name, reason in reasons.items()}
    found = asdict(dataset.summary)
    if dataset.held_out is not None:
        found["held_out"] = asdict(dataset.held_out.summary)
    documents = {"env": environment(), "data": found, "choices": choices}
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document, indent=1), encoding="utf8")
    some = np.random.default_rng(0).permutation(len(dataset.rows))[:25]
    captions = [dataset.names[i] for i in dataset.labels[some]] if dataset.labels is not None else []
    sheet = dataset.modality.sheet(dataset.rows[some], 5, captions)
    save_png(sheet, folder / "samples" / "data-sheet.png", {"data": dataset.summary.name})
    rest = {
        "command": command("train", data, *as_options(asked.asked())),
        "data": str(Path(data).resolve()) if Path(data).exists() else data,
        "fingerprint": dataset.summary.fingerprint,
        "asked": json.loads(json.dumps(asked.asked())),
    }
    if dataset.summary.examples != dataset.summary.fingerprint:
        rest["examples"] = dataset.summary.examples
    if origins := origins_of(recipe):
        rest["origins"] = [origin.facts() for origin in origins]
    (folder / "run.yaml").write_text(to_yaml(recipe, **rest), encoding="utf8")


def amend(folder: Path, recipe: Recipe, name: str, reason: str) -> None:
    """Write down that a choice of a run was made anew: `name` is what `recipe` says now, because of `reason`."""
    _, rest = from_yaml(folder / "run.yaml")
    choices = json.loads((folder / "choices.json").read_text(encoding="utf8"))
    choices[name] = {"value": flat(recipe.model_dump(mode="json"))[name], "reason": reason}
    replace_text(folder / "choices.json", json.dumps(choices, indent=1))
    replace_text(folder / "run.yaml", to_yaml(recipe, **rest))


def write_card(folder: Path, recipe: Recipe, system: System, figures: dict[str, Any]) -> None:
    """The model card; `figures` is the last line of the log."""
    axes = ", ".join(f"{name} {size}" for name, size in zip(system.modality.axes, system.shape, strict=True))
    count, (what, process) = sum(p.numel() for p in system.model.module.parameters()), system.model.card()
    names, how, hears = ", ".join(system.labels.names) or "none", system.sampling, system.conditioner
    sampling = ", ".join([how.solver, f"{how.steps} steps", f"guidance {how.guidance:g}", *how.guides])
    heard = "".join(f"- {name}: {what}\n" for name, what in hears.conditions.items() if name != "label")
    replace_text(
        folder / "card.md",
        f"# {folder.name}\n\n{what} trained by ebb {version('ebb')}: {count:,} parameters,"
        f" {figures.get('images', 0):,} {system.modality.things} seen in {figures.get('seconds', 0):.0f} s.\n\n"
        f"- makes: {system.modality.things}, {axes}\n"
        f"- labels: {names}\n{heard}"
        f"- {process}\n- sampling: {sampling}\n"
        f"- data: see data.json; recipe: run.yaml; figures: evaluation.json after `ebb evaluate`\n\n"
        "What it makes is made by a machine; say so where you show it.\n",
    )


class Log:
    """The run's log.jsonl, a reader of events: every update is a line, and what was rolled back is cut off.

    At first it is cut back to `step`, so that a resumed run writes every line once.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "log.jsonl"
        self.cut(step)

    def cut(self, step: int) -> None:
        """Drop the lines after `step`, and those that were not written to their end."""
        lines = self.path.read_text(encoding="utf8").splitlines() if self.path.exists() else []
        found = [(line, entry) for line in lines if (entry := entry_of(line)) and entry["step"] <= step]
        self.last: dict[str, Any] = found[-1][1] if found else {}
        replace_text(self.path, "".join(line + "\n" for line, _ in found))

    def read(self, event: Event) -> None:
        """Write down what concerns the log; a line is on its way to the disk at once."""
        if isinstance(event, Update):
            self.last = dict(event.figures)
            append_text(self.path, json.dumps(self.last) + "\n")
        elif isinstance(event, RolledBack):
            self.cut(event.to)


def entry_of(line: str) -> dict[str, Any]:
    """What a line of the log says; {} for one that was not written to its end."""
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) and "step" in entry else {}


MOST_SKIPS = 1000
"""So many skipped updates are described one by one; the log counts them all."""


class GuardRecord:
    """What the guard did, guard.json: a list of {"step", "what", …}, `what` being skipped, rolled back or stopped.

    Rollbacks stand for good: order and rate of all that follows depend on how many there were. Skipped updates after
    `step`, where a resumed run goes on, will be met again and are dropped, and so is a stop.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "guard.json"
        try:
            found = json.loads(self.path.read_text(encoding="utf8")) if self.path.exists() else []
            turned = max((i + 1 for i, event in enumerate(found) if event["what"] == "rolled back"), default=0)
            late = [event for event in found[turned:] if event["what"] == "skipped" and event["step"] <= step]
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{self.path} is not a list of events: {error}", "delete it and run again") from error
        self.list: list[dict[str, Any]] = found[:turned] + late
        if self.list != found:
            self.save()

    def add(self, events: list[dict[str, Any]]) -> None:
        """Append events; a number that is not finite becomes null."""
        skips = sum(event["what"] == "skipped" for event in self.list)
        for event in events:
            skips += event["what"] == "skipped"
            if event["what"] != "skipped" or skips <= MOST_SKIPS:
                self.list.append(strict(event))
        self.save()

    def save(self) -> None:
        """Write the file, whole or not at all."""
        replace_text(self.path, json.dumps(self.list, indent=1))

    @property
    def rollbacks(self) -> list[dict[str, Any]]:
        """The rollbacks up to now."""
        return [event for event in self.list if event["what"] == "rolled back"]


@functools.cache
def packages() -> dict[str, str]:
    """The versions of what a run depends on."""
    return {name: version(name) for name in ("ebb", "torch", "numpy", "pillow", "safetensors", "pydantic")}


@functools.cache
def commit() -> str:
    """The commit of ebb's own sources, "" where they are in no repository."""
    git = shutil.which("git")
    asked = [git or "", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() if git else ""


def environment() -> dict[str, Any]:
    """Versions, machine and code that a run was made with."""
    return packages() | {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "git": commit(),
        "argv": sys.argv[1:],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
