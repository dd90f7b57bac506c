"""Named starting points: functions from what is known of the data to a recipe, and the rule that picks one.

Each returns only what it has an opinion on; `complete` fills these into what the user left open and says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ebb.errors import UsageError
from ebb.recipe.groups import MLPRecipe, NetworkRecipe, OptimiserRecipe, UNetRecipe
from ebb.recipe.recipe import (
    AutoencoderRecipe,
    DenoiserRecipe,
    DiffusionRecipe,
    FewStepRecipe,
    Recipe,
    Sampling,
    flat,
    resolved,
)


@dataclass(frozen=True)
class Facts:
    """What the choice depends on: count of examples, shape (c, *size) of what is denoised, its standard deviation."""

    count: int
    shape: tuple[int, ...]
    sigma_data: float
    conditioned: bool = False
    """whether anything can be asked for"""
    texts: bool = False
    """whether texts can be"""
    beside: int = 0
    """channels of what stands beside x and can be"""
    decoded: tuple[int, ...] | None = None
    """shape of x, where its latents are denoised"""
    things: str = "images"
    """what examples are called"""
    window: int | None = None
    """rows of a window, where examples are windows of one series"""
    others: tuple[tuple[int, ...], ...] = ()
    """the shapes of what is denoised in other buckets than that of most"""
    square: int | None = None
    """the side of the square about which buckets lie; None without"""
    sampling: Sampling | None = None
    """how the run that it stands on samples, by what that has measured; None without"""
    only_new: bool = False
    """whether a finished model is changed for what is new alone"""

    @property
    def guided(self) -> float:
        """The scale of guidance by which a teacher samples; 1 where it is guided by more than a scale."""
        return 1.0 if self.sampling is None or self.sampling.guides else self.sampling.guidance

    @property
    def lengths(self) -> set[int]:
        """Every length that a side has."""
        return {length for shape in (self.shape, *self.others) for length in shape[1:]}

    @property
    def side(self) -> int:
        """The longer side in pixels."""
        return max(self.shape[1:])


ROOM = 4 / 3
"""Channels that a network has at least for each number of a patch: those that carry the noise, and a third for more.

Noise has no structure: a network that is to tell all of it lets as many numbers through as there are. Of the 48 in a
4×4 patch of colours, 32 channels pass two thirds, and the rest of the noise stays in every sample; 64 pass all."""


def room(facts: Facts, patch: int) -> int:
    """The fewest channels through which a patch of patch² places passes, in groups of 16.

    Those of what stands beside x enter too, but do not come out again.
    """
    own = facts.shape[0]
    places: int = patch ** len(facts.shape[1:])
    return 16 * math.ceil(max(ROOM * own, own + facts.beside) * places / 16)


def roomy(asked: NetworkRecipe, offered: NetworkRecipe, facts: Facts) -> NetworkRecipe:
    """`offered` with a patch that passes through the width that was asked for, and a width that passes the patch.

    Small patches come first: what is asked of a network's width grows with the square of their side. What was asked for
    stays as it is.
    """
    width, patch = resolved(asked.width or offered.width), asked.patch or resolved(offered.patch)
    if asked.patch is None:
        largest = next((side for side in range(patch, 0, -1) if room(facts, side) <= width), 1)
        whole = (side for side in range(largest, largest // 2, -1) if all(n % side == 0 for n in facts.lengths))
        patch = next(whole, largest)  # what does not divide a side costs a margin
    if asked.width is None:
        width = max(width, room(facts, patch))
    update = {"width": width, "patch": patch}
    return offered.model_copy(update={name: update[name] for name in update.keys() & type(offered).model_fields})


def squeezed(network: NetworkRecipe, facts: Facts) -> str | None:
    """What is wrong with a network whose width and patch were both asked for; None where nothing is."""
    width, patch = resolved(network.width), resolved(network.patch)
    entering = facts.shape[0] * patch ** len(facts.shape[1:])
    if width >= entering:
        return None
    return (
        f"{entering} numbers of every patch have to pass through {width} channels: the noise of the others stays in all"
        f" samples; take --network.width {room(facts, patch)} or more, or a smaller --network.patch than {patch}"
    )


def texts(facts: Facts, *resolutions: int) -> tuple[int, ...]:
    """The resolutions that attend to a text: these where there is one, else none."""
    return resolutions if facts.texts else ()


def tiny(facts: Facts) -> DiffusionRecipe:
    """Up to 16 pixels: every pixel is a place of its own."""
    network = UNetRecipe(width=64, multipliers=(1, 2), depth=2, patch=1, attention=(), cross=texts(facts, 1))
    return DiffusionRecipe(batch=128, network=network, optimiser=OptimiserRecipe(kind="muon", lr=6e-3, warmup=50))


def small(facts: Facts) -> DiffusionRecipe:
    """Up to 40 pixels, as MNIST and CIFAR-10: 2×2 patches, wide enough to fill the machine's vectors."""
    width = 64 if facts.shape[0] == 1 else 96
    network = UNetRecipe(width=width, multipliers=(1, 2), depth=2, patch=2, attention=(), cross=texts(facts, 1))
    return DiffusionRecipe(batch=128, network=network, optimiser=OptimiserRecipe(kind="muon", lr=6e-3, warmup=100))


