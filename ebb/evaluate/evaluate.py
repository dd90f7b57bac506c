"""Measure a run: sample its system, compare with its own data, and write the figures into its report."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from ebb.data.dataset import Dataset
from ebb.data.modality import compared, in_terms
from ebb.data.of_run import data_of
from ebb.errors import EbbError, ResourceError, UsageError
from ebb.evaluate.analysed import Analysed
from ebb.evaluate.analyses import parts
from ebb.evaluate.by_steps import BySteps, StepFigures
from ebb.evaluate.drawn import Drawn, draw, forget
from ebb.evaluate.enough import comparable, countable, one_bucket
from ebb.evaluate.judges import FILE, features_for, standing_of
from ebb.evaluate.latent_floor import LatentFloor
from ebb.evaluate.measure import Classes, Evaluation, measure
from ebb.evaluate.measure import as_table as figures_table
from ebb.events import Done, Event, Figure, Progress, Work
from ebb.judge.matcher import Retrieval
from ebb.judge.possible import Standing
from ebb.judge.scene_reader import Agreement
from ebb.report.card import write_figures
from ebb.report.run_report import write_report
from ebb.report.verdict import verdict
from ebb.store.lock import MEASURED, held
from ebb.store.place import room_for, room_in
from ebb.store.write import replace_text
from ebb.system.requests import asked_for, labels_of
from ebb.system.sampler import Request, Settings
from ebb.system.system import System, load, locate
from ebb.terminal import command
from ebb.understand.adapter_effect import AdapterEffect
from ebb.understand.bound import Bound
from ebb.understand.concepts import EVEN, Words
from ebb.understand.cost import Cost, cost
from ebb.understand.levels import Levels
from ebb.understand.likelihood import BitsPerDim
from ebb.understand.memorise import Memorisation
from ebb.understand.reconstruction import Reconstruction


@dataclass(frozen=True)
class Evaluated:
    """All that was found out about a run; None for what could not be had (then `figures.warnings` says why)."""

    figures: Evaluation
    cost: Cost
    judge: Standing | None = None
    """how far the classifiers that judged lie from what is possible"""
    memorisation: Memorisation | None = None
    levels: Levels | None = None
    likelihood: BitsPerDim | None = None
    bound: Bound | None = None
    reconstruction: Reconstruction | None = None
    latent_floor: LatentFloor | None = None
    agreement: Agreement | None = None
    matched: Retrieval | None = None
    """of captions that were trained on"""
    matched_unseen: Retrieval | None = None
    words: Words | None = None
    steps: BySteps | None = None
    effect: AdapterEffect | None = None
    """of an adapter's run"""

    def facts(self) -> dict[str, Any]:
        """What evaluation.json holds: the figures, each of the other parts under its name, and all in a sentence."""
        found = {name: asdict(part) for name, part in vars(self).items() if name != "figures" and part is not None}
        facts = asdict(self.figures) | found
        return facts | {"verdict": verdict(facts)}


@dataclass(frozen=True, eq=False)
class Loaded:
    """A system as it was when it was loaded: a run that is trained meanwhile comes to newer checkpoints."""

    run: Path
    system: System
    weights: str
    """ema or model"""
    checkpoint: str
    sha256: str
    """of the file of its weights"""


@dataclass(frozen=True)
class Measuring:
    """Which weights of a run are measured, beside which data, and by which eyes."""

    weights: str = "ema"
    """or "model", the raw ones"""
    data: str | None = None
    """where the run's data is now, if it was moved"""
    features: str | None = None
    """a pretrained network in a file ("inception:FILE", "dino:FILE"), in place of the run's own classifiers;
    or "quick", those of a quarter of the work"""
    fresh: bool = False
    """draw all samples anew and train new classifiers, in place of those of earlier measurements"""


