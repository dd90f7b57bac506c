"""Classifiers of different seeds: figures that hang on one training as little as the work allows, and a vote."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ebb.errors import DamagedError, UsageError
from ebb.events import Progress, Work, to_the_end
from ebb.judge.features import ImageClassifier, Labelled, hold_out, vote
from ebb.judge.fit import Fitted, fit
from ebb.judge.possible import QUARTER, known
from ebb.judge.residual_classifier import ResidualClassifier
from ebb.shapes import Float, Int
from ebb.store.tensors import save_tensors
from ebb.store.write import replacing

Member: TypeAlias = ImageClassifier | ResidualClassifier

KINDS: dict[type[Member], str] = {ImageClassifier: "ebb classifiers", ResidualClassifier: "ebb judges 2"}
"""What a file says of its members' networks; judges of another version are not mixed with these but trained again."""

OLDEST = "ebb classifier"
"""What the one classifier of the first version says."""

MEMBERS = 3
"""The most classifiers of an ensemble; there are fewer where one takes all the work."""

SECONDS = 480.0
"""The most work, in seconds of two CPU cores."""

RATE = 1900
"""Images of about 32×32 that two CPU cores (AVX2) learn from in a second."""

MEASURED = 2000
"""Images, about, that say what data this is."""

PLACES = 16 * 16
"""The places that the first convolution leaves of such an image."""

OWN = 0.8
"""The share of the work that is left where a classifier of a quarter of the images is trained too."""

TRAINING = "training a classifier of the data"

TIMED = 3000
"""Images that a few updates are timed on."""

WARM, EVERY = 2, 8
"""Updates that are not timed, and those from one report to the next."""


@dataclass(frozen=True)
class Trained:
    """How classifiers were trained: the most work they might have, and, of data of one's own, the accuracy of one that
    saw a quarter of the images (`ebb.judge.possible.standing`)."""

    seconds: float = 0.0
    fewer: float | None = None


class Ensemble(nn.Module):
    """Features of all `members`, side by side: `blocks` says which columns are whose, `vote` asks them all.

    A distance of an ensemble is the mean of its members' distances, each in its own columns: the members' features
    are different coordinates, and a covariance across them would need as many more images.
    """

    def __init__(self, members: Sequence[Member], trained: Trained = Trained()) -> None:
        super().__init__()
        self.trained = trained
        self.classifiers = nn.ModuleList(members)
        self.name = f"{len(members)} classifier{'s' * (len(members) > 1)}"
        self.dimension = sum(member.dimension for member in members)

    @property
    def members(self) -> list[Member]:
        """The classifiers, in the order of their columns."""
        return [cast(Member, member) for member in self.classifiers]

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The features of images in [−1, 1], the members' one after the other."""
        return torch.cat([member(images) for member in self.members], dim=1)


