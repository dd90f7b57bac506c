"""The pictures of sample.md and guide.md, from exact denoisers; tables.py draws them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as File

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import ebb
from ebb import testing
from ebb.guide.constrain import Ball
from ebb.guide.operators import mask
from ebb.process.moment import at
from ebb.sample.adaptive import follow

FINE = 2
"""Everything is drawn this much larger and then shrunk, which smooths it."""
WIDE = 1600
INK, PALE, LINE = "#222222", "#e4e4e8", "#9a9aa2"
COLOURS = ["#3465c0", "#d2691e", "#2a9d5c", "#b03060", "#7a52b8", "#8a7a10", "#1a98a6"]


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own."""
    return ImageFont.load_default(size * FINE)


def sheet(height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """White paper."""
    image = Image.new("RGB", (WIDE * FINE, height * FINE), "white")
    return image, ImageDraw.Draw(image)


def save(image: Image.Image, file: File) -> None:
    """Shrunk, in few colours."""
    small = image.resize((image.width // FINE, image.height // FINE), Image.Resampling.LANCZOS)
    small.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(file, optimize=True)


# --- guides -----------------------------------------------------------------------------------------------------------

PATH = ebb.Cosine()
POINTS = torch.tensor([[-1.1, 1.0], [0.1, 0.35], [1.2, 0.9], [-0.9, -0.7], [0.2, -1.2], [1.1, -0.5]]).double()
STDS = torch.tensor([0.2, 0.3, 0.2, 0.3, 0.2, 0.25], dtype=torch.float64)
UPPER = slice(0, 3)
COUNT, REACH, PANEL, GAP, TITLE = 600, 2.1, 388, 12, 62


def mixture(part: slice) -> ebb.Mixture:
    """Equal humps."""
    count = len(POINTS[part])
    return ebb.Mixture(PATH, POINTS[part], STDS[part], torch.full((count,), 1 / count, dtype=torch.float64))


@dataclass(frozen=True)
class Labelled:
    """Label 0: the upper three humps; 1: all six."""

    path: ebb.Path = PATH

    def __call__(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """The answer for each sample's label."""
        answers = torch.stack([mixture(UPPER)(x, t, {}), mixture(slice(0, 6))(x, t, {})])
        return answers[cond["label"], torch.arange(len(x))]


@dataclass(frozen=True)
class Upper:
    """p(upper | x_t)."""

    path: ebb.Path = PATH

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits."""
        humps = mixture(slice(0, 6)).joint(x, t)[0]
        return torch.stack([humps[:, UPPER].logsumexp(1), humps[:, 3:].logsumexp(1)], 1)


def panels() -> Iterator[tuple[str, ebb.Guide, int]]:
    """Title, guide, label."""
    null, one = {"label": torch.tensor([1])}, torch.tensor([0.3], dtype=torch.float64)
    yield "no guide, no label", lambda denoiser: denoiser, 1
    yield "label “upper”: cfg(1), off", ebb.cfg(1.0, null), 0
    yield "cfg(3)", ebb.cfg(3.0, null), 0
    yield "within(cfg(3), 0.1, 1.0)", ebb.within(ebb.cfg(3.0, null), 0.1, 1.0), 0

    def by_classifier(denoiser: ebb.Denoiser) -> ebb.Denoiser:
        return ebb.classifier(Upper())(mixture(slice(0, 6)))

    yield "classifier, scale 1", by_classifier, 0
    yield "temperature(0.3)", ebb.temperature(0.3), 1
    yield "mmps, seen: x = 0.3 ± 0.1", ebb.mmps(one, mask(torch.tensor([True, False])), 0.1), 1
    yield "constrain(Ball(0, 1))", ebb.constrain(Ball(0.0, 1.0)), 1


def under_guides(file: File) -> None:
    """600 samples of one seed under each guide, over the density of the data."""
    side = torch.linspace(-REACH, REACH, PANEL, dtype=torch.float64)
    places = torch.stack([side.repeat(PANEL), -side.repeat_interleave(PANEL)], 1)
    density = mixture(slice(0, 6)).log_density(places, torch.zeros(PANEL**2).double()).exp().reshape(PANEL, PANEL)
    shade = (255 - 60 * (density / density.max()).sqrt()).to(torch.uint8).numpy()
    back = Image.fromarray(shade).convert("RGB").resize((PANEL * FINE, PANEL * FINE), Image.Resampling.BICUBIC)
    image, draw = sheet(2 * (PANEL + TITLE) + GAP)
    noise, times = ebb.Noise.of(0, COUNT), ebb.GRIDS["log_snr"](PATH, 60)
    for index, (title, guide, label) in enumerate(panels()):
        left, top = (index % 4) * (PANEL + GAP) * FINE, (index // 4) * (PANEL + TITLE) * FINE
        cond = {"label": torch.full((COUNT,), label)}
        *_, last = ebb.trajectory(guide(Labelled()), ebb.DPMpp2M(), times, noise.start((2,)).double(), cond, noise)
        draw.text((left + 6 * FINE, top + 16 * FINE), title, INK, font(27))
        image.paste(back, (left, top + TITLE * FINE))
        for x, y in ((last.x / REACH * torch.tensor([1, -1]) + 1) * PANEL * FINE / 2).tolist():
            if 0 <= x < PANEL * FINE and 0 <= y < PANEL * FINE:
                dot(draw, left + x, top + TITLE * FINE + y, 2.6, COLOURS[0] if label else COLOURS[1])
        draw.rectangle(
            (left, top + TITLE * FINE, *(side + PANEL * FINE for side in (left, top + TITLE * FINE))), None, LINE
        )
    save(image, file)


def dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: str) -> None:
    """A filled circle."""
    r = radius * FINE
    draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)


# --- errors against calls ---------------------------------------------------------------------------------------------

SHOWN = ["ddim", "heun", "dpmpp_2m", "dpmpp_3m", "unipc", "exponential_ab", "adaptive"]
LEFT, TOP, RIGHT, HIGH = 130, 56, 1290, 700
CALLS, ERRORS = (4, 256), (1e-6, 1.0)


def humps() -> ebb.Mixture:
    """Three narrow ones on the line."""
    means, stds = torch.tensor([[-1.0], [0.2], [0.9]]).double(), torch.tensor([0.15, 0.1, 0.2], dtype=torch.float64)
    return ebb.Mixture(PATH, means, stds, torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64))


def curve(name: str) -> list[tuple[float, float]]:
    """(calls, root mean square error) from 256 noises to where the exact flow takes them."""
    data, solver = humps(), ebb.SOLVERS[name]
    x, end = torch.randn(256, 1, generator=torch.Generator().manual_seed(0)).double(), torch.ones(256).double()
    exact, found = testing.quantile_flow(data, x, end, torch.zeros(256).double()), []
    for share in range(15):
        if isinstance(solver, ebb.Adaptive):
            rule = ebb.Adaptive(10 ** (-1 - share / 2.5))
            there, attempts = follow(data, rule, at(PATH, 1.0), at(PATH, 0.0), x, {})
            found.append((float(attempts.calls.double().mean()), root(there - exact)))
            continue
        steps = round(4 * 2 ** (share * 3 / 7)) // (2 if name == "heun" else 1)
        *_, last = ebb.trajectory(data, solver, testing.graded(PATH, steps), x, {}, ebb.Noise.of(0, 256))
        found.append((2 * steps - 1 if name == "heun" else steps, root(last.x - exact)))
    return found


def root(error: Tensor) -> float:
    """Root mean square."""
    return float(error.pow(2).mean().sqrt())


def spot(calls: float, error: float) -> tuple[float, float]:
    """Where a figure lies on the sheet, both axes logarithmic."""
    along = math.log(calls / CALLS[0]) / math.log(CALLS[1] / CALLS[0])
    up = math.log(error / ERRORS[0]) / math.log(ERRORS[1] / ERRORS[0])
    return (LEFT + along * (RIGHT - LEFT)) * FINE, (HIGH - up * (HIGH - TOP)) * FINE


def axes(draw: ImageDraw.ImageDraw) -> None:
    """Lines at powers of two and of ten."""
    for power in range(2, 9):
        x, _ = spot(2**power, 1)
        draw.line((x, TOP * FINE, x, HIGH * FINE), PALE, FINE)
        draw.text((x, (HIGH + 12) * FINE), f"{2**power}", INK, font(24), "mt")
    for power in range(-6, 1):
        _, y = spot(4, 10.0**power)
        draw.line((LEFT * FINE, y, RIGHT * FINE, y), PALE, FINE)
        draw.text(((LEFT - 12) * FINE, y), f"{10.0**power:g}", INK, font(24), "rm")
    draw.text(((LEFT + RIGHT) / 2 * FINE, (HIGH + 50) * FINE), "denoiser calls", INK, font(26), "mt")
    draw.text((10 * FINE, 8 * FINE), "root mean square error", INK, font(26))


def errors(file: File) -> None:
    """The error of each solver against its calls."""
    image, draw = sheet(HIGH + 90)
    axes(draw)
    ends: list[tuple[float, str, str]] = []
    for name, colour in zip(SHOWN, COLOURS, strict=True):
        places = [
            spot(*figure) for figure in curve(name) if figure[1] >= ERRORS[0] and CALLS[0] <= figure[0] <= CALLS[1]
        ]
        draw.line(places, colour, 3 * FINE, "curve")
        for x, y in places:
            dot(draw, x, y, 5, colour)
        ends.append((places[-1][1], name, colour))
    named(draw, ends)
    save(image, file)


def named(draw: ImageDraw.ImageDraw, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right, in the order of the lines' ends."""
    free = 0.0
    for y, name, colour in sorted(ends):
        free = max(y, free)
        draw.text(((RIGHT + 24) * FINE, free), name, colour, font(26), "lm")
        free += 36 * FINE
