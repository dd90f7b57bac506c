"""Any two beside the same data, from Python: runs, systems and sets of samples, in pairs and in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ebb.data.dataset import Dataset
from ebb.data.modality import compared
from ebb.data.of_run import data_of, trained_as
from ebb.data.pictures import batches
from ebb.data.reading import as_asked
from ebb.errors import DataError, UsageError
from ebb.evaluate.compare import RESAMPLES, Comparison, called, in_pairs
from ebb.evaluate.enough import worthwhile
from ebb.evaluate.figures import LEAST, Pile, Sets
from ebb.evaluate.judges import features_for
from ebb.evaluate.measure import rounded, split
from ebb.events import finished
from ebb.judge.arrays import Given, indices_of, values_of
from ebb.judge.features import Features, Projections, RandomFeatures, extract
from ebb.recipe.limits import whole
from ebb.recipe.recipe import DiffusionRecipe
from ebb.store.owned import is_run
from ebb.system.requests import asked_for, labels_of
from ebb.system.sampler import Sampler
from ebb.system.system import System, load

Compared: TypeAlias = "str | Path | System | Given | tuple[Given, Given]"
"""A run's folder, a system, or samples [n, *d] as a tensor or an array, alone or with the labels asked for."""


def compare(
    a: Compared,
    b: Compared,
    data: str | Path | Dataset | Given | None = None,
    features: Features | None = None,
    *,
    n: SupportsIndex | None = None,
    seed: SupportsIndex = 0,
) -> Comparison:
    """The figures of `a` and `b`, and the difference of each with a 95 % interval, in pairs and in words (`says`).

    `a` and `b` are runs, systems, or samples: pictures [n, c, h, w], 8-bit or in [−1, 1], rows [n, d] or series
    [n, c, t]; (samples, labels) where labels were asked for. `data` is what both are held against: real examples, a
    place of data, or what was read from one; without it, that of the first run. Runs and systems draw `n` samples, of
    the same seeds and of what the data shows. Sample i of both is counted alike in every resampling, as by `against`.

    `features` see both; without them those of the first run, and where there is none a random network's of pictures and
    for numbers they themselves. The label accuracy is there where labels were asked for and features know classes.
    Raises DataError for sets of different shapes or lengths and too few examples, UsageError for what is no run.
    """
    runs = [Path(one) for one in (a, b) if isinstance(one, str | Path)]
    known, place = dataset_of(data, runs), whole("seed", seed)
    real = rounded(values_of("the data", data)) if known is None else compared(known.modality, known.rows)  # type: ignore[arg-type]
    count = count_of((a, b), len(real), n)
    seen = features if features is not None else eyes_of(runs, known, real)
    floor, reference = (
        Pile(part, None, extract(seen, batches(part)))
        for part in split(real, count, place, 1 if known is None else known.apart)
    )
    both_sets, settings = list[Sets](), list[dict[str, Any]]()
    for name, one in zip("ab", (a, b), strict=True):
        rows, labels, how = drawn_or_given(name, one, known, count, place)
        if rows.shape[1:] != real.shape[1:]:
            raise DataError(f"{name} is of shape {list(rows.shape[1:])}, and the data of {list(real.shape[1:])}")
        pile = Pile(rows, labels, extract(seen, batches(rows)))
        both_sets.append(Sets(pile, floor, reference, seen, place, RESAMPLES))
        settings.append(how)
    names = titles(a, b)
    found, missing = in_pairs(both_sets[0], both_sets[1], names)
    return Comparison(*names, count, place, seen.name, found, missing, settings[0], settings[1])


def dataset_of(data: str | Path | Dataset | Given | None, runs: Sequence[Path]) -> Dataset | None:
    """The data set that is named, read as the first run has it, or as it comes; None for real examples themselves."""
    if data is None and not runs:
        raise UsageError("there is no data to compare with", "name it: ebb.compare(a, b, data)")
    if isinstance(data, Dataset):
        return data
    if not isinstance(data, str | Path | None):
        return None
    if runs:
        return data_of(runs[0], None if data is None else str(data))
    return as_asked(str(data), DiffusionRecipe())


def count_of(ones: Sequence[Compared], real: int, n: SupportsIndex | None) -> int:
    """How many samples of each are compared: as many as are given, or `n`, or as many as the data is worth."""
    given = [len(samples_in(one)) for one in ones if not isinstance(one, str | Path | System)]
    count = whole("n", n) if n is not None else given[0] if given else worthwhile(real) or 0
    if min(given, default=count) < count or (n is None and len(set(given)) > 1):
        there = " and ".join(map(str, given))
        raise DataError(f"sample i of both is counted together, and there are {there}", "ask for fewer of both: n=")
    if count < LEAST or real < 2 * LEAST:
        raise DataError(f"{count} samples and {real} real examples say nothing: {LEAST} and {2 * LEAST} are the least")
    return count


def samples_in(one: Any) -> Any:
    """The samples of (samples, labels), or samples themselves."""
    return one[0] if isinstance(one, tuple) else one


def drawn_or_given(
    name: str, one: Compared, known: Dataset | None, count: int, seed: int
) -> tuple[NDArray[Any], NDArray[np.int64] | None, dict[str, Any]]:
    """Samples as they are stored, the labels that they were asked for, and what a system drew them with."""
    if not isinstance(one, str | Path | System):
        labels = indices_of(f"the labels of {name}", one[1]) if isinstance(one, tuple) else None
        rows = rounded(values_of(name, samples_in(one))[:count])
        return rows, None if labels is None else labels[:count], {}
    system = load(one) if isinstance(one, str | Path) else one
    given = system.given(count, seed=seed) if known is None else asked_for(system, known, count, seed)
    made = system.modality.stored(Sampler(system)(system.request(given, count, seed)))
    return (
        compared(system.modality, made),
        None if known is None else labels_of(system, given, known),
        system.sampling.model_dump(),
    )


def eyes_of(runs: Sequence[Path], known: Dataset | None, real: NDArray[Any]) -> Features:
    """What sees both, where nobody says: what the first run is judged by, if this is its data, or what knows none."""
    own = known is not None and runs and is_run(runs[0]) and trained_as(runs[0])[1].get("fingerprint")
    if known is not None and own == known.summary.fingerprint:
        return finished(features_for(runs[0], known))[0]
    return RandomFeatures(real.shape[1]) if real.ndim == 4 else Projections(real.shape[1:])


def titles(a: Compared, b: Compared) -> tuple[str, str]:
    """The names of runs, and "a" and "b" for what has none."""
    if isinstance(a, str | Path) and isinstance(b, str | Path):
        return called(Path(a), Path(b))
    first, second = (Path(one).resolve().name if isinstance(one, str | Path) else "" for one in (a, b))
    return first or "a", second or "b"