def evaluate(
    run: str | Path,
    count: int,
    how: Measuring = Measuring(),
    *,
    seed: int = 0,
    likelihood: int = 64,
    **settings: Unpack[Settings],
) -> Work[Evaluated]:
    """Draw `count` samples from the run at `run` and measure them against its training data; the result is all figures.

    Labels are drawn with the frequencies of the data; `settings` are of the sampling, in place of the run's own;
    `likelihood` is the number of unseen images to code.

    Samples are saved in RUN/evaluation, so that the same command goes on where it was interrupted. evaluation.json is
    written after each part, report.html at the end. Raises UsageError for a folder that is not a run and for weights
    that it does not hold, DataError where its data has changed or is too little to compare with, and ResourceError
    where its figures could not be saved or another process measures it; on a full disk a warning says so.
    """
    run = Path(run)
    countable(count, seed, likelihood)
    with measuring(run, "evaluation.json", "report.html", fresh=how.fresh) as begun:
        yield from begun
        one, dataset = loaded(run, how.weights, **settings), data_of(run, how.data)
        comparable(run, len(dataset.rows))
        seen, accuracy = yield from features_for(run, dataset, how.features, fresh=how.fresh)
        given = asked_for(one.system, dataset, count, seed)
        labels, asked = labels_of(one.system, given, dataset), tuple(text or "" for text in given.get("text", ()))
        drawn = yield from drawn_from(one, one.system.request(given, count, seed), dataset)
        yield Progress("measuring")
        classes = Classes(labels, dataset.labels, dataset.names, accuracy, dataset.apart)
        made, real = (compared(dataset.modality, rows) for rows in (drawn.rows, dataset.rows))
        figures = replace(measure(made, real, seen, classes, seed=seed), settings=settings_of(one, drawn, seed))
        figures = replace(figures, warnings=[in_terms(line, dataset.modality.things) for line in figures.warnings])
        spent = cost(one.system, seed=seed, spent=(drawn.seconds, drawn.evaluations))
        judge = standing_of(dataset, seen, accuracy)
        found = saved(
            run, warned(Evaluated(figures, spent, judge), *coarse(judge), *one_bucket(dataset), *old(run, drawn))
        )
        subject = Analysed(run, one.system, dataset, drawn, labels, asked, seen, seed, likelihood)
        return (yield from reported(run, (yield from explored(found, subject))))


@contextmanager
def measuring(run: Path, *files: str, fresh: bool = False) -> Iterator[tuple[Event, ...]]:
    """Be the only process that measures a run, and know beforehand that these `files` can be written into it.

    Gives the first events of a measurement. With `fresh`, the samples of earlier measurements go first.
    Raises UsageError for a folder that is not a run, and ResourceError where figures could not be saved or another
    process measures it.
    """
    locate(run)
    try:
        room_in(run / "evaluation")
        for file in (*files, FILE):
            room_for(run / file)
    except ResourceError as error:
        hint = f"{error.hint}; or measure a copy: cp -r {shlex.quote(str(run))} COPY"
        raise ResourceError(f"what is measured could not be saved: {error.what}", hint) from error
    with held(run, MEASURED) as notes:
        if fresh:
            forget(run / "evaluation")
        yield (*notes, Progress("reading the run"))


def coarse(judge: Standing | None) -> list[str]:
    """A sentence about a judge that misses much of what is possible, if it does."""
    if judge is None or not judge.coarse:
        return []
    return [f"these figures are coarse: {judge.says}, and what it does not see moves no distance; compare with care"]


def old(run: Path, drawn: Drawn) -> list[str]:
    """A sentence about samples that were drawn before, with the same settings, if some were."""
    if not drawn.reused:
        return []
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(drawn.since))
    again = command("evaluate", run, "--fresh")
    some = f"{drawn.reused:,} of the {len(drawn.rows):,} samples"
    return [f"{some} were drawn before with the same settings, at {when}; {again} draws all anew"]


