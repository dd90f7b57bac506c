"""The Inception-v3 of the Fréchet inception distance, with the preprocessing that its figures are defined by."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.shapes import Float

POINT, ROW, COLUMN, SQUARE = (1, 1), (1, 7), (7, 1), (3, 3)
AVERAGE = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
LARGEST = nn.MaxPool2d(3, stride=1, padding=1)
HALVE = nn.MaxPool2d(3, stride=2)


@dataclass(frozen=True)
class Conv:
    """A `Unit` to be made, with its name in the published weights."""

    name: str
    wide: int
    kernel: tuple[int, int] = POINT
    stride: int = 1


@dataclass(frozen=True)
class Fork:
    """Units that see one input; their outputs are joined."""

    convs: tuple[Conv, ...]


Chain: TypeAlias = list[Conv | Fork | nn.Module]
"""Convolutions, forks and pools, one after the other."""


class Unit(nn.Module):
    """Convolution, normalisation by the statistics of its training (ε = 0.001), ReLU; a stride of 2 has no padding."""

    def __init__(
        self, channels: int, wide: int, kernel: tuple[int, int] = POINT, stride: int = 1, *, padded: bool = True
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(channels, wide, kernel, stride, padding, bias=False)
        facts = ("weight", "bias", "running_mean", "running_var")
        self.bn = nn.ParameterDict({fact: torch.zeros(wide) for fact in facts})

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        """One convolution: scale and shift of the normalisation go into its weight and bias."""
        scale = self.bn["weight"] / (self.bn["running_var"] + 1e-3).sqrt()
        shift = self.bn["bias"] - self.bn["running_mean"] * scale
        weight = self.conv.weight * scale[:, None, None, None]
        return F.conv2d(x, weight, shift, self.conv.stride, self.conv.padding).relu_()


class Mixed(nn.Module):
    """A block of branches that see one input; their outputs are joined."""

    def __init__(self, channels: int, *branches: Chain) -> None:
        super().__init__()
        self.branches = branches
        for branch in branches:
            wide = channels
            for step in branch:
                convs = [step] if isinstance(step, Conv) else step.convs if isinstance(step, Fork) else []
                for conv in convs:
                    self.add_module(conv.name, Unit(wide, conv.wide, conv.kernel, conv.stride))
                wide = sum(conv.wide for conv in convs) or wide

    def _pass(self, x: Tensor, step: Conv | Fork | nn.Module) -> Tensor:
        if isinstance(step, Fork):
            return torch.cat([self._pass(x, conv) for conv in step.convs], dim=1)
        layer = self.get_submodule(step.name) if isinstance(step, Conv) else step
        found: Tensor = layer(x)
        return found

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        """The outputs of all branches, joined."""
        return torch.cat([reduce(self._pass, branch, x) for branch in self.branches], dim=1)


def _chain(prefix: str, *convs: tuple[int, tuple[int, int]], halve: bool = False) -> Chain:
    """Convolutions numbered from 1, each given by its channels and kernel; `halve`: the last one has a stride of 2."""
    count = len(convs)
    return [Conv(f"{prefix}_{i}", *conv, 1 + (halve and i == count)) for i, conv in enumerate(convs, start=1)]


def _at_35(channels: int, pooled: int) -> Mixed:
    return Mixed(
        channels,
        [Conv("branch1x1", 64)],
        _chain("branch5x5", (48, POINT), (64, (5, 5))),
        _chain("branch3x3dbl", (64, POINT), (96, SQUARE), (96, SQUARE)),
        [AVERAGE, Conv("branch_pool", pooled)],
    )


def _to_17() -> Mixed:
    double = _chain("branch3x3dbl", (64, POINT), (96, SQUARE), (96, SQUARE), halve=True)
    return Mixed(288, [Conv("branch3x3", 384, SQUARE, 2)], double, [HALVE])


def _at_17(inner: int) -> Mixed:
    return Mixed(
        768,
        [Conv("branch1x1", 192)],
        _chain("branch7x7", (inner, POINT), (inner, ROW), (192, COLUMN)),
        _chain("branch7x7dbl", (inner, POINT), (inner, COLUMN), (inner, ROW), (inner, COLUMN), (192, ROW)),
        [AVERAGE, Conv("branch_pool", 192)],
    )


def _to_8() -> Mixed:
    three = _chain("branch3x3", (192, POINT), (320, SQUARE), halve=True)
    seven = _chain("branch7x7x3", (192, POINT), (192, ROW), (192, COLUMN), (192, SQUARE), halve=True)
    return Mixed(768, three, seven, [HALVE])


def _at_8(channels: int, pool: nn.Module) -> Mixed:
    def fork(name: str) -> Fork:
        return Fork((Conv(f"{name}a", 384, (1, 3)), Conv(f"{name}b", 384, (3, 1))))

    return Mixed(
        channels,
        [Conv("branch1x1", 320)],
        [Conv("branch3x3_1", 384), fork("branch3x3_2")],
        [*_chain("branch3x3dbl", (448, POINT), (384, SQUARE)), fork("branch3x3dbl_3")],
        [pool, Conv("branch_pool", 192)],
    )


def resize(images: Float[Tensor, "b c h w"], side: int = 299) -> Float[Tensor, "b c y x"]:
    """Bilinear as TensorFlow 1 does it: pixel i of the output lies at i · in / out of the input.

    No half pixel is added and nothing is smoothed where an image gets smaller: published figures are made with both.
    """

    def along(x: Tensor, axis: int) -> Tensor:
        x = x.transpose(axis, -1)
        place = torch.arange(side, dtype=torch.float32, device=x.device) * (x.shape[-1] / side)
        low = place.long()
        below, above = x[..., low], x[..., (low + 1).clamp_max(x.shape[-1] - 1)]
        return (below + (above - below) * (place - low)).transpose(axis, -1)

    return along(along(images, -1), -2)


class Inception(nn.Sequential):
    """2048 features: the mean over places of the last block of Inception-v3 (Szegedy et al. 2016).

    The network of TensorFlow's graph of 2015-12-05, by which the Fréchet inception distance is defined (Heusel et al.
    2017). It differs from others of that name: average pools leave out the padding, and the last block takes a maximum
    where the one before it takes an average. Names of tensors are those of pt_inception-2015-12-05.
    """

    dimension = 2048
    unused = ("fc.", "AuxLogits.")
    """beginnings of names that a weights file may hold besides"""

    def __init__(self) -> None:
        layers: dict[str, nn.Module] = {
            "Conv2d_1a_3x3": Unit(3, 32, SQUARE, 2),
            "Conv2d_2a_3x3": Unit(32, 32, SQUARE, padded=False),
            "Conv2d_2b_3x3": Unit(32, 64, SQUARE),
            "pool1": HALVE,
            "Conv2d_3b_1x1": Unit(64, 80),
            "Conv2d_4a_3x3": Unit(80, 192, SQUARE, padded=False),
            "pool2": HALVE,
            "Mixed_5b": _at_35(192, 32),
            "Mixed_5c": _at_35(256, 64),
            "Mixed_5d": _at_35(288, 64),
            "Mixed_6a": _to_17(),
            "Mixed_6b": _at_17(128),
            "Mixed_6c": _at_17(160),
            "Mixed_6d": _at_17(160),
            "Mixed_6e": _at_17(192),
            "Mixed_7a": _to_8(),
            "Mixed_7b": _at_8(1280, AVERAGE),
            "Mixed_7c": _at_8(2048, LARGEST),
        }
        super().__init__(OrderedDict(layers))

    def forward(self, levels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """The features of images with values 0…255, of any size."""
        x = (resize(levels) - 128) / 128
        for layer in self:
            x = layer(x)
        return x.mean(dim=(2, 3))
