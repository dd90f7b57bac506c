"""Measure a run: sample its system, compare with its own data, and write the figures into its report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ebb.data.scan import Images, read
from ebb.encode.images import to_pixels
from ebb.errors import DataError, UsageError
from ebb.evaluate.features import Features, RandomFeatures, load_classifier, save_classifier, train_classifier
from ebb.evaluate.measure import Evaluation, measure
from ebb.evaluate.report import write_report
from ebb.recipe import from_yaml
from ebb.system import load, locate

Say = Callable[[str], None]


def evaluate(run: Path, count: int, *, seed: int = 0, say: Say = lambda _: None, **asked: Any) -> Evaluation:
    """Draw `count` samples from the run at `run` and measure them against its training data.

    Labels are drawn with the frequencies of the data; `asked` may set steps, guidance, solver and grid. The result is
    written to evaluation.json and shown in report.html. Raises UsageError for a folder that is not a run, DataError
    where its data has changed.
    """
    if count < 2:
        raise UsageError(f"a distance needs 2 or more samples, got {count}", "try --n 1000")
    where = locate(run)
    system, images = load(run), data_of(run)
    features, accuracy = features_for(run, images, say)
    labels = names = None
    if images.labels is not None:
        labels = np.random.default_rng(seed).choice(images.labels, count)
        names = [images.names[i] for i in labels]
    say(f"sampling {count:,} images")
    began = time.perf_counter()
    made = to_pixels(system.sample(count, label=names, seed=seed, **asked))
    took = time.perf_counter() - began
    settings = system.settled(**asked).model_dump() | {
        "seed": seed,
        "checkpoint": where.name,
        "sampling_seconds": round(took, 1),
        "images_per_second": round(count / took, 1),
    }
    say("measuring")
    evaluation = measure(
        made,
        images.pixels,
        features,
        asked=labels,
        real_labels=images.labels,
        class_names=images.names,
        classifier_accuracy=accuracy,
        settings=settings,
        seed=seed,
    )
    (run / "evaluation.json").write_text(json.dumps(asdict(evaluation), indent=1), encoding="utf8")
    write_report(run)
    return evaluation


def data_of(run: Path) -> Images:
    """The run's training images, read again from where they were; raises DataError where they are not the same."""
    recipe, about = from_yaml(run / "run.yaml")
    images = read(about["data"], size=recipe.data.size, channels=recipe.data.channels)
    if images.summary.fingerprint != about["fingerprint"]:
        raise DataError(
            f"{about['data']} is not what {run} was trained on (fingerprint {images.summary.fingerprint[:12]}…,"
            f" expected {about['fingerprint'][:12]}…)",
            "restore the data, or train again: ebb train DATA --fresh",
        )
    return images


def features_for(run: Path, images: Images, say: Say) -> tuple[Features, float | None]:
    """A classifier of the run's labels (trained once and kept in the run) with its accuracy, else random features."""
    if images.labels is None or len(images.names) < 2:
        return RandomFeatures(images.pixels.shape[1]), None
    file = run / "classifier.safetensors"
    kept = load_classifier(file, images.summary.fingerprint) if file.exists() else None
    if kept is not None:
        return kept
    say("training a classifier on the data, once, to judge with")
    official = images.held_out
    unseen = (official.pixels, official.labels) if official is not None and official.labels is not None else None
    classifier, accuracy = train_classifier(images.pixels, images.labels, len(images.names), held_out=unseen)
    save_classifier(file, classifier, accuracy, images.summary.fingerprint)
    return classifier, accuracy
