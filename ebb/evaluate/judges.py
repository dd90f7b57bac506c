"""What a run's samples are seen by: classifiers of its labels, made once for each data set, and how good they are."""

from __future__ import annotations

from pathlib import Path

from ebb.data.dataset import Dataset
from ebb.data.images import PICTURES
from ebb.errors import ResourceError, UsageError
from ebb.events import Message, Progress, Work
from ebb.judge.ensemble import SECONDS, Ensemble, load_ensemble, save_ensemble, taught
from ebb.judge.features import SIDE, Features, Labelled, Projections, RandomFeatures
from ebb.judge.possible import Published, Standing, known, standing
from ebb.judge.pretrained import pretrained
from ebb.store.owned import is_run
from ebb.store.place import by_name
from ebb.terminal import command

QUICK = "quick"
"""What asks for classifiers of a quarter of the usual work, in place of a pretrained network."""

LONG = 20.0
"""Seconds of training from which on it is said beforehand how long it will take."""

FILE = "classifier.safetensors"


def features_for(
    run: Path, dataset: Dataset, spec: str | None = None, *, seconds: float | None = None, fresh: bool = False
) -> Work[tuple[Features, float | None]]:
    """Classifiers of the run's labels with the accuracy of their vote, of `seconds` of work or more (`taught`).

    They are trained once for each data set, kept beside the run for others of the same data, and in the run; or
    `fresh`. Random
    features where there are no labels, and for images too small for a classifier. With a `spec` the pretrained network
    that it names, and no accuracy; or "quick", which is a quarter of the work.
    """
    if dataset.modality != PICTURES:
        if spec is not None:
            raise UsageError(f"{spec} looks at pictures, and {run} makes {dataset.modality.things}", "leave it out")
        return Projections(dataset.summary.shape), None
    if spec not in (None, QUICK):
        return pretrained(spec), None
    if not judged(dataset):
        return RandomFeatures(dataset.rows.shape[1]), None
    seconds = SECONDS if seconds is None else seconds
    seconds = seconds / 4 if spec == QUICK else seconds
    mine, shared = run / FILE, shared_file(run, dataset)
    for file in () if fresh else (mine, shared):
        saved = load_ensemble(file, dataset.summary.fingerprint)
        if saved is not None and saved[0].trained.seconds >= seconds:
            if file is shared:
                save_ensemble(mine, *saved, dataset.summary.fingerprint)
            return saved
    official = dataset.held_out
    unseen = (official.rows, official.labels) if official is not None and official.labels is not None else None
    found = yield from announced(run, dataset, seconds, unseen)
    keep(found, dataset.summary.fingerprint, mine, shared)
    return found


def judged(dataset: Dataset) -> bool:
    """Whether classifiers of these images' labels can be trained."""
    return dataset.labels is not None and len(dataset.names) >= 2 and min(dataset.rows.shape[2:]) >= SIDE


def shared_file(run: Path, dataset: Dataset) -> Path:
    """Where the classifiers of a run's data lie for other runs beside it; of what was exported, in itself."""
    return (by_name(run).parent if is_run(run) else run) / "judges" / f"{dataset.summary.fingerprint[:12]}.safetensors"


def keep(found: tuple[Ensemble, float], fingerprint: str, mine: Path, shared: Path) -> None:
    """Save classifiers in the run and for others; where only the latter cannot be, they are the run's alone."""
    save_ensemble(mine, *found, fingerprint)
    try:
        shared.parent.mkdir(exist_ok=True)
        save_ensemble(shared, *found, fingerprint)
    except (ResourceError, OSError):
        return


def announced(run: Path, dataset: Dataset, seconds: float, unseen: Labelled | None) -> Work[tuple[Ensemble, float]]:
    """Train classifiers; how long it takes, and what else there is, is said once the first updates were timed."""
    yield Progress("training classifiers of the data, once, to judge with")
    labels, silent = dataset.labels, True
    if labels is None:
        raise UsageError(f"{run} has images without labels, and a classifier learns labels")
    training = taught(dataset.rows, labels, len(dataset.names), seconds=seconds, held_out=unseen)
    while True:
        try:
            event = next(training)
        except StopIteration as end:
            found: tuple[Ensemble, float] = end.value
            return found
        if silent and isinstance(event, Progress) and event.left is not None:
            silent = False
            if event.left > LONG:
                yield Message(cost(run, dataset, event.left, seconds))
        yield event


def cost(run: Path, dataset: Dataset, left: float, seconds: float) -> str:
    """How long classifiers take, what they may be expected to be right in, and the command that is shorter."""
    of = known_set(dataset)
    hope = "" if of is None or of.judged is None else f", right for about {of.judged:.0%} of unseen images"
    shorter = f"; shorter and coarser: {command('evaluate', run, '--features', QUICK)}" if seconds >= SECONDS else ""
    took = f"{left:.0f} s" if left < 90 else f"{left / 60:.1f} min"
    return f"classifiers of this data, to judge with, are trained once: {took} at most{hope}{shorter}"


def known_set(dataset: Dataset) -> Published | None:
    """The published data set that these images are, or None."""
    return known(dataset.summary.shape, len(dataset.names), dataset.summary.mean)


def standing_of(dataset: Dataset, seen: Features, accuracy: float | None) -> Standing | None:
    """How far the judge lies from what is possible; None where no accuracy is known."""
    if accuracy is None or not isinstance(seen, Ensemble):
        return None
    return standing(accuracy, seen.trained.fewer, known_set(dataset))
