"""What may be wrong with an adapter as it is: parts that are missing, zero or not finite, a scale that nobody knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ebb.adapt.adapter_files import Parsed, Part, Spelling, parsed, scale_of
from ebb.doctor.finding import Check, Finding
from ebb.errors import EbbError
from ebb.terminal import command

FAINT = 1e-6
"""‖s·B·A‖ of a change over ‖A‖·√r, below which it is none: B began at 0 and has hardly moved."""


@dataclass(frozen=True, eq=False)
class AdapterSubject:
    """An adapter's file as a doctor sees it: the parts of each layer's change, whether or not they make one."""

    place: Path
    spelling: Spelling
    layers: Mapping[str, Mapping[Part, Tensor]]
    scales: Mapping[str, float | None]

    @classmethod
    def of(cls, place: Path) -> AdapterSubject:
        """A file or PEFT's folder; the errors are those of `read_adapter` for what is no adapter at all."""
        read: Parsed = parsed(place)
        tensors, spelling = read[0], read[-1]
        found: dict[str, dict[Part, Tensor]] = {}
        for key, (layer, part) in spelling.account(list(tensors), None).parts.items():
            found.setdefault(layer, {})[part] = tensors[key].float()
        scales = {layer: known(layer, parts, read) for layer, parts in found.items()}
        return cls(place, spelling, found, scales)

    def whole(self) -> dict[str, Mapping[Part, Tensor]]:
        """The layers that have both factors. Raises EbbError where none has."""
        both = {layer: parts for layer, parts in self.layers.items() if {"up", "down"} <= parts.keys()}
        if not both:
            raise EbbError(f"{self.place} has no layer with both factors")
        return both


def known(layer: str, parts: Mapping[Part, Tensor], read: Parsed) -> float | None:
    """s of a layer, where the file has it in any way."""
    _, facts, config, spelling = read
    try:
        return scale_of(layer, parts, facts, config, spelling)
    except (KeyError, ValueError):
        return None


def some(layers: list[str]) -> str:
    """A few of the names."""
    return ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")


def check_half_missing(file: AdapterSubject) -> Finding | None:
    """Layers with one factor of two."""
    halves = [layer for layer, parts in file.layers.items() if not {"up", "down"} <= parts.keys()]
    if not halves:
        return None
    return Finding(
        "half missing",
        "the adapter has halves of changes, which nothing can be made of",
        f"{len(halves)} of {len(file.layers)} layers have one factor of two: {some(halves)}",
        "the file was cut, or keys were lost where it was converted",
        "copy it again, or convert it anew from where it came from",
        "error",
    )


def check_adapter_not_finite(file: AdapterSubject) -> Finding | None:
    """Factors with NaN or infinity."""
    wrong = [name for name, parts in file.layers.items() if not all(torch.isfinite(t).all() for t in parts.values())]
    if not wrong:
        return None
    return Finding(
        "adapter not finite",
        "the adapter has numbers that are none",
        f"NaN or infinity in {len(wrong)} of {len(file.layers)} layers: {some(wrong)}",
        "its training diverged, or it was saved in half precision and overflowed",
        "train it again at a lower rate, or save it in float32",
        "error",
    )


def check_scale_missing(file: AdapterSubject) -> Finding | None:
    """Layers whose scale is nowhere."""
    without = [layer for layer, scale in file.scales.items() if scale is None]
    if not without:
        return None
    return Finding(
        "scale missing",
        "how much of the adapter is meant is nowhere in the file",
        f"no α and no s for {len(without)} of {len(file.layers)} layers: {some(without)}",
        f"{file.spelling.name} was written without α; trainers differ by factors of 4 to 32 in what they take then",
        "ask whoever made it, and write it down once",
        "error",
        (command("adapter", "convert", file.place, file.place.with_name("with-scale.safetensors"), "--scale", 1),),
    )


def untrained(file: AdapterSubject) -> list[str]:
    """Layers with a factor that is zero everywhere."""
    return [layer for layer, parts in file.whole().items() if not bool(parts["up"].any() and parts["down"].any())]


def check_half_untrained(file: AdapterSubject) -> Finding | None:
    """Some layers, and not all, with a factor that is zero: it began so and was never trained."""
    idle = untrained(file)
    if not idle or len(idle) == len(file.whole()):
        return None
    return Finding(
        "half untrained",
        "parts of the adapter do nothing",
        f"one factor is zero everywhere in {len(idle)} of {len(file.whole())} layers: {some(idle)}",
        "a factor begins at zero, and its layer got no gradient: it is frozen, unused, or behind one that is",
        "leave these layers out, or look why nothing reaches them",
    )


def check_adapter_silent(file: AdapterSubject) -> Finding | None:
    """All changes zero or next to nothing (FAINT): the base's own samples come out, and no message anywhere."""
    size = {
        layer: float((parts["up"].flatten(1) @ parts["down"].flatten(1)).norm())
        / max(float(parts["down"].norm()) * len(parts["down"]) ** 0.5, 1e-30)
        for layer, parts in file.whole().items()
        if "magnitude" not in parts
    }
    if not size or not max(size.values()) <= FAINT:
        return None
    return Finding(
        "adapter silent",
        "the adapter changes nothing: what is sampled with it is the base's own",
        f"the largest of {len(size)} changes is {max(size.values()):.2g} of what its factors could make",
        "it was saved before it was trained, or its training never reached it",
        "train it",
        "error",
    )


def check_scale_odd(file: AdapterSubject) -> Finding | None:
    """A scale of 0, below 0, or far from what trainers use."""
    odd = [layer for layer, scale in file.scales.items() if scale is not None and not LEAST <= scale <= MOST]
    if not odd:
        return None
    scale = file.scales[odd[0]]
    return Finding(
        "scale odd",
        "the adapter is put on by a scale that no trainer uses",
        f"s = {scale:.4g} in {len(odd)} of {len(file.layers)} layers: {some(odd)}",
        "α was written where s was meant, or s where α was; or it is 0 or below",
        "compare α/r with what its trainer says",
    )


LEAST, MOST = 1 / 256, 64
"""Scales from α = 1 at rank 256, to four times the rank's root at rank 256."""


ADAPTER_CHECKS: list[Check[AdapterSubject]] = [
    check_half_missing,
    check_adapter_not_finite,
    check_scale_missing,
    check_scale_odd,
    check_half_untrained,
    check_adapter_silent,
]
"""What is asked about an adapter's file."""
