"""How many images a figure needs, asked before any sample is drawn."""

from __future__ import annotations

from pathlib import Path

from ebb.data.dataset import Dataset
from ebb.errors import DataError, UsageError
from ebb.evaluate.figures import LEAST
from ebb.judge.distances import ROWS
from ebb.recipe.limits import whole
from ebb.shapes import sides
from ebb.terminal import command

USUAL = 1000
"""Samples that are measured where nothing speaks for another number."""


def worthwhile(images: int) -> int | None:
    """Samples to measure against so many real images, half of which are the floor; None where no figure can be had."""
    return min(USUAL, images // 2) if images >= 2 * LEAST else None


def countable(count: int, seed: int, likelihood: int = 0) -> None:
    """Raise UsageError for numbers that no measurement can have."""
    whole("n", count, LEAST)
    whole("seed", seed)
    whole("likelihood", likelihood)


def comparable(run: Path, images: int) -> None:
    """Raise DataError for so few real images that samples cannot be compared with them."""
    if worthwhile(images) is None:
        raise DataError(
            f"{run} has {images} training image{'s' * (images != 1)}, and a figure needs {2 * LEAST}:"
            f" {LEAST} to compare samples with, and {LEAST} to say what real images score",
            f"look at samples with {command('sample', run)}, or examine the run with {command('doctor', run)}",
        )


def one_bucket(dataset: Dataset) -> list[str]:
    """A sentence about figures of data in buckets by shape, which are of one of them, if there are several."""
    if not dataset.others:
        return []
    size, count = sides(dataset.rows.shape[2:]), sum(len(each.rows) for each in dataset.buckets)
    return [f"these figures are of one shape, {size}: the {len(dataset.rows):,} of {count:,} images in that bucket"]


def decisive(run: Path, count: int, reference: int, features: int) -> None:
    """Raise UsageError where the Fréchet distances of `count` samples to `reference` images would rank by chance.

    A covariance of d features is one from d + 1 images on, and carries its d² numbers from ROWS·d.
    """
    if count < ROWS * features:
        raise UsageError(
            f"{count} samples rank settings by chance: a Fréchet distance of {features} features needs"
            f" {ROWS * features} samples or more to choose by",
            f"{command('sweep', run, '--n', USUAL)}, or add --no-keep to measure and leave the run's default as it is",
        )
    if reference <= features:
        raise UsageError(
            f"{reference} real images to compare with rank settings by chance: a Fréchet distance of {features}"
            " features needs more images than features, and the run has too few",
            "add --no-keep to measure and leave the run's default as it is, or train on more images",
        )