def large(facts: Facts) -> DiffusionRecipe:
    """Above 40 pixels: 4×4 patches, and resolutions down to about 4×4 places: all of a picture is seen at once."""
    last = max(2, round(math.log2(facts.side / 16)))
    network = UNetRecipe(
        width=96,
        multipliers=(1, *(2,) * last),
        depth=2,
        patch=4,
        attention=(),
        cross=texts(facts, last - 1, last),
    )
    return DiffusionRecipe(batch=64, network=network, optimiser=OptimiserRecipe(kind="muon", lr=4e-3, warmup=100))


def transformer(asked: NetworkRecipe, facts: Facts) -> DiffusionRecipe:
    """A transformer, of the kind that was asked for, whose patches cut the picture into about 8 × 8 tokens."""
    usual = asked.model_copy(update={"width": 192, "depth": 6, "patch": max(1, round(facts.side / 8))})
    return DiffusionRecipe(batch=128, network=usual, optimiser=OptimiserRecipe(kind="adamw", lr=1e-3, warmup=100))


def rows(asked: NetworkRecipe, facts: Facts) -> tuple[DiffusionRecipe, str]:
    """Rows of numbers: a perceptron, wider for longer rows."""
    why = f"rows: {facts.shape[0]} numbers each, which have no order that a U-Net could use"
    width = min(512, max(128, 16 * math.ceil(facts.shape[0] / 4)))
    network = MLPRecipe(width=width, depth=4)
    optimiser = OptimiserRecipe(kind="adamw", lr=2e-3, warmup=100)
    return DiffusionRecipe(batch=256, network=network, optimiser=optimiser), why


def series(asked: NetworkRecipe, facts: Facts) -> tuple[DiffusionRecipe, str]:
    """Series: patches and resolutions down to about 8 places, so that all of a series is seen at once."""
    channels, times = facts.shape
    patch = 1 if facts.side <= 64 else 2 if facts.side <= 256 else 4
    halvings = max(1, min(4, round(math.log2(max(2, facts.side / patch / 8)))))
    multipliers = (1, *(2,) * halvings)
    last = len(multipliers) - 1
    network = UNetRecipe(
        width=32, multipliers=multipliers, depth=2, patch=patch, attention=(last,), cross=texts(facts, last)
    )
    optimiser = OptimiserRecipe(kind="muon", lr=4e-3, warmup=100)
    why = f"series: {times} times of {channels} channel{'s' * (channels > 1)}"
    return DiffusionRecipe(batch=64, network=network, optimiser=optimiser), why


def pictures(asked: NetworkRecipe, facts: Facts) -> tuple[DiffusionRecipe, str]:
    """Pictures: a U-Net by their size, or the transformer that was asked for."""
    if asked.tokens:
        return transformer(asked, facts), "a transformer was asked for"
    c, h, w = facts.shape
    recipe = next((recipe for recipe, limit in ((tiny, 16), (small, 40)) if facts.side <= limit), large)
    return recipe(facts), f"{recipe.__name__}: images of {w}×{h} with {c} channel{'s' * (c > 1)}"


STARTS = {1: (rows, "rows of numbers"), 2: (series, "series"), 3: (pictures, "pictures")}
"""The starting point of diffusion by the number of axes of an example, and what such examples are."""


