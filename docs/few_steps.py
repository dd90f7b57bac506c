"""The picture of few.md: whom every few-step target asks, on the exact flow of a mixture; tables.py draws it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path as File

import torch
from drawings import COLOURS, FINE, GAP, INK, LINE, dot, font, save, sheet
from PIL import ImageDraw
from torch import Tensor

import ebb
from ebb import testing
from ebb.process.flow_map import Toward, landed, shares
from ebb.recipe.names import parse
from ebb.train.objectives.map_matching import Noised, Target
from ebb.train.objectives.methods import METHODS

PATH = ebb.Linear()
COLUMNS, WIDTH, HEIGHT, TITLE, REACH = 3, 522, 330, 62, 1.8
START, FROM, TO = 0.28, 0.9, 0.2
"""x, t and s of the way that is asked for."""
COARSE = {"consistency": "consistency(q=4)"}
"""What can be seen only where it goes in coarser steps."""
MODEL, TEACHER, TARGET = COLOURS[0], COLOURS[1], COLOURS[2]


def mixture() -> ebb.Mixture:
    """Two humps on the line."""
    means, stds = torch.tensor([[-1.0], [1.0]]).double(), torch.tensor([0.15, 0.25], dtype=torch.float64)
    return ebb.Mixture(PATH, means, stds, torch.tensor([0.45, 0.55], dtype=torch.float64))


@dataclass
class Asked:
    """The exact flow map and the exact denoiser of a mixture, which remember where they were asked: (x, t, x_s, s)."""

    path: ebb.Path = PATH
    model: list[tuple[float, float, float, float]] = field(default_factory=list)
    teacher: list[tuple[float, float, float, float]] = field(default_factory=list)

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, cond: ebb.Cond) -> Tensor:
        """The x0 whose jump lands where the flow does."""
        end = testing.quantile_flow(mixture(), x, t, s)
        self.model.append((float(x[0]), float(t[0]), float(end[0]), float(s[0])))
        return mixture()(x, t, cond) if bool((s == t).all()) else landed(PATH, x, end, t, s)

    def toward(self, s: float) -> ebb.Denoiser:
        """With its destination fixed."""
        return Toward(self, s)

    def denoiser(self) -> Denoising:
        """The denoiser alone."""
        return Denoising(self)


@dataclass(frozen=True)
class Denoising:
    """E[x0 | x_t]; it is drawn as the short way on which its velocity leads."""

    asked: Asked
    path: ebb.Path = PATH

    def __call__(self, x: Tensor, t: Tensor, cond: ebb.Cond) -> Tensor:
        """x̂0."""
        x0, s = mixture()(x, t, cond), (t - STUB).clamp(min=0)
        self.asked.teacher.append((float(x[0]), float(t[0]), float(PATH.jump(x, x0, t, s)[0]), float(s[0])))
        return x0


STUB = 0.1


def panel(draw: ImageDraw.ImageDraw, corner: tuple[float, float], name: str, target: Target) -> None:
    """The flow, whom the target asks, and where it says that the model should land."""

    def place(x: float, t: float) -> tuple[float, float]:
        across = (1 - float(shares(PATH, torch.tensor([t])))) * WIDTH
        return (corner[0] + across) * FINE, (corner[1] + TITLE + (1 - x / REACH) * HEIGHT / 2) * FINE

    times = torch.linspace(0.999, 0.0, 41, dtype=torch.float64)
    for begin in torch.linspace(-1.7, 1.7, 13, dtype=torch.float64).reshape(-1, 1, 1):
        x = torch.cat([testing.quantile_flow(mixture(), begin, times[:1], t.reshape(1)) for t in times])
        draw.line([place(float(each), float(t)) for each, t in zip(x, times, strict=True)], LINE, FINE)
    x, t, s = (torch.tensor([each], dtype=torch.float64) for each in (START, FROM, TO if target.anywhere else 0.0))
    asked = Asked()
    x0 = torch.full((1, 1), 0.9, dtype=torch.float64)
    eps = (x[:, None] - PATH.alpha(t) * x0) / PATH.sigma(t)
    found = target(asked, Noised(x0, eps, x[:, None], t, s, {}), asked.denoiser())
    end = PATH.jump(x[:, None], found, t, s)
    for ways, colour in ((asked.model, MODEL), (asked.teacher, TEACHER)):
        for from_x, from_t, to_x, to_t in ways:
            if from_t == FROM and from_x != START:
                continue  # a sample that has arrived and waits for others
            draw.line([place(from_x, from_t), place(to_x, to_t)], colour, 2 * FINE)
            dot(draw, *place(from_x, from_t), 4, colour)
    draw.line([place(START, FROM), place(float(end), float(s))], TARGET, 4 * FINE)
    for where, radius in (((START, FROM), 6), ((float(end), float(s)), 6)):
        dot(draw, *place(*where), radius, TARGET)
    left, top = corner[0] * FINE, (corner[1] + TITLE) * FINE
    draw.rectangle((left, top, left + WIDTH * FINE, top + HEIGHT * FINE), None, LINE)
    draw.text((left + 6 * FINE, corner[1] * FINE + 16 * FINE), name, INK, font(27))


def targets(file: File) -> None:
    """A panel for each method: noise on the left, data on the right."""
    rows = -(-len(METHODS) // COLUMNS)
    image, draw = sheet(rows * (HEIGHT + TITLE) + GAP)
    for index, name in enumerate(METHODS):
        row, column = divmod(index, COLUMNS)
        target = parse(COARSE.get(name, name), METHODS, "method")
        panel(draw, (column * (WIDTH + GAP), row * (HEIGHT + TITLE)), COARSE.get(name, name), target)
    save(image, file)
