"""The parts of a page about data that show what the crop leaves out, and which captions were found."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from functools import partial
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ebb.data.dataset import Dataset
from ebb.data.originals import Originals, whole
from ebb.data.sources import locate
from ebb.data.splits import Split
from ebb.doctor.data_facts import UNSEEN, cropped
from ebb.doctor.data_subject import DataSubject, some
from ebb.report.data_examples import chosen
from ebb.report.page import table
from ebb.report.samples_section import Album
from ebb.store import memory

SIDE = 160
"""The longer side of a picture that is shown with its crop, in pixels."""

WORST, OTHERS = 6, 6
"""Pictures that are shown with their crop: those that lose most, and some of the others that lose any."""

CAPTIONS = 12
"""Pictures that are shown with their caption, and without."""


def crops(data: DataSubject, album: Album) -> str:
    """Pictures as they are, what the crop leaves out of them darkened; "" where nothing is lost."""
    dataset = data.read
    if dataset.originals is None:
        return ""
    shares = dataset.originals.cut(dataset.summary.shape)
    losing = np.flatnonzero(shares >= UNSEEN)
    if not len(losing):
        return ""
    worst = losing[np.argsort(-shares[losing], kind="stable")[:WORST]]
    others = np.setdiff1d(losing, worst)
    rows = [*worst.tolist(), *others[some(len(others), OTHERS)].tolist()]
    split = split_of(data.name)
    drawn = [framed(split, dataset.originals, row, dataset.summary.shape, album, float(shares[row])) for row in rows]
    said = f"{cropped(dataset)}. What is darkened is not trained on; the first lose most."
    return f'<p>{escape(said)}</p>\n<div class="suspects">{"".join(drawn)}</div>\n'


def split_of(name: str) -> Split:
    """The files of some data."""
    return locate(name, defaultdict(list), partial(memory.allocate, cache=Path(tempfile.gettempdir()))).train


def framed(
    split: Split, originals: Originals, row: int, shape: tuple[int, ...], album: Album, share: float
) -> str:  # fmt: skip
    """One picture with its crop; "" where it cannot be opened any more."""
    pixels = whole(split, originals.names[row], originals.sizes[row].tolist(), SIDE)
    if pixels is None:
        return ""
    return album.drawn(shaded(pixels, shape), f"{originals.names[row]}: {share:.0%} cut off")


def shaded(pixels: NDArray[np.uint8], shape: tuple[int, ...]) -> Image.Image:
    """A picture [3, h, w] with what lies outside the centre crop to [c, h, w] darkened, and a frame around the rest."""
    height, width = pixels.shape[1:]
    scale = min(height / shape[1], width / shape[2])
    tall, wide = round(shape[1] * scale), round(shape[2] * scale)
    top, left = (height - tall) // 2, (width - wide) // 2
    dark = pixels // 4 + 20
    inside = (slice(None), slice(top, top + tall), slice(left, left + wide))
    dark[inside] = pixels[inside]
    image = Image.fromarray(dark.transpose(1, 2, 0).astype(np.uint8))
    ImageDraw.Draw(image).rectangle((left, top, left + wide - 1, top + tall - 1), outline="#c8553d", width=2)
    return image


def captions(dataset: Dataset, album: Album) -> str:
    """How much of every source of captions, labels and numbers could be used; pictures with captions and without."""
    s = dataset.summary
    rows = [
        (
            m.condition,
            m.source,
            f"{m.used:,} of {m.count:,} {m.what}",
            ", ".join(m.examples) or "—",
            m.advice * m.little,
        )
        for m in s.matches
    ]
    matched = table(("", "where", "used", "not used", "what to do"), rows)
    if dataset.captions is None:
        return matched
    texts = dataset.captions
    having = np.flatnonzero([bool(text) for text in texts])
    without = np.flatnonzero([not text for text in texts])
    lengths = "{} to {} letters".format(*s.caption_lengths)
    told = f"{len(having):,} of {s.count:,} have a caption, {s.captions_distinct:,} different, of {lengths}."
    return (
        matched
        + f"<p>{escape(told)}</p>\n"
        + "".join(
            row(dataset, album, rows, title)
            for rows, title in ((having, "with their captions"), (without, "without a caption"))
            if len(rows)
        )
    )


def row(dataset: Dataset, album: Album, rows: NDArray[np.int64], title: str) -> str:
    """Some examples, each with its caption or its name below it."""
    texts, names = dataset.captions or (), dataset.originals.names if dataset.originals else ()
    shown = rows[some(len(rows), CAPTIONS)].tolist()
    drawn = [album.drawn(chosen(dataset, [at], 1), texts[at] or (names[at] if names else f"#{at}")) for at in shown]
    return f'<h3>{escape(title.capitalize())}</h3><div class="suspects">{"".join(drawn)}</div>\n'