def explored(found: Evaluated, subject: Analysed) -> Work[Evaluated]:
    """`found` with all other parts that can be had, each written and reported as soon as it is there."""
    yield Figure("figures", asdict(found.figures))
    for what, part in parts(subject):
        yield Progress(what)
        try:
            result = part(subject)
            found = replace(warned(found, *result.warnings), **result.found)
            for name, figures in result.found.items():
                yield Figure(name, asdict(figures))
        except EbbError as error:  # such as too few images: the other parts are worth having
            found = warned(found, f"not done, {what}: {error.what}")
        found = saved(subject.run, found)
    return found


def warned(found: Evaluated, *more: str) -> Evaluated:
    """`found` with more warnings in its figures."""
    return replace(found, figures=replace(found.figures, warnings=[*found.figures.warnings, *more]))


def saved(run: Path, found: Evaluated) -> Evaluated:
    """`found`, written to evaluation.json; where it cannot be, such as on a full disk, it says so and is not lost."""
    try:
        replace_text(run / "evaluation.json", json.dumps(found.facts(), indent=1))
    except ResourceError as error:
        return unkept(found, error)
    return found


def reported(run: Path, found: Evaluated) -> Work[Evaluated]:
    """`found`, shown in the run's report and card; where these cannot be written, it says so."""
    try:
        write_report(run)
        write_figures(run, found.facts())
    except ResourceError as error:
        found = unkept(found, error)
    yield Done(str(run))
    return found


def unkept(found: Evaluated, error: ResourceError) -> Evaluated:
    """`found` with a warning, once, that a file of it could not be written."""
    note = f"not saved: {error.what}"
    return found if note in found.figures.warnings else warned(found, note)


def loaded(run: Path, weights: str, **settings: Unpack[Settings]) -> Loaded:
    """The run's system at its newest checkpoint, with these settings in its sampling; raises UsageError where that does
    not hold these weights, and for settings that there are not or cannot be."""
    where = locate(run)
    if weights in ("ema", "model") and not (where / f"{weights}.safetensors").is_file():
        other = "model" if weights == "ema" else "ema"
        what = {"ema": "averaged (EMA)", "model": "raw"}[weights]
        raise UsageError(f"{where} holds no {what} weights", f"measure the others: --weights {other}")
    system = load(run, weights)
    if locate(run) != where:  # the run is being trained
        return loaded(run, weights, **settings)
    system = replace(system, sampling=system.settled(**settings))
    files = json.loads((where / "manifest.json").read_text(encoding="utf8"))["files"]
    return Loaded(run, system, weights, where.name, files[f"{weights}.safetensors"]["sha256"])


def drawn_from(one: Loaded, request: Request, dataset: Dataset, what: str = "sampling") -> Work[Drawn]:
    """The samples of a request, saved in the run's folder under what they depend on."""
    facts = {"weights": one.sha256, "data": dataset.summary.fingerprint}
    return (yield from draw(one.system, one.run / "evaluation", request, facts, what))


def settings_of(one: Loaded, drawn: Drawn, seed: int) -> dict[str, Any]:
    """What the samples were made with, and how fast."""
    return one.system.sampling.model_dump() | {
        "seed": seed,
        "weights": one.weights,
        "checkpoint": one.checkpoint,
        "sampling_seconds": round(drawn.seconds * len(drawn.rows), 1),
        "images_per_second": round(1 / max(drawn.seconds, 1e-9), 1),
    }


