"""A run for others: its averaged weights and contract, a card, and what of the data goes with them, said."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ebb.data.images import copy_png
from ebb.data.of_run import reading, trained_as
from ebb.errors import EbbError, UsageError
from ebb.report.card import figures_of as card_figures
from ebb.store import shared
from ebb.store.place import by_name
from ebb.store.write import replace_text
from ebb.system.carried import TRACES, stays, stripped, travels
from ebb.system.system import System, load, locate
from ebb.terminal import command

FIGURES, SAMPLES = "figures", "samples"

OTHERS = {FIGURES: "the card has none", SAMPLES: "no samples are shown"}
"""What can be left out besides traces of the data, and what is missing then."""

MEASURED = (
    "distances", "n_samples", "n_reference", "features", "label_accuracy", "classifier_accuracy", "settings",
)  # fmt: skip
"""What of evaluation.json is on a card; not its warnings, which name places."""


@dataclass(frozen=True)
class Sharing:
    """How a run is shared: under which licence, and without what."""

    licence: str | None = None
    without: Sequence[str] = ()
    """names of `ebb.system.carried.TRACES` and of OTHERS"""


@dataclass(frozen=True)
class Exported:
    """What was written, how large it is, and what of the data is in it and what is not."""

    place: Path
    bytes: int
    carried: Mapping[str, str]
    left_out: Mapping[str, str]
    """by name, what cannot be done without it"""


def export(run: str | Path, out: str | Path, how: Sharing = Sharing()) -> Exported:
    """Write a run (a checkpoint, or what was exported before) to a folder, or to one file where the name ends in
    .safetensors, that `ebb.load` and every verb that samples or measures reads where the run is gone.

    In it are the averaged weights, the contract with the settings that the run samples by, how its data is read with
    its fingerprint, and a card: card.md in a folder, beside a sheet of samples. Raises UsageError for a run without a
    checkpoint, a name that there is nothing of to leave out, and a place that holds something else.
    """
    run, out = Path(run), Path(out)
    shared.place_for(out)
    return written(load(run, device="cpu").alone(), run, out, how)


def written(system: System, run: Path, out: Path, how: Sharing, changed: str = "") -> Exported:
    """Write a system of a run as `export` does; what was `changed` of it stands on the card."""
    one, system = out.suffix == shared.ONE, stripped(system, how.without, OTHERS)
    before = documents_of(run)
    documents = {
        "trained": trained_of(run),
        "changed": changed or before.get("changed"),
        "licence": how.licence or before.get("licence"),
        "figures": None if FIGURES in how.without else evaluated(run) or before.get("figures"),
    }
    carried, name = travels(system) | stays(system), by_name(out).stem if one else by_name(out).name
    text = card(name, system, carried, documents)
    sheet = None if one or SAMPLES in how.without else sheet_of(run, system)
    system.save(out, {what: found for what, found in documents.items() if found is not None} | {"card": text})
    if not one:
        replace_text(out / "card.md", text)
    if sheet is not None:
        copy_png(sheet, out / "samples.png")
    files = [out] if one else [path for path in out.iterdir() if path.is_file()]
    missing = {name: TRACES[name].loses if name in TRACES else OTHERS[name] for name in how.without}
    return Exported(out, sum(file.stat().st_size for file in files), carried, missing)


def documents_of(run: Path) -> dict[str, Any]:
    """What stands beside the contract of what was exported before."""
    return shared.opened(locate(run))[0]


def trained_of(run: Path) -> dict[str, Any] | None:
    """How the run's data is read, and its fingerprint; None for a system that does not know."""
    try:
        return reading(*trained_as(home_of(run)))
    except EbbError:
        return None


def home_of(run: Path) -> Path:
    """The folder of a run that a checkpoint lies in; anything else as it is."""
    above = run.parent.parent
    return above if run.parent.name == "checkpoints" and (above / "run.yaml").is_file() else run


