"""Between tensors and pictures: values in [−1, 1] to 8-bit pixels, grids, and PNG files that carry their settings."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ebb.errors import UsageError
from ebb.shapes import Float

LINES = 8
"""The most lines of a caption that a grid shows."""

SETTINGS = "ebb"
"""The PNG text chunk in which settings are stored, as JSON."""


def to_pixels(x: Float[Tensor, "n c h w"]) -> np.ndarray:
    """Values in [−1, 1] as uint8 [n, c, h, w], rounded; values outside are clipped."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


def picture(pixels: np.ndarray) -> Image.Image:
    """uint8 [c, h, w] as a picture, grey for one channel and RGB for three."""
    if pixels.shape[0] not in (1, 3):
        raise UsageError(f"a picture has 1 or 3 channels, got {pixels.shape[0]}", "write .npz instead")
    return Image.fromarray(pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0))


def grid(pixels: np.ndarray, columns: int | None = None, captions: Sequence[str] = ()) -> Image.Image:
    """uint8 [n, c, h, w] side by side, small ones enlarged by a whole factor, with a caption under each if given."""
    count, channels, height, width = pixels.shape
    columns = columns or math.ceil(math.sqrt(count))
    least = 64 if max(map(len, captions), default=0) <= 12 else 112  # a sentence needs room
    rows, zoom, gap = math.ceil(count / columns), max(1, least // max(height, width)), 2
    wide = width * zoom + gap
    lines = [textwrap.wrap(caption, wide // 6)[:LINES] for caption in captions]
    below = 12 * max(map(len, lines), default=0)
    tall = height * zoom + gap + below
    sheet = Image.new("L" if channels == 1 else "RGB", (columns * wide + gap, rows * tall + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for i in range(count):
        at = (gap + i % columns * wide, gap + i // columns * tall)
        one = picture(pixels[i]).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
        sheet.paste(one, at)
        if lines:
            pen.text((at[0], at[1] + height * zoom), "\n".join(lines[i]), fill="black", spacing=1)
    return sheet


def save_png(image: Image.Image, path: str | Path, settings: Mapping[str, Any]) -> None:
    """Write a PNG whose text chunk `ebb` holds `settings` as JSON (read it back with `settings_of`)."""
    info = PngInfo()
    info.add_text(SETTINGS, json.dumps(dict(settings)))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG", pnginfo=info)


def writable(out: Path) -> None:
    """Make the folder that `out` goes to; UsageError for a name that is no .png, .npz or folder."""
    if out.suffix not in (".png", ".npz", ""):
        raise UsageError(f"cannot write {out}", "end --out in .png for a grid, .npz for arrays, or name a folder")
    if out.is_dir() and out.suffix:
        raise UsageError(f"{out} is a folder", "name a file that ends in .png or .npz, or a folder without a suffix")
    (out.parent if out.suffix else out).mkdir(parents=True, exist_ok=True)


def settings_of(path: str | Path) -> dict[str, Any]:
    """The settings a PNG made by ebb carries; raises UsageError where there are none."""
    with Image.open(path, formats=["PNG"]) as image:
        text = getattr(image, "text", {}).get(SETTINGS)
    if text is None:
        raise UsageError(f"{path} carries no settings of ebb")
    settings: dict[str, Any] = json.loads(text)
    return settings
