"""Look for what is wrong with a run, with data or with a model: every check there is, one after the other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ebb.adapt.adapter_files import is_adapter
from ebb.data.images import PICTURES
from ebb.data.modality import in_terms
from ebb.doctor.adapter_checks import ADAPTER_CHECKS, AdapterSubject
from ebb.doctor.data_checks import DATA_CHECKS
from ebb.doctor.data_facts import facts_of
from ebb.doctor.data_subject import DataSubject
from ebb.doctor.finding import Check, Diagnosis, Finding, Round
from ebb.doctor.model_checks import MODEL_CHECKS
from ebb.doctor.model_subject import ModelSubject
from ebb.doctor.run_adapter import OF_ADAPTERS
from ebb.doctor.run_autoencoder import AUTOENCODER_CHECKS
from ebb.doctor.run_checks import OF_PICTURES, RUN_CHECKS
from ebb.doctor.run_few_steps import FEW_STEP_CHECKS
from ebb.doctor.run_subject import RunSubject
from ebb.doctor.run_way import show_temperatures, way_of
from ebb.doctor.table_checks import TABLE_CHECKS
from ebb.errors import DamagedError, DataError, EbbError, ResourceError, UsageError
from ebb.events import Progress, Sink, ignored
from ebb.process.denoiser import Denoiser
from ebb.store.place import expanded
from ebb.store.shared import ONE
from ebb.store.write import replace_text
from ebb.system.system import System, load
from ebb.terminal import command

Subject = str | Path | np.ndarray | Tensor | System | nn.Module | Denoiser
"""A run folder, a checkpoint folder, data (by name or as an array), a system, a network or a denoiser."""


REPORT = "doctor.json"


def diagnose(
    where: Subject,
    *,
    shape: tuple[int, ...] | None = None,
    cond: Mapping[str, Tensor] | None = None,
    data: str | None = None,
    progress: Sink = ignored,
) -> Diagnosis:
    """Look for what is wrong with a run, with data or with a model.

    A run folder is examined with its model and its data, which is at `data` if it was moved, and what was found is kept
    in its `doctor.json`; an adapter's file is examined by itself; anything else a name can mean is data, as
    `ebb.data.scan.read` takes it. Of a network or denoiser, `shape` is that of one sample, without which it cannot be
    asked anything, and `cond` holds examples of its conditions, [k, …] each, no two rows alike: a condition that
    changes nothing is found by exchanging them. `progress` is told what is being checked.

    Raises DataError where there is nothing to examine.
    """
    if isinstance(where, str | Path):
        folder = expanded(where)
        if data is not None and not (folder / "run.yaml").is_file():
            raise UsageError(f"{where} is no run whose data could have been moved", command("doctor", data))
        if (folder / "run.yaml").is_file():
            return of_run(folder, data, progress)
        if is_adapter(folder):
            return of_adapter(folder, progress)
        if not names_data(where):
            return of_model(load(folder), str(where), None, None, progress)
        return examined(str(where), progress)[0]
    if isinstance(where, np.ndarray | Tensor):
        return examined(where, progress)[0]
    return of_model(where, type(where).__name__, shape, cond, progress)


def of_adapter(place: Path, progress: Sink) -> Diagnosis:
    """What is wrong with an adapter's file."""
    seen = Round(progress)
    seen.examine(lambda: AdapterSubject.of(place), ADAPTER_CHECKS, "the adapter")
    return seen.diagnosis(str(place), "model")


def names_data(where: str | Path) -> bool:
    """Whether a name means data: it is neither a run nor a checkpoint, and was not exported."""
    if expanded(where).suffix == ONE:
        return False
    return not any((expanded(where) / file).is_file() for file in ("run.yaml", "manifest.json"))