def starting_point(asked: DenoiserRecipe, facts: Facts) -> tuple[DiffusionRecipe, str]:
    """The starting point of diffusion for these facts, and why; UsageError for a network of other data."""
    start, kind = STARTS[len(facts.shape)]
    if facts.others and asked.network.model_dump().get("positions") == "learned":
        raise UsageError("positions are learned for one size, and buckets have several", "--network.positions rope")
    if asked.network.only not in ("", kind):
        raise UsageError(
            f"network.kind {asked.network.kind} is of {asked.network.only}, and this data is {kind}",
            "leave --network.kind out",
        )
    return start(asked.network, facts)


def coder() -> AutoencoderRecipe:
    """An autoencoder."""
    return AutoencoderRecipe(batch=64, optimiser=OptimiserRecipe(kind="adamw", lr=2e-3, warmup=100))


def filled(asked: dict[str, Any], offered: dict[str, Any]) -> dict[str, Any]:
    """`asked`, with each None replaced by what is offered under the same name."""
    return {
        name: filled(value, offered[name]) if isinstance(value, dict) else offered[name] if value is None else value
        for name, value in asked.items()
    }


TOKENS = 64
"""Tokens of a transformer at which times are drawn as for any other network."""


def shifted(tokens: float) -> str:
    """Times of the linear path for a transformer of so many tokens (Esser et al. 2024, eq. 23).

    Finer tokens of one example say the same more often, so that it takes more noise to hide it: t ↦ s·t/(1 + (s − 1)t)
    with s = √(tokens/TOKENS). Of times whose logit is normal it is the mean that moves, by log s.
    """
    return f"logit_normal(mean={round(MEAN + 0.5 * math.log(tokens / TOKENS), 2):g})"


MEAN = 0.4
"""Of the logit of training times on the linear path: a little towards the noise (docs/recipe.md)."""


def suited(path: str) -> tuple[dict[str, str], str]:
    """Prediction, training times and clock that suit a path, and why."""
    if path.startswith(("edm", "variance_exploding")):
        parts = {"prediction": "edm", "times": "log_normal", "clock": "quarter_log_nsr"}
        return parts, "on a path whose noise grows without bound, Karras et al. 2022 scale everything to unit variance"
    parts = {"prediction": "velocity", "times": f"logit_normal(mean={MEAN})", "clock": "fraction"}
    if path.startswith("linear"):
        return parts, "rectified flow as in Esser et al. 2024, a little more often near the noise: see docs/recipe.md"
    parts |= {"prediction": "v", "times": "logit_normal"}
    return parts, "v has unit variance all along a path with alpha² + sigma² = 1"


R = TypeVar("R", bound=Recipe)
D = TypeVar("D", bound=DenoiserRecipe)


def complete(asked: D, facts: Facts) -> tuple[D, dict[str, str]]:
    """The recipe with everything chosen that needs no measuring, and the reason of each choice by dotted name."""
    start, why = starting_point(asked, facts)
    parts, why_parts = suited(asked.path)
    network = roomy(asked.network, start.network, facts)
    if network.tokens and asked.path == "linear":
        parts["times"] = shifted(facts.shape[1] * facts.shape[2] / resolved(network.patch) ** 2)
    sigma_data = asked.sigma_data or round(facts.sigma_data, 4)
    offered = (
        asked.model_dump() | start.model_dump() | parts | {"network": network.model_dump(), "sigma_data": sigma_data}
    )
    bare = {name: f"edm(sigma_data={sigma_data})" for name in ("prediction", "weight")}
    reasons = dict.fromkeys(parts, why_parts) | {
        "sigma_data": "the standard deviation of the data",
        "weight": "edm, with the standard deviation of the data",
        "condition_dropout": "there is nothing to hide: neither labels nor captions",
    }

    def suit(tree: dict[str, Any]) -> None:
        for name, spelled in bare.items():  # a bare `edm` takes the data's own deviation
            tree[name] = spelled if tree[name] == "edm" else tree[name]
        tree["condition_dropout"] *= facts.conditioned

    if start.network.kind != asked.network.kind:  # data without places
        same = type(start.network)(width=asked.network.width, depth=asked.network.depth)
        recipe, told = completed(asked.model_copy(update={"network": same}), facts, offered, why, reasons, suit)
        return recipe, told | {"network.kind": why}
    return completed(asked, facts, offered, why, reasons, suit)


TUNED = 0.3
"""The learning rate of what begins as a trained model, as a share of that of what begins anew."""

SCALES = (1.0, 3.0)
"""The guidance scales that a model with a teacher is told."""


