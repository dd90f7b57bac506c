"""Several classifiers of different seeds: figures that do not hang on one training, and a vote for one opinion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ebb.errors import DamagedError, UsageError
from ebb.judge.features import ImageClassifier, Labelled, fitted, hold_out, vote
from ebb.shapes import Float, Int
from ebb.store.write import replacing

KIND = "ebb classifiers"


class Ensemble(nn.Module):
    """Features of all `members`, side by side: `blocks` says which columns are whose, `vote` asks them all.

    A distance of an ensemble is the mean of its members' distances, each in its own columns: the members' features
    are different coordinates, and a covariance across them would need as many more images.
    """

    def __init__(self, members: Sequence[ImageClassifier]) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(members)
        self.name = f"{len(members)} classifiers"
        self.dimension = sum(member.dimension for member in members)

    @property
    def members(self) -> list[ImageClassifier]:
        """The classifiers, in the order of their columns."""
        return [cast(ImageClassifier, member) for member in self.classifiers]

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The features of images in [−1, 1], the members' one after the other."""
        return torch.cat([member(images) for member in self.members], dim=1)


def train_ensemble(
    pixels: NDArray[np.uint8],
    labels: Int[np.ndarray, " n"],
    classes: int,
    *,
    seeds: int = 3,
    seconds: float = 60.0,
    held_out: Labelled | None = None,
) -> tuple[Ensemble, float]:
    """Train classifiers of the seeds 0…seeds−1; returns them with the accuracy of their vote on images none has seen.

    As `train_classifier`, `seconds` for all of them together. They differ by their first weights, their order of
    images and their shifts; the images held out are the same for all. Raises UsageError below one seed, DataError for
    a wrong shape, type or label.
    """
    if seeds < 1:
        raise UsageError(f"an ensemble has at least one member, got seeds = {seeds}")
    seen, unseen = hold_out(pixels, labels, classes, held_out, seed=0)
    members = [fitted(seen, unseen[0], classes, seed=seed, seconds=seconds / seeds) for seed in range(seeds)]
    ensemble = Ensemble([classifier for classifier, _ in members])
    rows = np.concatenate([rows for _, rows in members], axis=1)
    return ensemble, float(np.mean(vote(ensemble, rows) == unseen[1]))


def save_ensemble(path: Path, ensemble: Ensemble, accuracy: float, fingerprint: str) -> None:
    """Write all members to one safetensors file, with the fingerprint of the data they were trained on."""
    first = ensemble.members[0]
    facts = {
        "kind": KIND,
        "members": str(len(ensemble.members)),
        "channels": str(first.channels),
        "classes": str(first.classes),
        "reduction": str(first.reduction),
        "accuracy": repr(accuracy),
        "fingerprint": fingerprint,
    }
    tensors = {name: tensor.contiguous() for name, tensor in ensemble.classifiers.state_dict().items()}
    with replacing(path) as partial:
        save_file(tensors, partial, metadata=facts)


def load_ensemble(path: Path, fingerprint: str) -> tuple[Ensemble, float] | None:
    """The ensemble saved at `path` with the accuracy of its vote, or None if there is none for this data (train one).

    A missing file, another fingerprint and the single classifier of an older version are ordinary. A file that cannot
    be read is not: it raises DamagedError, so that a broken disk is not covered up by a new training.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            if facts["kind"] == "ebb classifier" or (facts["kind"] == KIND and facts["fingerprint"] != fingerprint):
                return None
            sizes = int(facts["channels"]), int(facts["classes"]), int(facts["reduction"])
            with torch.random.fork_rng(devices=[]):
                ensemble = Ensemble([ImageClassifier(*sizes) for _ in range(int(facts["members"]))])
            ensemble.classifiers.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            accuracy = float(facts["accuracy"])
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise DamagedError(
            f"expected the classifiers of ebb in {path}, got: {error}", f"delete {path}; they will be trained again"
        ) from error
    return ensemble.eval().requires_grad_(False), accuracy