def evaluated(run: Path) -> dict[str, Any] | None:
    """What a card says of evaluation.json, where that was made of these weights; None where there is none."""
    try:
        found = json.loads((home_of(run) / "evaluation.json").read_text(encoding="utf8"))
        if found["settings"]["checkpoint"] != locate(run).name:
            return None
        copies = {"verdict": (found.get("memorisation") or {}).get("verdict", "")}
        return {name: found[name] for name in MEASURED} | {"warnings": [], "memorisation": copies}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def sheet_of(run: Path, system: System) -> Path | None:
    """The last sheet of samples of a run; None where it shows examples of the data too."""
    if system.model.reconstructs or system.conditioner.maps:
        return None
    own = home_of(run) / "samples.png"
    sheets = [*([own] if own.is_file() else []), *sorted((home_of(run) / "samples").glob("step-*.png"))]
    return sheets[-1] if sheets else None


def card(name: str, system: System, carried: Mapping[str, str], documents: Mapping[str, Any]) -> str:
    """What a stranger needs to know: what it makes and how, how good it is, what may be done with it, and how to sample
    from it; `documents` as `export` keeps them."""
    axes = ", ".join(f"{axis} {size}" for axis, size in zip(system.modality.axes, system.shape, strict=True))
    count, (what, process) = sum(p.numel() for p in system.model.module.parameters()), system.model.card()
    how, licence = system.sampling, documents["licence"]
    sampling = ", ".join([how.solver, f"{how.steps} steps", f"guidance {how.guidance:g}", *how.guides])
    hears = ", ".join(system.conditioner.conditions) or "nothing"
    parts = [
        f"# {name}\n\n{what} made with ebb {version('ebb')}: {count:,} parameters.",
        f"- makes: {system.modality.things}, {axes}\n- can be asked for by: {hears}\n- {process}\n"
        f"{of_change(documents.get('changed'))}"
        f"- sampling: {sampling}\n"
        f"- licence: {licence or 'its maker did not say; ask before you use it or what it makes'}",
        f"## To sample from it\n\n```sh\n{command('sample', name, '--n', 16, '--out', out_of(system))}\n```\n\n"
        f'or in Python `ebb.load("{name}").sample(16)`.',
        f"## Figures\n\n{measured(name, documents['figures'], documents['trained'])}",
        f"## What of the data is in it\n\n{traces(carried, documents['trained'])}",
        "What it makes is made by a machine; say so where you show it.",
    ]
    return "\n\n".join(parts) + "\n"


def of_change(changed: str | None) -> str:
    """A line of what is not as it was trained."""
    return f"- {changed}\n" if changed else ""


def out_of(system: System) -> str:
    """A name of a file for its samples."""
    return "samples.csv" if "table" in system.modality.forms else "samples.png"


def measured(name: str, figures: Mapping[str, Any] | None, trained: Mapping[str, Any] | None) -> str:
    """The figures in Markdown, or how to have some."""
    again = "" if trained is None else f"`{command('evaluate', name, '--data', 'DATA')}`"
    if figures is None:
        return f"None were measured{again and f'; with its data: {again}'}."
    return card_figures(figures).rstrip() + (f"\n\nAgain: {again}" if again else "")


def traces(carried: Mapping[str, str], trained: Mapping[str, Any] | None) -> str:
    """What of the data is in it, a line each."""
    lines = [f"- {what}: {said}" for what, said in carried.items()]
    if trained is not None and trained["fingerprint"]:
        lines.append(f"- its sha256, by which the same data is known again: {trained['fingerprint'][:16]}…")
    return "\n".join(
        [
            *lines,
            "- none of its examples and no place where they lie; the weights may remember some of what they were shown",
        ]
    )


def unpacked(file: Path) -> Path:
    """The folder beside one exported file in which its figures are kept, NAME of NAME.safetensors; written where it is
    not there. UsageError for a folder of that name that holds another model."""
    folder = file.with_suffix("")
    if not (folder / "manifest.json").is_file():
        export(file, folder)
    one, other = (shared.opened(place)[1]("ema") for place in (file, folder))
    if one.keys() != other.keys() or any(not torch.equal(one[name], other[name]) for name in one):
        raise UsageError(f"{folder} is another model than {file}, whose figures would be kept there", "move it away")
    return folder
