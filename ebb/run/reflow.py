"""Reflow: a run that learns from its own pairs of noise and sample, whose paths become straighter (Liu et al. 2023).

Along the flow of a trained model each noise ε goes to one sample x0. Learnt again with these pairs in place of
independent ones, the average of ε − x0 at a place is over fewer paths, so the new flow bends less and needs fewer
steps; in the limit one (Liu et al. 2023, theorem 3.7).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebb.data.dataset import Dataset
from ebb.data.loader import Examples
from ebb.encode.conditioner import part
from ebb.errors import UsageError
from ebb.events import Work
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import DiffusionRecipe
from ebb.run.caches import pairs_in
from ebb.sample.noise import Noise
from ebb.store.origin import Origin
from ebb.store.shards import cached
from ebb.system.requests import conditions_of, values_of
from ebb.system.sampler import Sampler
from ebb.system.system import System, load, locate

FIRST = 2**61
"""The seed of the first pair: none that a user counts up to."""


def pairs_of(
    recipe: DiffusionRecipe,
    dataset: Dataset,
    device: torch.device,
    cache: Path,
) -> Work[tuple[System, Examples]]:
    """The run that is reflowed, and the samples it draws for labels and captions of the data, each with its noise.

    They are made once, with the run's own sampling, and kept under `cache`; anew when its weights, its sampling or the
    data change. Raises UsageError for a run of other data.
    """
    run = Path(str(recipe.reflow))
    if dataset.others:
        raise UsageError(
            "the pairs of a reflow have one shape, and buckets have several", "take a run without --data.buckets"
        )
    if from_yaml(run / "run.yaml")[1].get("fingerprint") != dataset.summary.fingerprint:
        raise UsageError(f"{run} was trained on other data", "reflow a run with its own data")
    system, count = load(run, device=device), recipe.pairs
    given = values_of(dataset, np.random.default_rng(recipe.seed).choice(len(dataset.rows), count))

    def made(first: int, last: int) -> dict[str, Tensor]:
        request = system.request(part(given, first, last - first), last - first, FIRST + first)
        return {"x0": torch.cat([x.half().cpu() for x in Sampler(system).encoded(request)])}

    key: dict[str, Any] = {
        "data": dataset.summary.fingerprint,
        "weights": Origin.of(str(run), "teacher", locate(run)).sha256,
    }
    key |= {"seed": recipe.seed, "sampling": system.sampling.model_dump()}
    kept = yield from cached(pairs_in(cache, run), key, count, made, what="drawing pairs of noise and sample")
    shape = system.inner

    def noise(index: np.ndarray) -> Tensor:
        return Noise(tuple(FIRST + int(at) for at in index)).start(shape)

    examples = Examples(kept["x0"], unit=lambda x: x, noise=noise)
    return system, replace(examples, **conditions_of(system.conditioner, given, count))
