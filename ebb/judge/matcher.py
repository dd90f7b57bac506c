"""Whether a picture shows what its caption says, judged by a matcher of pictures and texts trained on the data.

A picture and its caption become two points on a sphere that lie together, and apart from those of others (Radford et
al. 2021). Among the pictures of several captions, the nearest to a caption should be its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from ebb.data.pictures import batches, to_unit
from ebb.encode.text import Text, Vocabulary
from ebb.errors import DataError
from ebb.judge.features import BATCH, RATE, ImageClassifier
from ebb.networks.text_encoder import TextEncoder
from ebb.shapes import Float

WIDTH = 128
"""Of the text encoder, and of the sphere's space."""

LONGEST = 64
"""The most pieces of a caption that are read."""

AMONG = 20
"""Pictures that one is found among."""


class Matcher(nn.Module):
    """A small convolutional network for pictures, a small transformer for texts, and one scale."""

    def __init__(self, channels: int, reduction: int, text: Text) -> None:
        super().__init__()
        self.text = text
        self.pictures = ImageClassifier(channels, 2, reduction)
        self.texts = TextEncoder(len(text.vocabulary), text.length, WIDTH)
        self.scale = nn.Parameter(torch.tensor(2.3))  # e^2.3 = 10

    def of_pictures(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The points of pictures in [−1, 1]."""
        return F.normalize(self.pictures(x), dim=1)

    def of_texts(self, texts: Sequence[str]) -> Float[Tensor, "b d"]:
        """The points of texts."""
        return F.normalize(self.texts(self.text(texts)).pooled, dim=1)


@dataclass(frozen=True)
class Retrieval:
    """The share of `count` captions whose own picture is the nearest of `among`, by chance 1/among.

    `ceiling` is the same for the real pictures of these captions, where there are any: what the matcher allows.
    """

    count: int
    among: int
    share: float
    ceiling: float | None


def train_matcher(
    pixels: NDArray[np.uint8], captions: Sequence[str], *, seed: int = 0, seconds: float = 60.0
) -> Matcher:
    """A matcher of images uint8 [n, c, h, w] and their captions; those without a caption are left out.

    A batch's loss is the cross entropy of each picture among its texts and each text among its pictures. The work is
    counted as in `train_classifier`, so one seed gives one matcher; the global random state is left alone.
    Raises DataError for fewer than 2·AMONG captions.
    """
    some = [at for at, caption in enumerate(captions) if caption.strip()]
    if len(some) < 2 * AMONG:
        raise DataError(f"a matcher needs {2 * AMONG} captions to learn from, got {len(some)}")
    texts = [captions[at] for at in some]
    vocabulary = Vocabulary.learnt(texts)
    text = Text(vocabulary, min(LONGEST, max(len(vocabulary.pieces(one)) for one in texts)))
    reduction = max(1, min(pixels.shape[2:]) // 14)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        matcher = Matcher(pixels.shape[1], reduction, text)
    steps = max(1, int(min(seconds * RATE, 60 * len(texts)) / BATCH))
    _fit(matcher, torch.from_numpy(pixels[some]), texts, steps, reduction, torch.Generator().manual_seed(seed))
    return matcher.eval().requires_grad_(False)


def _fit(
    matcher: Matcher, images: Tensor, captions: list[str], steps: int, shift: int, generator: torch.Generator
) -> None:
    """AdamW under a one-cycle rate; every batch is shifted by up to `shift` in each direction, edges repeated."""
    rate, (height, width) = 2e-3, images.shape[-2:]
    optimiser = torch.optim.AdamW(matcher.parameters(), lr=rate, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps + 1, pct_start=0.2)
    for _ in range(steps):
        index = torch.randint(len(images), (BATCH,), generator=generator)
        down, right = torch.randint(0, 2 * shift + 1, (2,), generator=generator).tolist()
        padded = F.pad(to_unit(images[index]), (shift,) * 4, mode="replicate")
        shown = matcher.of_pictures(padded[:, :, down : down + height, right : right + width])
        texts = [captions[at] for at in index.tolist()]
        scores = matcher.scale.exp().clamp(max=100) * shown @ matcher.of_texts(texts).T
        own = torch.tensor([[one == other for other in texts] for one in texts], dtype=scores.dtype)
        target = own / own.sum(1, keepdim=True)  # pictures of one caption are as right as each other
        loss = (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()


def retrieval(
    matcher: Matcher,
    pixels: NDArray[np.uint8],
    captions: Sequence[str],
    real: NDArray[np.uint8] | None = None,
    *,
    among: int = AMONG,
) -> Retrieval:
    """How often a caption's own picture is the nearest among it and `among` − 1 of other captions.

    Not drawn but counted: the mean over all such choices. `real` are the true pictures of the captions. Raises
    DataError for fewer than `among` captions that differ.
    """
    if len(set(captions)) < among:
        raise DataError(f"one among {among} needs as many captions that differ, got {len(set(captions))}")
    ceiling = None if real is None else _own_nearest(matcher, real, captions, among)
    return Retrieval(len(captions), among, _own_nearest(matcher, pixels, captions, among), ceiling)


def _own_nearest(matcher: Matcher, pixels: NDArray[np.uint8], captions: Sequence[str], among: int) -> float:
    """The mean chance that a caption's own picture is the nearest, with `among` − 1 drawn from those of other captions.

    With w of n others farther than the own, that chance is C(w, among − 1)/C(n, among − 1).
    """
    with torch.inference_mode():
        shown = torch.cat([matcher.of_pictures(x) for x in batches(pixels)])
        scores = (matcher.of_texts(captions) @ shown.T).numpy()
    chances = list[float]()
    for at, (row, caption) in enumerate(zip(scores, captions, strict=True)):
        others = row[[other != caption for other in captions]]
        farther, drawn = int((others < row[at]).sum()), without_return(among - 1)
        chances.append(float(np.prod(np.maximum(farther - drawn, 0) / (len(others) - drawn))))
    return float(np.mean(chances))


def without_return(count: int) -> NDArray[np.int64]:
    """How many are gone before each of `count` is drawn."""
    return np.arange(count)