def of_run(folder: Path, data: str | None, progress: Sink) -> Diagnosis:
    """What is wrong with a run: its own checks, then those of its model. Writes doctor.json, if it can be written."""

    seen = Round(progress)
    run = RunSubject(folder, data)
    seen.examine(lambda: run.document, (), "the recipe")  # without it most checks cannot be made
    seen.examine(lambda: run, checks_of(run), "the run")
    seen.examine(lambda: ModelSubject.of_run(run), MODEL_CHECKS, "the model")
    way = seen.looked(lambda: way_of(run), "the way of a sample")
    found = in_words_of(things_of(run), replace(seen.diagnosis(str(folder), "run"), way=way))
    try:
        if way is not None and run.system.modality == PICTURES:
            show_temperatures(run)
        replace_text(folder / REPORT, json.dumps(asdict(found), indent=1))
    except ResourceError as error:
        return replace(found, unkept=error.what)
    return found


def things_of(run: RunSubject) -> str:
    """What the run's examples are called; images where that is not known."""
    try:
        return run.system.modality.things
    except EbbError:  # a finding says so
        return PICTURES.things


def in_words_of(things: str, diagnosis: Diagnosis) -> Diagnosis:
    """The same with what examples are called in place of images."""
    findings = [
        replace(
            each,
            symptom=in_terms(each.symptom, things),
            evidence=in_terms(each.evidence, things),
            cause=in_terms(each.cause, things),
            advice=in_terms(each.advice, things),
        )
        for each in diagnosis.findings
    ]
    unchecked, inapplicable = (
        [in_terms(line, things) for line in lines] for lines in (diagnosis.unchecked, diagnosis.inapplicable)
    )
    return replace(diagnosis, findings=findings, unchecked=unchecked, inapplicable=inapplicable)


def of_adapter_run(run: RunSubject) -> bool:
    """Whether its recipe says so, which can be read where its model cannot."""
    try:
        return run.recipe.kind == "adapter"
    except EbbError:
        return False


BESIDES: dict[str, list[Check[RunSubject]]] = {"few_step": FEW_STEP_CHECKS, "adapter": OF_ADAPTERS}
"""What is asked besides, by the kind of a run's recipe."""


def checks_of(run: RunSubject) -> list[Check[RunSubject]]:
    """The checks of a run: those that look at pictures where it makes these, or where that is not known; those of an
    autoencoder where it trained one, and of few steps where it learned these."""
    try:
        pictures, codec = run.system.modality == PICTURES, run.system.model.reconstructs
        besides = AUTOENCODER_CHECKS if codec else BESIDES.get(run.recipe.kind, [])
    except EbbError:  # each check says so
        pictures, besides = True, OF_ADAPTERS[:1] if of_adapter_run(run) else []
    return [check for check in RUN_CHECKS if pictures or check not in OF_PICTURES] + besides


def examined(where: str | np.ndarray | Tensor, progress: Sink = ignored) -> tuple[Diagnosis, DataSubject | None]:
    """What is wrong with data, and the data; that it cannot be read is a finding too, and then there is none."""

    seen = Round(progress)
    progress(Progress("reading the data"))
    try:
        data = DataSubject.of(where, progress)
    except (DataError, DamagedError) as error:
        if not isinstance(where, str) or not expanded(where).exists():
            raise
        return Diagnosis(where, "data", ["reading"], [unreadable(error)]), None
    modality = PICTURES if data.dataset is None else data.dataset.modality
    seen.examine(lambda: data, DATA_CHECKS if modality == PICTURES else TABLE_CHECKS, "the data")
    return in_words_of(modality.things, replace(seen.diagnosis(data.name, "data"), facts=facts_of(data))), data


def unreadable(error: EbbError) -> Finding:
    """The finding of data that is there and cannot be read."""
    return Finding(
        "reading",
        "the data cannot be read",
        error.what,
        "it is damaged, or of another kind than it seems",
        error.hint or "copy or download it again",
        "error",
    )


def of_model(
    model: System | nn.Module | Denoiser,
    name: str,
    shape: tuple[int, ...] | None,
    cond: Mapping[str, Tensor] | None,
    progress: Sink,
) -> Diagnosis:
    """What is wrong with a network or a denoiser."""

    seen = Round(progress)
    seen.examine(lambda: ModelSubject.of(model, shape, cond), MODEL_CHECKS, "the model")
    by_axes = {1: "rows", 2: "series"}.get(len(shape or ()), PICTURES.things)
    things = model.modality.things if isinstance(model, System) else by_axes
    return in_words_of(things, seen.diagnosis(name, "model"))