def taught(
    pixels: NDArray[np.uint8],
    labels: Int[np.ndarray, " n"],
    classes: int,
    *,
    seeds: int = MEMBERS,
    seconds: float = SECONDS,
    held_out: Labelled | None = None,
) -> Work[tuple[Ensemble, float]]:
    """Train classifiers of the seeds 0, 1, …; the result is them with the accuracy of their vote on unseen images.

    The first is trained until it learns no more or has had all the work of `seconds` (counted in images of their size,
    not timed: one data set gives one ensemble), the others as long as the first, as many of `seeds` as the work
    allows. They differ by first weights, order of images, crops; the images held out are the same for all (`hold_out`).
    Of data that is not published one more sees a quarter of it (`Trained`). Raises UsageError below one seed, DataError
    for a wrong shape, type or label.
    """
    if seeds < 1:
        raise UsageError(f"an ensemble has at least one member, got seeds = {seeds}")
    seen, unseen = hold_out(pixels, labels, classes, held_out, seed=0)
    own = known(pixels.shape[1:], classes, means(pixels)) is None
    most, members = work(pixels.shape[2:], seconds), list[Fitted]()
    first = yield from followed(fit(seen, unseen, classes, seed=0, most=int(most * (OWN if own else 1))), TRAINING)
    members.append(first)
    fewer = None
    if own:
        some = -(-len(seen[1]) // QUARTER)
        short = fit(
            (seen[0][:some], seen[1][:some]), unseen, classes, seed=0, most=-(-first.shown // QUARTER), steady=True
        )
        fewer = (yield from followed(short, f"{TRAINING}, with a quarter of it")).accuracy
    while len(members) < seeds and (len(members) + 1) * first.shown <= most * (OWN if own else 1):
        another = fit(seen, unseen, classes, seed=len(members), most=first.shown, steady=True)
        members.append((yield from followed(another, f"{TRAINING}, once more")))
    ensemble = Ensemble([one.classifier for one in members], Trained(seconds, fewer))
    rows = np.concatenate([one.rows for one in members], axis=1)
    return ensemble, float(np.mean(vote(ensemble, rows) == unseen[1]))


train_ensemble = to_the_end(taught)
"""`taught` as a function, for who does not read the events."""


def means(pixels: NDArray[np.uint8]) -> list[float]:
    """The mean of each channel, in [−1, 1], of some images."""
    some = pixels[:: max(1, len(pixels) // MEASURED)]
    return [float(value) for value in some.mean(axis=(0, 2, 3)) / 127.5 - 1]


def work(sides: Sequence[int], seconds: float) -> int:
    """The images of these sides that two CPU cores learn from in so many seconds: what it costs grows with the places
    that the first convolution leaves."""
    reduction = max(1, min(sides) // 14)
    places = (sides[0] // reduction) * (sides[1] // reduction)
    return max(1, int(seconds * RATE * PLACES / places))


def pace(pixels: NDArray[np.uint8], labels: NDArray[np.int64], classes: int) -> float:
    """How fast this machine trains such classifiers now, 1 being RATE: a few updates, timed, of one that is thrown
    away."""
    some = pixels[:TIMED], labels[:TIMED]
    training = fit(some, some, classes, seed=0, most=10**9, steady=True)
    shown = began = 0.0
    for update, (so_far, _) in enumerate(training, 1):
        if update == WARM:
            shown, began = so_far, time.perf_counter()
        if update == WARM + EVERY:
            break
    training.close()
    return (so_far - shown) / (time.perf_counter() - began) / work(pixels.shape[2:], 1.0)


def followed(training: Generator[tuple[int, int], None, Fitted], what: str) -> Work[Fitted]:
    """What a training gives, its updates reported with the seconds that are left, once some were timed."""
    began, updates = time.perf_counter(), 0
    while True:
        try:
            shown, most = next(training)
        except StopIteration as end:
            result: Fitted = end.value
            return result
        updates += 1
        if updates == WARM:
            began, first = time.perf_counter(), shown
        elif updates > WARM and updates % EVERY == 0:
            left = (time.perf_counter() - began) / (shown - first) * (most - shown)
            yield Progress(what, shown, most, left)


def save_ensemble(path: Path, ensemble: Ensemble, accuracy: float, fingerprint: str) -> None:
    """Write all members to one safetensors file, with the fingerprint of the data they were trained on."""
    first = ensemble.members[0]
    facts = {
        "kind": KINDS[type(first)],
        "members": str(len(ensemble.members)),
        "channels": str(first.channels),
        "classes": str(first.classes),
        "reduction": str(first.reduction),
        "accuracy": repr(accuracy),
        "seconds": repr(ensemble.trained.seconds),
        "fewer": repr(ensemble.trained.fewer),
        "fingerprint": fingerprint,
    }
    with replacing(path) as partial:
        save_tensors(ensemble.classifiers.state_dict(), partial, facts)


def load_ensemble(path: Path, fingerprint: str, of: type[Member] = ResidualClassifier) -> tuple[Ensemble, float] | None:
    """The ensemble saved at `path` with the accuracy of its vote, or None if there is none for this data (train one).

    A missing file, another fingerprint and members of another kind, as an older version had them, are ordinary. A file
    that cannot be read is not: it raises DamagedError, so that a broken disk is not covered up by a new training.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            kind = facts["kind"]
            if kind in {OLDEST, *KINDS.values()} - {KINDS[of]} or (
                kind == KINDS[of] and facts["fingerprint"] != fingerprint
            ):
                return None
            sizes = int(facts["channels"]), int(facts["classes"]), int(facts["reduction"])
            fewer = facts.get("fewer", "None")
            trained = Trained(float(facts.get("seconds", 0.0)), None if fewer == "None" else float(fewer))
            with torch.random.fork_rng(devices=[]):
                ensemble = Ensemble([of(*sizes) for _ in range(int(facts["members"]))], trained)
            ensemble.classifiers.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            accuracy = float(facts["accuracy"])
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise DamagedError(
            f"expected the classifiers of ebb in {path}, got: {error}", f"delete {path}; they will be trained again"
        ) from error
    return ensemble.eval().requires_grad_(False), accuracy