def few_steps(asked: FewStepRecipe, facts: Facts) -> tuple[FewStepRecipe, dict[str, str]]:
    """The same of a model of few steps."""
    chosen: dict[str, Any] = {"method": asked.method or ("trajectories" if asked.teacher else "consistency")}
    if asked.guidances is None and asked.teacher is not None and facts.conditioned:
        chosen["guidances"] = SCALES
    among = chosen.get("guidances", asked.guidances)
    if among is not None and asked.sample.guidance == 1 < facts.guided:
        scale = min(max(facts.guided, among[0]), among[1])
        chosen["sample"] = asked.sample.model_copy(update={"guidance": scale})
    recipe, reasons = complete(asked.model_copy(update=chosen), facts)
    if asked.method is None:
        reasons["method"] = METHOD_BECAUSE[chosen["method"]]
    if "sample" in chosen:
        reasons["sample.guidance"] = "as its teacher samples"
    if "guidances" in chosen:
        reasons["guidances"] = "the scale is told, so that guidance costs no second evaluation"
    if asked.teacher is not None and asked.optimiser.lr is None:
        lr = resolved(recipe.optimiser.lr) * TUNED
        recipe = recipe.model_copy(update={"optimiser": recipe.optimiser.model_copy(update={"lr": lr})})
        reasons["optimiser.lr"] = "lower than for what begins anew: it begins as its teacher"
    return recipe, reasons


METHOD_BECAUSE = {
    "trajectories": "nothing moves while it is learned, so that few updates are enough",
    "consistency": "without a teacher it needs neither a second network nor a derivative",
}


def complete_coder(asked: AutoencoderRecipe, facts: Facts) -> tuple[AutoencoderRecipe, dict[str, str]]:
    """The same of an autoencoder; UsageError for what is no pictures, or whose sides its factor does not divide."""
    if len(facts.shape) < 3:
        raise UsageError("an autoencoder is of pictures, and this data has none", "leave the option out")
    factor, every = asked.autoencoding.factor, (facts.shape, *facts.others)
    if odd := next((shape[:0:-1] for shape in every if any(side % factor for side in shape[1:])), None):
        near = "x".join(str(max(1, round(side / factor)) * factor) for side in odd)
        raise UsageError(
            f"this autoencoder shrinks sides by {factor}, and {'×'.join(map(str, odd))} is no multiple",
            f"--data.size {near if facts.square is None else 8 * factor}, or a smaller --autoencoding.factor",
        )
    return completed(asked, facts, coder().model_dump(), "an autoencoder was asked for")


def completed(
    asked: R,
    facts: Facts,
    offered: dict[str, Any],
    why: str,
    reasons: Mapping[str, str] = {},
    suit: Callable[[dict[str, Any]], None] = lambda _: None,
) -> tuple[R, dict[str, str]]:
    """`asked` with what is open as it is `offered`, because of `why` or what `reasons` say, made to `suit` itself."""
    usual = offered["optimiser"]
    offered = offered | {"batch": min(offered["batch"] or 128, facts.count)}
    if asked.optimiser.kind not in (None, usual["kind"]):
        share = ADAMW if asked.optimiser.kind == "adamw" else 1 / ADAMW
        offered["optimiser"] = usual | {"lr": usual["lr"] * share}
    offered["data"] = {"size": None, "channels": None, "flip": False, "window": facts.window}
    if len(facts.shape) == 3:
        channels, height, width = facts.decoded or facts.shape
        own = height if height == width else f"{width}x{height}"
        offered["data"] |= {"size": facts.square or own, "channels": channels}
    elif asked.data.flip:
        raise UsageError("pictures are mirrored, and this data has none", "leave --data.flip out")
    tree = filled(asked.model_dump(), offered)
    suit(tree)
    recipe = type(asked).model_validate(tree)
    reasons = {
        **reasons,
        "data.size": f"the size of the {facts.things}" + ", about as large as each bucket" * (facts.square is not None),
        "data.window": "the length of the windows, by what the series repeats or remembers",
        "data.channels": f"the channels of the {facts.things}",
        "batch": "the whole data set" if offered["batch"] == facts.count else why,
    }
    before, after = flat(asked.model_dump()), flat(recipe.model_dump())
    return recipe, {name: reasons.get(name, why) for name in after if after[name] != before[name]}


ADAMW = 0.25
"""The learning rate of AdamW as a share of Muon's."""