def as_table(found: Evaluated) -> list[tuple[str, str]]:
    """Rows (what, figure in plain words), for printing: the figures, then what else was found."""
    table = [row for row in figures_table(found.figures) if row[0] != "note"]
    if found.judge is not None:
        table.append(("judge", found.judge.says))
    if found.memorisation is not None:
        table.append(("memorisation", found.memorisation.verdict))
    if found.likelihood is not None:
        table.append(("likelihood", coded_in_words(found.likelihood)))
    if found.bound is not None:
        table.append(("variational bound", coded_in_words(found.bound)))
    if (back := found.reconstruction) is not None:
        similar = "" if back.ssim is None else f", SSIM {back.ssim:.3f}"
        table.append(("reconstruction", f"PSNR {back.psnr:.1f} dB{similar}, {back.count:,} images"))
    if (least := found.latent_floor) is not None:
        table.append(("latent floor", floor_in_words(least)))
    if (shown := found.agreement) is not None:
        new = "" if shown.novel is None else f", {shown.novel:.1%} of new pairs"
        table.append(
            (
                "captions",
                f"{shown.share:.1%} of the samples show all that was asked{new}; {shown.things:.1%} of the things are"
                f" there; real scenes score {shown.ceiling:.1%}",
            )
        )
    for what, one in (("trained", found.matched), ("unseen", found.matched_unseen)):
        if one is not None:
            table.append((f"{what} captions", matched_in_words(one)))
    if found.words is not None:
        table.append(("words", evenness_in_words(found.words)))
    if found.effect is not None:
        table.append(("effect", str(found.effect)))
    if found.steps is not None:
        table += [(row.name, steps_in_words(row)) for row in found.steps.rows]
    spent = found.cost
    table.append(
        (
            "cost",
            f"{spent.evaluations:.3g} evaluations, {spent.gflop:.3g} GFLOP, {1000 * spent.seconds:.3g} ms a sample;"
            f" {spent.peak_mb:,.0f} MB for {spent.batch} at once",
        )
    )
    p50, p99 = 1000 * spent.latency.p50, 1000 * spent.latency.p99
    alone = f"{p50:.3g} ms for a sample alone, 99 % within {p99:.3g} ms; {spent.latency.count} requests"
    table.append(("latency", alone))
    return [*table, *(("note", warning) for warning in found.figures.warnings)]


def evenness_in_words(words: Words) -> str:
    """How many words say nothing of places, and which; and the entropy along the other axis."""
    even = words.everywhere
    named = f" ({', '.join(even[:5])}{', …' if len(even) > 5 else ''})" if even else ""
    return (
        f"{len(even)} of {len(words.concepts)} are looked at from everywhere alike (entropy over places above {EVEN:g})"
        f"{named}; over words {words.over_words:.2f}; {words.prompts} prompts"
    )


def steps_in_words(row: StepFigures) -> str:
    """Distance, recall, labels, the two-sample test and the spread of samples in so many steps."""
    parts = [f"{1000 * row.seconds:.3g} ms a sample"]
    if (near := row.distances.get("Fréchet distance")) is not None:
        parts.append(f"Fréchet distance {near.value:.3g} [{near.low:.3g}, {near.high:.3g}]")
    if (recall := row.distances.get("recall")) is not None:
        parts.append(f"recall {recall.value:.2f}")
    if row.accuracy is not None:
        parts.append(f"{row.accuracy:.1%} show what was asked for")
    if (apart := row.distances.get("two-sample test")) is not None:
        parts.append(f"told apart {apart.value:.1%}")
    expected = "" if row.expected is None else f" (a Gaussian's {row.expected:.3f})"
    return "; ".join([*parts, f"spread {row.spread:.3f}{expected}"])


def matched_in_words(found: Retrieval) -> str:
    """The share of captions whose sample was found, beside what chance and real pictures give."""
    real = "" if found.ceiling is None else f", real pictures score {found.ceiling:.1%}"
    chance = f"by chance {1 / found.among:.1%}"
    return f"{found.share:.1%} find their own sample among {found.among} ({chance}{real}); {found.count:,} captions"


def floor_in_words(found: LatentFloor) -> str:
    """What the way through the latents costs in the Fréchet distance."""
    return (
        f"Fréchet distance {found.reached:.3g} of {found.count:,} real images that went through the latents and back "
        f"(as they are {found.real:.3g}; from themselves {found.moved:.3g}): no sampler of these latents does better"
    )


def coded_in_words(found: BitsPerDim | Bound) -> str:
    """Bits per dimension with their interval, and at which noise values were read off."""
    nsr = found.faintest if isinstance(found, Bound) else found.read_at
    end = "" if nsr is None else f"; read off at a noise of {nsr:g}"
    return f"{found.value:.3g} [{found.low:.3g}, {found.high:.3g}] {found.unit}, {found.count} images{end}"
