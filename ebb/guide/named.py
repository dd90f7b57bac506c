"""Guides in text: how guidance towards a condition is bent, and what goes around it, in the order given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ebb.errors import UsageError
from ebb.guide.apg import Projected
from ebb.guide.autoguide import autoguide
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


@dataclass(frozen=True)
class Auto:
    """Guidance away from an earlier average of the model's own weights, and not from no condition (`autoguide`)."""


Bend = Rescaled | Projected
"""How guidance goes from one answer beyond the other, in place of straight on."""

Member = Bend | Auto | Callable[[Guide], Guide]
"""What a text names: a word on the guidance itself, or what goes around it."""

GUIDES: dict[str, Member] = {
    "auto": Auto(),
    "rescaled": Rescaled(),
    "projected": Projected(),
    "within": Interval(),
    "threshold": Threshold(),
    "temperature": Temperature(),
}
"""The guides that a request can name."""


def around(texts: Sequence[str], guide: Guide) -> Guide:
    """`guide` inside those that `texts` name, each around those before it; what is said of guidance itself is not used.

    Raises UsageError as `parse` does.
    """
    for member in members(texts):
        if not isinstance(member, Bend | Auto):
            guide = member(guide)
    return guide


def surrounded(texts: Sequence[str], guide: Guide) -> Guide:
    """`around`, of a guide towards several conditions at once, which cannot be away from an earlier average instead."""
    if automatic(texts):
        raise UsageError("auto guides away from an earlier average, and here prompts are joined", "leave it out")
    return around(texts, guide)


def guided(
    texts: Sequence[str],
    scale: float,
    null: Cond,
    towards: Callable[[float], Guide] | None = None,
    earlier: Callable[[], Denoiser] | None = None,
) -> list[Guide]:
    """Guidance at `scale`, bent and surrounded by what `texts` name; [] where nothing guides.

    It is classifier-free, or away from what `earlier` gives where `auto` is named; a model that is guided in another
    way is so by `towards(scale)`. Raises UsageError as `parse` does, for guidance that is bent twice, for one that
    cannot be bent, and for `auto` without an earlier average.
    """
    bends: dict[str, Bend] = named(texts, Rescaled, Projected)
    if len(bends) > 1:
        raise UsageError(f"guidance is bent once, and {' and '.join(bends)} would both", f"leave out {[*bends][-1]}")
    if towards is not None and bends:
        raise UsageError(f"{next(iter(bends))} bends a guidance that this model has not", "leave it out")
    guide: Guide = plain
    if scale != 1 and automatic(texts):
        guide = autoguide(weaker(earlier), scale, *bends.values())
    elif scale != 1:
        guide = cfg(scale, null, *bends.values()) if towards is None else towards(scale)
    return [around(texts, guide)] if scale != 1 or texts else []


def weaker(earlier: Callable[[], Denoiser] | None) -> Denoiser:
    """What `earlier` gives; UsageError where there is none."""
    if earlier is None:
        raise UsageError(
            "auto guides by an earlier average of a run's weights (earlier.safetensors), and there is none",
            "runs of diffusion models have one after a quarter of their updates: train one, and then\n"
            "    ebb sample RUN --guidance 2 --guide auto",
        )
    return earlier()


def automatic(texts: Sequence[str]) -> bool:
    """Whether guidance is away from an earlier average, for which nothing need be asked for."""
    return bool(named(texts, Auto))


def members(texts: Sequence[str]) -> list[Member]:
    """What the texts name, in their order."""
    return [parse(text, GUIDES, "guide") for text in texts]


def named(texts: Sequence[str], *kinds: type[M]) -> dict[str, M]:
    """Of what the texts name, those of some kinds, by their text."""
    return {text: member for text, member in zip(texts, members(texts), strict=True) if isinstance(member, kinds)}
