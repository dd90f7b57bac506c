"""An adapter beside its base: what it changes, in a figure, and pictures of both from the same noise."""

from __future__ import annotations

import torch

from ebb.data.images import save_png
from ebb.errors import UsageError
from ebb.evaluate.analysed import Analysed, Result
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import AdapterRecipe
from ebb.system.taught import base_of
from ebb.understand.adapter_effect import Taught, effect_of

FILE = "with-and-without.png"
"""In the folder of an evaluation: samples of what was taught without the adapter, and below with it; then others."""


def taught_by(subject: Analysed) -> Taught:
    """The run with its base, and what it was taught; UsageError for a run that is no adapter's."""
    recipe = from_yaml(subject.run / "run.yaml")[0]
    if not isinstance(recipe, AdapterRecipe):
        raise UsageError(f"{subject.run} is no adapter's run")
    return Taught.of(recipe, subject.dataset, subject.system, base_of(subject.run))


def effects(subject: Analysed) -> Result:
    """The effect of what was taught, its controls, and a picture."""
    taught = taught_by(subject)
    found = effect_of(taught, subject.seed)
    modality = subject.dataset.modality
    rows = [samples for _, *both in taught.pairs(subject.seed) for samples in both]
    columns = max(map(len, rows))
    whole = torch.cat([torch.cat([x, -torch.ones_like(x[:1]).expand(columns - len(x), *x.shape[1:])]) for x in rows])
    save_png(modality.sheet(modality.stored(whole.cpu()), columns), subject.run / "evaluation" / FILE, {})
    return Result({"effect": found})
