"""Can a classifier tell samples from real images? And can one that has seen samples alone read real ones?"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from ebb.judge.distances import Array
from ebb.judge.features import BATCH, RATE, Labelled, train_classifier

WIDTH, EPOCHS = 64, 20

WORK = 12_000
"""Images that the training on samples is shown: each ten times at the most, where there are few."""

MOST = 5000
"""Images of each set that are looked at."""

NEEDS = 1000
"""As many are tested: the 95 % interval is then ±3 % wide."""

EACH = 100
"""Images of each class that a classifier needs to be trained on."""

LEAST = 20


def two_sample_accuracy(samples: Array, real: Array, *, seed: int) -> tuple[float, int]:
    """(accuracy, rows tested) of a small network that tells rows of `samples` [n, d] from rows of `real` [m, d].

    The classifier two-sample test (Lopez-Paz & Oquab 2017, § 3): equally many of both, at most 5,000, are drawn by
    `seed`; a network of one hidden layer learns on one half and is tested on the other. 0.5 is what guessing gives,
    and what two sets of one distribution give on average whatever the network learns; 1 is a difference in every
    row. Columns are brought to mean 0 and deviation 1 over the half that is learnt. The global random state is left
    alone.
    """
    draw, count = np.random.default_rng(seed), min(len(samples), len(real), MOST)
    both = np.stack([rows[draw.permutation(len(rows))[:count]] for rows in (samples, real)])
    learnt, tested = both[:, : count // 2], both[:, count // 2 :]
    mean, deviation = learnt.mean(axis=(0, 1)), learnt.std(axis=(0, 1))
    deviation[deviation == 0] = 1
    (x, y), (asked, truth) = (
        (
            torch.from_numpy((rows - mean) / deviation).float().flatten(0, 1),
            torch.arange(2).repeat_interleave(len(rows[0])),
        )
        for rows in (learnt, tested)
    )
    network = _fitted(x, y, seed)
    with torch.inference_mode():
        hits = network(asked).argmax(dim=1) == truth
    return float(hits.double().mean()), len(truth)


def _fitted(x: torch.Tensor, y: torch.Tensor, seed: int) -> nn.Module:
    """A network d → 64 → 2 after 20 passes of AdamW over the rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(x.shape[1], WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2))
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x), BATCH):
            index = order[start : start + BATCH]
            optimiser.zero_grad()
            F.cross_entropy(network(x[index]), y[index]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return network


def taught(learnt: Labelled, test: Labelled, classes: int, *, seed: int) -> tuple[float, int]:
    """(accuracy on real images, images tested) of a classifier that has seen the images and labels of `learnt` alone.

    With samples and the labels they were asked for: the classification accuracy score of Ravuri & Vinyals 2019, § 3.
    It falls where samples do not show their label, and where they miss what real images of a class look like.
    `test` are real images, of which the first 5,000 are asked, and their labels.

    Raises DataError as `train_classifier` does.
    """
    tested = test[0][:MOST], test[1][:MOST]
    seconds = min(WORK, 10 * len(learnt[1])) / RATE
    _, accuracy = train_classifier(*learnt, classes, seed=seed, seconds=seconds, held_out=tested)
    return accuracy, len(tested[1])
