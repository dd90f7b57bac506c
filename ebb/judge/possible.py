"""How far a judge's accuracy lies from what is possible on its data: as published, or by its own learning curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NEAR = 0.03
"""Means of channels, in [−1, 1], that lie so near to those of a known data set are its own."""

COARSE = 0.15
"""A judge that lies so far below what is possible misses much of what its distances are to see."""

QUARTER = 4
"""The images of a classifier beside the judge are fewer by this factor: two points of a learning curve."""


@dataclass(frozen=True)
class Published:
    """A published data set: the shape of its images, its classes, the mean of each channel in 0…1, and the share of its
    test images that a network was right about which saw its training images alone."""

    name: str
    shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...]
    possible: float
    source: str
    judged: float | None = None
    """the share that ebb's own judge is right about, with all its work"""

    def is_it(self, shape: Sequence[int], classes: int, mean: Sequence[float]) -> bool:
        """Whether images of such a shape, classes and mean (in [−1, 1]) are of this set."""
        alike = tuple(shape) == self.shape and classes == self.classes and len(mean) == len(self.mean)
        return alike and all(abs(a - (2 * b - 1)) < NEAR for a, b in zip(mean, self.mean, strict=True))


KNOWN = (
    Published("MNIST", (1, 28, 28), 10, (0.1307,), 0.998, "Cireşan et al. 2012"),
    Published("Fashion-MNIST", (1, 28, 28), 10, (0.2860,), 0.964, "Zhong et al. 2020"),
    Published("KMNIST", (1, 28, 28), 10, (0.1918,), 0.988, "Clanuwat et al. 2018"),
    Published("scikit-learn's digits", (1, 8, 8), 10, (0.3041,), 0.99, "a support vector machine"),
    Published("CIFAR-10", (3, 32, 32), 10, (0.4914, 0.4822, 0.4465), 0.974, "DeVries & Taylor 2017", judged=0.84),
    Published("CIFAR-100", (3, 32, 32), 100, (0.5071, 0.4865, 0.4409), 0.848, "DeVries & Taylor 2017"),
    Published("SVHN", (3, 32, 32), 10, (0.4377, 0.4438, 0.4728), 0.987, "DeVries & Taylor 2017"),
)


def known(shape: Sequence[int], classes: int, mean: Sequence[float]) -> Published | None:
    """The published data set of such images, mean in [−1, 1]; None for data of one's own."""
    return next((one for one in KNOWN if one.is_it(shape, classes, mean)), None)


@dataclass(frozen=True)
class Standing:
    """A judge's accuracy on unseen images, what is possible on this data, and where that is from.

    Of data of one's own `fewer` is the accuracy of one that learnt from a quarter of the images. Where errors fall as a
    power of the number of images (Hestness et al. 2017, eq. 1), four times as many leave error²/error(quarter).
    """

    accuracy: float
    possible: float | None
    says: str

    @property
    def coarse(self) -> bool:
        """Whether so much is missing that its distances see little of what tells images apart."""
        return self.possible is not None and self.possible - self.accuracy > COARSE


def standing(accuracy: float, fewer: float | None, of: Published | None) -> Standing:
    """Where a judge of this accuracy stands: beside what is published of the data set, or on its own learning curve."""
    right = f"the judge is right for {accuracy:.1%} of unseen images"
    if of is not None:
        says = f"{right}; {of.possible:.1%} is possible on {of.name} from its own images ({of.source})"
        return Standing(accuracy, of.possible, says)
    if fewer is None:
        return Standing(accuracy, None, f"{right}; what is possible on this data is not known")
    possible = ahead(accuracy, fewer)
    curve = f"with a quarter of the images {fewer:.1%}, so with four times as many about {possible:.1%}"
    return Standing(accuracy, possible, f"{right}; {curve}")


def ahead(accuracy: float, fewer: float) -> float:
    """The accuracy from four times the images, by a power law through that from all of them and from a quarter."""
    error, before = 1 - accuracy, 1 - fewer
    return accuracy if before <= error else 1 - error**2 / before
