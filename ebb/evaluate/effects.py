"""An adapter beside its base: what it changes, in a figure, and pictures of both from the same noise."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from ebb.data.images import save_png
from ebb.data.of_run import data_of
from ebb.errors import UsageError
from ebb.evaluate.analysed import Analysed, Result
from ebb.events import Figure, Progress, Work
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import AdapterRecipe
from ebb.report.card import write_effect
from ebb.report.effect_section import FILE, PICTURE
from ebb.report.run_report import write_report
from ebb.store.write import replace_text
from ebb.system.system import load
from ebb.system.taught import base_of
from ebb.understand.adapter_effect import AdapterEffect, Taught, effect_of


def effect_on(run: Path) -> Work[AdapterEffect]:
    """The effect of an adapter's run on its base, put into the run, its page and its card.

    Raises UsageError for a run that is no adapter's, or whose base is gone, DataError where its data is.
    """
    yield Progress("measuring what the adapter changes")
    taught = Taught.of(recipe_of(run), data_of(run), load(run), base_of(run))
    found = put_into(run, taught)
    yield Figure("effect", asdict(found))
    write_report(run)
    return found


def effects(subject: Analysed) -> Result:
    """The same of a run that is evaluated."""
    taught = Taught.of(recipe_of(subject.run), subject.dataset, subject.system, base_of(subject.run))
    return Result({"effect": put_into(subject.run, taught, subject.seed)})


def recipe_of(run: Path) -> AdapterRecipe:
    """Its recipe; UsageError for a run that is no adapter's."""
    recipe = from_yaml(run / "run.yaml")[0]
    if not isinstance(recipe, AdapterRecipe):
        raise UsageError(f"{run} is no adapter's run", "make one of it: ebb adapt RUN DATA")
    return recipe


def put_into(run: Path, taught: Taught, seed: int = 0) -> AdapterEffect:
    """The effect, its controls and a picture, written into the run."""
    found, modality = effect_of(taught, seed), taught.dataset.modality
    rows = [samples for _, *both in taught.pairs(seed) for samples in both]
    columns = max(map(len, rows))
    blank = -torch.ones_like(rows[0][:1])
    filled = [torch.cat([x, *[blank.to(x)] * (columns - len(x))]) for x in rows]
    save_png(modality.sheet(modality.stored(torch.cat(filled).cpu()), columns), run / PICTURE, {})
    facts = asdict(found)
    replace_text(run / FILE, json.dumps(facts, indent=1))
    write_effect(run, facts)
    return found
