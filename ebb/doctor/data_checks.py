"""What may be wrong with data: found in the images, in what the scan noted, and in what a classifier makes of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ebb.data.classes import IMBALANCE
from ebb.doctor.data_beside import BESIDE_CHECKS
from ebb.doctor.data_looks import LOOK_CHECKS
from ebb.doctor.data_subject import ALIKE, MOST_HELD_OUT, WEAK, DataSubject, Noted, some, worst
from ebb.doctor.finding import Check, Finding, NothingToExamineError, Suspect
from ebb.shapes import sides

SKIPPED = (
    "unreadable", "empty file", "too large", "suspected bomb", "encrypted", "values out of range", "tiny", "HEIC",
    "AVIF", "JPEG XL", "JPEG 2000", "Photoshop",
)  # fmt: skip
"""The kinds of finding with which the scan leaves an image out."""

NARROW = 64
"""Levels of 256 that images must reach over; bytes made from floats in [0, 1] reach over 2."""

FEW_IMAGES = 1000
"""Images below which a network soon knows each by heart; Karras et al. 2020 (ADA), fig. 1, see it below 10,000."""

COPIES = 0.005
"""The share of the images looked at that may have a near copy; two copies in a thousand change no figure."""

CLIPPED_IMAGES, CLIPPED_SHARE, SPIKE, NEIGHBOURS, LEVELS = 0.2, 0.01, 5, 16, 64
"""See `check_clipped`. Of CIFAR-10 at most 9 % of the images are clipped, of MNIST 5 %, of drawings on white 14 %;
after contrast × 1.2 they are 30 %, 99 % and 40 %."""

DOUBTED = 0.025
"""See `check_mislabelled`: the errors allowed where a classifier is surest."""

GOOD, POOR = (2, 0.4), (4, 0.85)
"""Of how many images one is among those that a classifier is surest of, and the errors allowed there as a share of
those it makes among all: of a good one (clean labels leave 0 of digits, 0.2 of vehicles and animals, wrong ones 0.45
and more), and of a WEAK one, whose surest half is hardly better than the rest."""


def check_values_not_in_range(data: DataSubject) -> Finding | None:
    """Floats outside [−1, 1], none below 0, or not finite; bytes that reach over fewer than NARROW levels."""
    if data.floats is not None:
        low, high = data.floats
        if low >= -1.001 and low < 0 and high <= 1.001:  # false for NaN as well
            return None
        evidence = f"values go from {low:.4g} to {high:.4g}"
        cause = "the images were not scaled" if high > 1.001 or low < -1.001 else "they were scaled to [0, 1]"
        command = "scale them: x / 127.5 - 1 of bytes, 2 * x - 1 of [0, 1]"
        cause = "a division by 0 or a logarithm of 0 before" if not np.isfinite([low, high]).all() else cause
    else:
        low, high = int(data.read.rows.min()), int(data.read.rows.max())
        if high - low >= NARROW:
            return None
        evidence = f"bytes go from {low} to {high} only"
        cause = "floats in [0, 1] saved as bytes without multiplying by 255, or images of one brightness"
        command = "save them again, as np.rint(255 * x).astype(np.uint8)"
    return Finding(
        "values not in range",
        "values do not fill [-1, 1], which noise of variance 1 is added to and samples are cut to",
        evidence,
        cause,
        command,
        "error",
    )


CORRUPT = Noted(
    "corrupt",
    SKIPPED,
    "some images cannot be read and are left out",
    "{count} beside {total} good ones: {names}",
    "a download or a copy that was cut off, or files that are not images",
    "copy or download them again, or delete them",
    severe=1 / 100,
)

EXACT_DUPLICATES = Noted(
    "exact duplicates",
    ("exact duplicate",),
    "some images are there more than once",
    "{count} of {total} images equal an earlier one: {names}",
    "the same file under several names, or a data set put together from several that overlap",
    "delete the copies: images seen twice as often are memorised first",
    share=1 / 1000,
)


def check_near_duplicates(data: DataSubject) -> Finding | None:
    """Images that correlate above ALIKE with another one, not counting equal ones, from COPIES of those compared."""
    pairs, compared = data.copies
    having = len(np.unique(pairs))
    if having < max(2, COPIES * compared):
        return None
    names = [f"{data.names[a]} and {data.names[b]}" for a, b in pairs[:5]]
    return Finding(
        "near duplicates",
        "some images are almost the same as another",
        f"{having:,} of {compared:,} images compared correlate above {ALIKE} with another: {worst(names)}",
        "one picture saved twice, at another quality, size or brightness; or neighbouring frames of one film",
        "keep one of each: they are memorised first, and no hash of the files finds them",
        suspects=tuple(Suspect((int(a), int(b)), "almost the same") for a, b in pairs),
    )


def check_leaked(data: DataSubject) -> Finding | None:
    """Held-out images that equal or nearly equal a training image, from 1 in 1,000; an error from 1 in 100."""
    if data.read.held_out is None:
        return None
    pairs, compared = data.leaks
    having = len(np.unique(pairs[:, 0]))
    if not having or having * 1000 < compared:
        return None
    names = [f"held-out #{a} and {data.names[b]}" for a, b in pairs[:5]]
    return Finding(
        "leaked",
        "some held-out images are in the training set",
        f"{having:,} of {compared:,} held-out images compared correlate above {ALIKE} with a training image: "
        f"{worst(names)}",
        "the split was drawn after images were copied or augmented, or film frames were split one by one",
        "split by source first; figures on these held-out images are too good",
        "error" if having * 100 >= compared else "warning",
    )


def check_constant(data: DataSubject) -> Finding | None:
    """Any image of one colour."""
    count, names = data.noted("constant")
    if not count:
        return None
    return Finding(
        "constant",
        "some images are of one colour",
        f"{count:,} of {len(data.read.rows):,}: {names}",
        "failed renderings or downloads, or crops of empty places",
        "delete them: the model learns to make them",
        suspects=data.examples("constant"),
    )


def check_class_imbalance(data: DataSubject) -> Finding | None:
    """A largest class of more than IMBALANCE times the smallest."""
    classes = data.read.summary.classes
    if len(classes) < 2 or max(classes.values()) <= IMBALANCE * min(classes.values()):
        return None
    least, most = min(classes, key=lambda name: classes[name]), max(classes, key=lambda name: classes[name])
    return Finding(
        "class imbalance",
        "classes are of very different size",
        f"{most} has {classes[most]:,} {data.read.modality.things}, {least} has {classes[least]:,}",
        "the data was collected as it came",
        f"add some of {least}, or take fewer of {most}: rare classes are drawn worse, and memorised sooner",
    )


def check_labels_partial(data: DataSubject) -> Finding | None:
    """Any image without a label where others have one, since then no label is used."""
    count, names = data.noted("without a label")
    if not count:
        return None
    return Finding(
        "labels partial",
        "the labels are not used",
        f"{count:,} of {len(data.read.rows):,} images have none: {names}",
        "a metadata.jsonl that names only some of the images, or images beside the class folders",
        "label these images, or take them away",
    )


def check_mislabelled(data: DataSubject) -> Finding | None:
    """Labels that a classifier trained on the other half of the images is sure are wrong.

    Where a classifier is surest (the half of the images with the highest probability), it is right on clean labels,
    while labels changed at random are wrong there as often as everywhere, since it never saw them. So the errors there
    are the share of wrong labels, and above DOUBTED it is said, if they are not much rarer than among all images
    (GOOD). Where images are too hard for the classifier (of CIFAR-10 it knows 42 %) they are, and nothing can be told:
    NothingToExamineError. A WEAK one is believed only where being surest, of a quarter, makes it hardly better (POOR),
    as of labels in another order than the images. Labels that a class always takes from one other look like a class and
    are not found. (The idea of confident learning, Northcutt et al. 2021.)
    """
    if data.read.labels is None or len(data.read.names) < 2:
        return None
    which, chances = data.judged
    given, seems, sure = data.read.labels[which], chances.argmax(1), chances.max(1)
    order, everywhere = np.argsort(-sure, kind="stable"), float((seems != given).mean())
    parts, stubborn = GOOD if 1 - everywhere >= WEAK else POOR
    top = order[: len(order) // parts]
    share = float((seems[top] != given[top]).mean())
    if share <= DOUBTED:
        return None
    if share < stubborn * everywhere:
        raise NothingToExamineError(
            f"a small classifier agrees with {1 - everywhere:.0%} of the labels: it is too weak to judge them"
        )
    classes = data.read.names
    wrong = [i for i in order if seems[i] != given[i]]
    named = [f"{data.names[which[i]]} labelled {classes[given[i]]}, seems {classes[seems[i]]}" for i in wrong[:5]]
    doubtful = [i for i in wrong if sure[i] >= sure[top[-1]]]
    return Finding(
        "mislabelled",
        "some labels are wrong",
        f"a classifier that did not see them disagrees with {share:.1%} of the labels it is surest of: {worst(named)}",
        "labels given by a careless hand or from file names, or images and labels in different orders",
        "look at these images and correct their labels",
        "error" if share > 0.1 else "warning",
        suspects=tuple(
            Suspect((int(which[i]),), f"labelled {classes[given[i]]}, seems {classes[seems[i]]} ({sure[i]:.0%})")
            for i in doubtful
        ),
    )


def check_too_few_images(data: DataSubject) -> Finding | None:
    """Fewer than FEW_IMAGES images."""
    count = len(data.read.rows)
    if count >= FEW_IMAGES:
        return None
    return Finding(
        "too few images",
        "there are few images to learn from",
        f"{count:,} images; below {FEW_IMAGES:,} a model repeats them instead of making new ones",
        "a network has thousands of numbers to keep each image in",
        "add images, mirror them (--data.flip) if left and right do not matter, and train for less time",
    )


def check_mixed_sizes(data: DataSubject) -> Finding | None:
    """Images of different sizes, of which some were resized."""
    count, names = data.noted("mixed sizes")
    if not count:
        return None
    size = sides(data.read.summary.shape[1:])
    return Finding(
        "mixed sizes",
        "images of different sizes are brought to one",
        f"{count:,} of {len(data.read.rows):,} were cropped and resized to {size}: {names}",
        "small ones become blurred, and what lay at the edges is lost",
        "choose the size with --data.size, as in 64 or 96x64, not above the smallest, keep portrait and landscape with"
        " --data.buckets, and crop by hand what must stay",
    )


def check_mostly_cut_off(data: DataSubject) -> Finding | None:
    """Images of which the crop to the common shape loses half or more, from 1 in 100."""
    count, names = data.noted("mostly cut off")
    if not count or count * 100 < len(data.read.rows):
        return None
    action = next(note.action for note in data.read.summary.findings if note.kind == "mostly cut off")
    return Finding(
        "mostly cut off",
        "most of some images is not trained on",
        f"{count:,} of {len(data.read.rows):,} lose half of their area or more; {action}: {names}",
        "they are much wider or higher than what they are brought to, and the crop is at the centre",
        "cut them into pieces about as wide as high first, of 2000×20 for example: magick 'DATA/*' -crop 20x20 +repage"
        " 'PIECES/%06d.png', then ebb train PIECES",
        "error" if count * 2 >= len(data.read.rows) else "warning",
    )


def clipped(pixels: NDArray[np.uint8], end: int) -> float:
    """The share of images [n, c, h, w] with a channel that is clipped at `end` (0 or 255), as `check_clipped` says."""
    near = slice(1, 1 + NEIGHBOURS) if end == 0 else slice(255 - NEIGHBOURS, 255)
    planes = pixels.reshape(-1, *pixels.shape[2:])
    rim = np.concatenate([planes[:, 0], planes[:, -1], planes[:, :, 0], planes[:, :, -1]], 1) == end
    flat = planes.reshape(len(planes), -1)
    found = np.zeros(len(planes), bool)
    for i in range(0, len(flat), 1024):
        part = flat[i : i + 1024]
        spots = part + 256 * np.arange(len(part))[:, None]
        shares = np.bincount(spots.ravel(), minlength=256 * len(part)).reshape(-1, 256) / part.shape[1]
        here, edge = shares[:, end], rim[i : i + 1024].mean(1)
        spike = (here >= CLIPPED_SHARE) & (here >= SPIKE * shares[:, near].mean(1))
        background = (edge >= 0.5) | (edge >= 1.5 * here)
        found[i : i + 1024] = spike & ~background & (here > shares[:, 1:255].max(1))
    return float(found.reshape(len(pixels), -1).any(1).mean())


def check_clipped(data: DataSubject) -> Finding | None:
    """Values cut off at black or white in more than CLIPPED_IMAGES of the images.

    A channel of an image is clipped at an end if at least CLIPPED_SHARE of its values lie there, SPIKE times as many as
    at each of the NEIGHBOURS levels beside it and more than at any level between the ends: values pile up where
    a scale was cut. It is background, and not clipped, if half of the image's rim lies there or the rim more than the
    rest. Images of fewer than LEVELS levels (drawn, or of few bits) have no neighbours to compare with.
    """
    pixels = data.read.rows
    looked = pixels[some(len(pixels), MOST_HELD_OUT)]
    if len(np.unique(looked)) < LEVELS:
        return None
    shares = {end: clipped(looked, end) for end in (0, 255)}
    end = max(shares, key=lambda each: shares[each])
    if shares[end] <= CLIPPED_IMAGES:
        return None
    return Finding(
        "clipped",
        f"values are cut off at {'black' if end == 0 else 'white'}",
        f"in {shares[end]:.0%} of the images level {end} holds at least {CLIPPED_SHARE:.0%} of a channel and {SPIKE} "
        "times as much as the levels beside it",
        "contrast or brightness was raised beyond the range, or floats were clipped when they were scaled to bytes",
        "make the images again from their source without raising contrast; what was cut off is lost",
    )


DATA_CHECKS: list[Check[DataSubject]] = [
    check_values_not_in_range,
    CORRUPT,
    EXACT_DUPLICATES,
    check_near_duplicates,
    check_leaked,
    check_constant,
    check_clipped,
    check_class_imbalance,
    check_labels_partial,
    *BESIDE_CHECKS,
    check_too_few_images,
    check_mixed_sizes,
    check_mostly_cut_off,
    *LOOK_CHECKS,
    check_mislabelled,
]
"""Every check of data, in the order in which they are made; the slowest last."""
