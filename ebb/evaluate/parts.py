"""What an evaluation finds out besides the distances: copies, noise levels, likelihood. Each part stands alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ebb.data.loader import to_unit
from ebb.data.scan import Images
from ebb.encode.images import picture, save_png
from ebb.evaluate.bound import bound
from ebb.evaluate.ensemble import Ensemble
from ebb.evaluate.features import Features, RandomFeatures
from ebb.evaluate.levels import levels
from ebb.evaluate.likelihood import likelihood
from ebb.evaluate.memorise import memorisation, pairs_picture
from ebb.evaluate.store import Drawn
from ebb.system import System

PROBED = 64
"""Training images at which each noise level is looked at."""

IDEAL = 10_000
"""Training images that the ideal denoiser knows, at most."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A run with its samples, as the parts see it; `labels` are those the samples were asked for."""

    run: Path
    system: System
    images: Images
    drawn: Drawn
    labels: NDArray[np.int64] | None
    features: Features
    seed: int
    coded: int
    """images whose likelihood is found"""


@dataclass(frozen=True)
class Part:
    """What a part found, by the name of its field in `Evaluated`, and what a reader must know about it."""

    found: dict[str, Any]
    warnings: tuple[str, ...] = ()


def copies(subject: Subject) -> Part:
    """Samples that lie closer to training images than unseen images do; a picture of the closest pairs.

    Where no image was held out, a random half of the training images stands in for unseen ones: to the other half they
    are unseen. Copies of that other half are found then, and no others. In pixels alone where the features are a
    large network.
    """
    train, warnings = subject.images.pixels, tuple[str, ...]()
    if subject.images.held_out is not None:
        unseen = subject.images.held_out.pixels
    else:
        order = np.random.default_rng(subject.seed).permutation(len(train))
        train, unseen = train[order[::2]], train[order[1::2]]
        warnings = (
            "memorisation: no image was held out, so half of the training images stand in for unseen ones;"
            " copies of that half are not looked for",
        )
    pixels = subject.drawn.pixels
    small = isinstance(subject.features, Ensemble | RandomFeatures)  # every training image goes through it
    looked = subject.features if small else None
    result = memorisation(pixels, subject.labels, train, unseen, looked, seed=subject.seed)
    if result.pairs:
        sheet = picture(pairs_picture(pixels, train, result.pairs))
        save_png(sheet, subject.run / "evaluation" / "closest.png", {"pairs": result.pairs})
    return Part({"memorisation": result}, warnings)


def noise(subject: Subject) -> Part:
    """Loss, gradient norm and output scale at each noise level, beside the trivial and the ideal denoiser.

    Of training images: the ideal denoiser knows them, and is the floor of their loss and of no other's.
    """
    system, images = subject.system, subject.images
    some = np.random.default_rng(subject.seed).permutation(len(images.pixels))[:IDEAL]
    device = next(system.denoiser.parameters()).device
    known = to_unit(torch.from_numpy(images.pixels[some])).to(device)
    rows = {} if images.labels is None else system.labels(images.labels[some].tolist())
    theirs = {name: row.to(device) for name, row in rows.items()}
    cond = {name: row[:PROBED] for name, row in theirs.items()}
    found = levels(system.denoiser, known[:PROBED], cond, known, reference_cond=theirs, seed=subject.seed)
    return Part({"levels": found})


def bits(subject: Subject) -> Part:
    """Bits per dimension of unseen images by the probability flow, and their variational bound."""
    pixels, labels = unseen(subject, subject.coded)
    found = {
        "likelihood": likelihood(subject.system, pixels, labels, seed=subject.seed),
        "bound": bound(subject.system, pixels, labels, seed=subject.seed),
    }
    return Part(found, () if held(subject) else ("likelihood: no image was held out; it is that of training images",))


def held(subject: Subject) -> Images | None:
    """The images held out of training, if there are any, with labels where the training images have them."""
    images = subject.images.held_out
    bare = images is not None and images.labels is None and subject.images.labels is not None
    return None if bare else images


def unseen(subject: Subject, most: int) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    """At most `most` held-out images, drawn by the seed, and their labels; of the training images if none are held."""
    images = held(subject) or subject.images
    some = np.sort(np.random.default_rng(subject.seed).permutation(len(images.pixels))[:most])
    return images.pixels[some], None if images.labels is None else images.labels[some]


def parts(coded: int) -> list[tuple[str, Callable[[Subject], Part]]]:
    """Every part after what is said while it runs, the quickest first; `coded` 0 leaves the likelihood out."""
    every: list[tuple[str, Callable[[Subject], Part]]] = [
        ("looking for copies of training images", copies),
        ("looking at each noise level", noise),
        (f"coding {coded} images", bits),
    ]
    return every if coded else every[:-1]
