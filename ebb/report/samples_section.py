"""The parts of a run's page that show pictures: its samples, and the samples closest to training images."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from ebb.report.page import number, table
from ebb.report.plot import Line, plot

Facts = Mapping[str, Any]

IMAGE_BYTES = 2_000_000
"""Of embedded images; base64 makes it 2.7 MB, and the page stays below 3.5."""

STRIP = 6


class Album:
    """Pictures for one page, as long as there is room for them."""

    def __init__(self, room: int = IMAGE_BYTES) -> None:
        self.room, self.omitted = room, 0

    def picture(self, path: Path, caption: str) -> str:
        """The picture with its caption, inside the page; "" if it is absent or, then counted, too large."""
        return self.embedded(path.read_bytes(), caption) if path.is_file() and path.stat().st_size else ""

    def drawn(self, image: Image.Image, caption: str) -> str:
        """The same of a picture in memory."""
        made = BytesIO()
        image.save(made, format="PNG", optimize=True)
        return self.embedded(made.getvalue(), caption)

    def embedded(self, png: bytes, caption: str) -> str:
        """The same of the bytes of a PNG."""
        if len(png) > self.room:
            self.omitted += 1
            return ""
        self.room -= len(png)
        code, text = base64.b64encode(png).decode("ascii"), escape(caption)
        return f'<figure><img alt="{text}" src="data:image/png;base64,{code}"><figcaption>{text}</figcaption></figure>'


def samples(folder: Path, album: Album) -> str:
    """The last sheet large with the real images beside it, and evenly spaced earlier ones, as far as size allows."""
    sheets = {int(m[1]): path for path in folder.glob("step-*.png") if (m := re.fullmatch(r"step-(\d+)", path.stem))}
    steps = sorted(sheets)
    earlier = [steps[round(i * (len(steps) - 1) / STRIP)] for i in range(STRIP)] if len(steps) > STRIP else steps[:-1]
    large = [album.picture(sheets[s], f"samples at step {s:,}") for s in steps[-1:]]
    real = next((folder / name for name in ("data-sheet.png", "data-grid.png") if (folder / name).is_file()), None)
    large += [] if real is None else [album.picture(real, "real images")]
    small = [album.picture(sheets[s], f"step {s:,}") for s in earlier]
    return (
        (f'<div class="pair">{"".join(large)}</div>\n' if any(large) else "")
        + (f'<div class="strip">{"".join(small)}</div>\n' if any(small) else "")
        + (f'<p class="soft">Too large for this page: {album.omitted} more in samples/.</p>' if album.omitted else "")
    )


def memorisation(facts: Facts, run: Path, album: Album) -> str:
    """The verdict, how near samples and unseen images lie to training images, and the closest pairs."""
    if not facts:
        return ""
    rows = [
        (
            space["space"],
            f"{space['closer']:.1%}",
            f"{space['low']:.1%} … {space['high']:.1%}",
            f"{space['expected']:.1%}",
            f"{space['beyond']:.1%}",
        )
        for space in facts["spaces"]
    ]
    drawn = [nearness(space) for space in facts["spaces"]]
    counts = (
        f"{number(facts['n_samples'])} samples and {number(facts['n_held_out'])} unseen images, each with the nearest"
        f" of {number(facts['n_train'])} training images."
    )
    closest = album.picture(
        run / "evaluation" / "closest.png",
        "The closest pairs: samples, and below each the training image nearest to it",
    )
    return (
        f"<p><b>{escape(str(facts['verdict']))}</b></p>\n"
        f'<p class="soft">{escape(counts)}</p>\n'
        + table(
            ("nearness in", "nearer than 1 % of unseen images", "95 % interval", "expected", "nearer than all"), rows
        )
        + (f'<div class="grid">{"".join(drawn)}</div>\n' if any(drawn) else "")
        + (f'<div class="closest">{closest}</div>\n' if closest else "")
    )


def nearness(space: Facts) -> str:
    """How many images are nearer than so much, for samples and for unseen images: their percentiles as two lines."""

    def line(name: str, called: str, colour: str) -> Line:
        values = space[name]
        return Line(called, [(float(x), 100 * i / (len(values) - 1)) for i, x in enumerate(values)], colour)

    lines = [line("held_out", "unseen images", "var(--two)"), line("samples", "samples", "var(--mark)")]
    across = "distance to the nearest training image, over that to the next ones"
    return plot(lines, f"Images nearer than this in {space['space']}, %", across=across)
