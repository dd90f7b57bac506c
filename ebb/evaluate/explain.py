"""Where samples listen to each word of their prompt: a table of entropies, and a picture with a map for each word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from PIL import Image

from ebb.data.images import PICTURES, save_png, sheet, to_pixels
from ebb.errors import UsageError
from ebb.events import Done, Message, Overview, Progress, Work
from ebb.recipe.limits import whole
from ebb.system.sampler import Settings
from ebb.system.system import System, load
from ebb.understand.concepts import EVEN, Explanation, explain, listening

MOST = 4
"""Samples of a prompt that are explained, at most."""

AXES = (
    f"over places: how evenly a word is looked at from everywhere, 1 the largest entropy; above {EVEN:g} it says"
    " nothing of places.  over words: how evenly a place looks at all pieces of the prompt, the mean of all places"
)


def explained(
    run: str | Path, prompts: Sequence[str], out: Path, count: int, seed: int = 0, **settings: Unpack[Settings]
) -> Work[list[Explanation]]:
    """What samples of each prompt listen to, reported as a table, and drawn beside `out`, as NAME-words.png.

    Raises UsageError without prompts, and as `ebb.understand.concepts.explain` does.
    """
    if not prompts:
        raise UsageError("a prompt is what is explained, and there is none", 'give one: --text "a red circle"')
    system, found = load(run), list[Explanation]()
    listening(system)
    for number, prompt in enumerate(dict.fromkeys(prompts)):
        yield Progress("listening", number, len(prompts))
        one = explain(system, prompt, count=min(whole("n", count), MOST), seed=whole("seed", seed), **settings)
        found.append(one)
        yield Overview(f"{prompt}: over words {one.over_words:.2f}", rows_of(one), ("word", "over places", ""))
    yield Message(AXES)
    if system.modality == PICTURES:
        file = out.with_name(f"{out.stem}-words.png")
        save_png(with_maps(system, found), file, {"prompts": list(prompts), "entropies": entropies(found)})
        yield Message(f"where each word is looked at from: {file}")
    yield Done(str(run))
    return found


def rows_of(one: Explanation) -> tuple[tuple[str, ...], ...]:
    """A row for each word, those marked that are seen from everywhere."""
    return tuple((c.words, f"{c.entropy:.3f}", "from everywhere alike" * c.everywhere) for c in one.concepts)


def entropies(explanations: Sequence[Explanation]) -> list[dict[str, float]]:
    """Of each prompt, the entropy over places of each word."""
    return [{concept.words: round(concept.entropy, 4) for concept in one.concepts} for one in explanations]


def with_maps(system: System, explanations: Sequence[Explanation]) -> Image.Image:
    """A row for each sample: the sample, then a map for each word, the brightest place of each white."""
    columns = 1 + max(len(one.concepts) for one in explanations)
    tiles, captions = list[NDArray[np.uint8]](), list[str]()
    for one in explanations:
        maps = heat(one, system.shape)
        for sample, row in zip(to_pixels(one.samples), maps, strict=True):
            blank = [np.full_like(sample, 255)] * (columns - 1 - len(row))
            tiles += [sample, *row, *blank]
            captions += [one.prompt[:12], *(f"{c.words} {c.entropy:.2f}" for c in one.concepts), *[""] * len(blank)]
    return sheet(np.stack(tiles), columns, captions)


def heat(one: Explanation, shape: Sequence[int]) -> NDArray[np.uint8]:
    """The maps of an explanation as pictures [n, words, *shape], each from 0 to its largest value."""
    maps = one.maps.float() / one.maps.amax((-2, -1), keepdim=True).clamp(min=1e-12)
    fine = F.interpolate(maps, tuple(shape[1:]), mode="nearest")
    grey: NDArray[np.uint8] = (255 * fine).round().to(torch.uint8).cpu().numpy()
    return np.repeat(grey[:, :, None], shape[0], axis=2)
