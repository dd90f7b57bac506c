"""Guides in text: how guidance towards a condition is bent, and what goes around it, in the order given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ebb.errors import UsageError
from ebb.guide.apg import Projected
from ebb.guide.cfg import Guide, cfg
from ebb.guide.interval import within
from ebb.guide.rescale import Rescaled
from ebb.guide.temperature import temperature
from ebb.guide.threshold import dynamic_threshold
from ebb.process.denoiser import Cond, Denoiser
from ebb.recipe.names import parse

M = TypeVar("M")


def plain(denoiser: Denoiser) -> Denoiser:
    """The guide that is none."""
    return denoiser


@dataclass(frozen=True)
class Interval:
    """What stands before it, only where low < ν ≤ high (`within`); Kynkäänniemi et al. 2024 have 0.28 and 2.9."""

    low: float = 0.28
    high: float = 2.9

    def __post_init__(self) -> None:
        self(plain)

    def __call__(self, guide: Guide) -> Guide:
        """`guide` between the two."""
        return within(guide, self.low, self.high)


@dataclass(frozen=True)
class Threshold:
    """`dynamic_threshold` of what stands before it."""

    share: float = 0.995
    limit: float = 1.0

    def __post_init__(self) -> None:
        self(plain)

    def __call__(self, guide: Guide) -> Guide:
        """`guide`, its answers brought back into the data's range."""
        around = dynamic_threshold(self.share, self.limit)
        return lambda denoiser: around(guide(denoiser))


@dataclass(frozen=True)
class Temperature:
    """The `temperature` of what stands before it."""

    tau: float = 0.9

    def __post_init__(self) -> None:
        self(plain)

    def __call__(self, guide: Guide) -> Guide:
        """`guide`, sharper or flatter."""
        around = temperature(self.tau)
        return lambda denoiser: around(guide(denoiser))


Bend = Rescaled | Projected
"""How classifier-free guidance goes from one answer beyond the other, in place of straight on."""

GUIDES: dict[str, Bend | Callable[[Guide], Guide]] = {
    "rescaled": Rescaled(),
    "projected": Projected(),
    "within": Interval(),
    "threshold": Threshold(),
    "temperature": Temperature(),
}
"""The guides that a request can name."""


def surrounded(texts: Sequence[str], guide: Guide) -> Guide:
    """`guide` inside those that `texts` name, each around those before it; what bends guidance says nothing of it.

    Raises UsageError as `parse` does.
    """
    for member in members(texts):
        if not isinstance(member, Bend):
            guide = member(guide)
    return guide


def guided(
    texts: Sequence[str], scale: float, null: Cond, towards: Callable[[float], Guide] | None = None
) -> list[Guide]:
    """Classifier-free guidance at `scale`, bent and surrounded by what `texts` name; [] where nothing guides.

    A model that is guided in another way is so by `towards(scale)`. Raises UsageError as `parse` does, for guidance
    that is bent twice, and for one that cannot be bent.
    """
    bends: dict[str, Bend] = named(texts, Rescaled, Projected)
    if len(bends) > 1:
        raise UsageError(f"guidance is bent once, and {' and '.join(bends)} would both", f"leave out {[*bends][-1]}")
    if towards is not None and bends:
        raise UsageError(f"{next(iter(bends))} bends a guidance that this model has not", "leave it out")
    guide = cfg(scale, null, *bends.values()) if towards is None or scale == 1 else towards(scale)
    return [surrounded(texts, guide)] if scale != 1 or texts else []


def members(texts: Sequence[str]) -> list[Bend | Callable[[Guide], Guide]]:
    """What the texts name, in their order."""
    return [parse(text, GUIDES, "guide") for text in texts]


def named(texts: Sequence[str], *kinds: type[M]) -> dict[str, M]:
    """Of what the texts name, those of some kinds, by their text."""
    return {text: member for text, member in zip(texts, members(texts), strict=True) if isinstance(member, kinds)}
