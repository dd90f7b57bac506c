"""A network with controls: any number of them at once, each by its scale, the network itself as it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ebb.adapt.addition import Around, around
from ebb.adapt.control_net import ControlNet
from ebb.adapt.hint import Control, Hint
from ebb.adapt.two_way import TwoWay
from ebb.errors import UsageError, nearest
from ebb.networks.embedder import fitting
from ebb.networks.halves import SILENT, Encoding, Residuals
from ebb.networks.ports import PORTS, MapPort
from ebb.recipe.names import spell
from ebb.shapes import Float

CONTROLS: dict[str, ControlNet | TwoWay] = {"controlnet": ControlNet(), "two_way": TwoWay()}
"""Kinds of control that a recipe or a file can name."""


@dataclass(frozen=True)
class Several:
    """Residuals of several controls, which add up."""

    parts: tuple[Residuals, ...]

    def onward(self, block: int, h: Tensor, /) -> Tensor:
        """Each in turn."""
        for part in self.parts:
            h = part.onward(block, h)
        return h

    def across(self, block: int, h: Tensor, /) -> Tensor:
        """Each in turn."""
        for part in self.parts:
            h = part.across(block, h)
        return h


class Controlled(Around):
    """A network with `controls` by name, the hint of each in `cond` by that name: float [b, channels, *size], NaN for a
    sample without one, which is then as without the control. What `cond` does not have is not heard.

    A control counts by its scale, of `scales` or else 1; at 0 it is not asked, so that the output is the network's to
    the bit, as it is of controls that have not learnt. Those that are two-way hear each other, in order; else they add
    up. Raises UsageError for a network without an encoder, and as `put` does.
    """

    def __init__(
        self, network: nn.Module, controls: Mapping[str, Control], scales: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(network)
        controllable(network)
        self.names, self.controls, self.scales = list[str](), nn.ModuleList(), dict[str, float]()
        for name, control in controls.items():
            self.put(name, control, (scales or {}).get(name, 1.0))

    def put(self, name: str, control: Control, scale: float = 1.0) -> None:
        """One more control, in place. Raises UsageError for a name that the network hears already."""
        if name in controllable(self.within).embedding.ports:
            raise UsageError(f"this network hears {name} itself", "give the control another name")
        if name in self.names:
            raise UsageError(f"there is a control by {name} already", "one of a name can be on at a time")
        self.names, self.scales = [*self.names, name], {**self.scales, name: scale}
        self.controls.append(control)

    def take(self, name: str) -> None:
        """One control less, in place. Raises UsageError where it is not on."""
        if name not in self.names:
            raise UsageError(f"there is no control {name!r}", nearest(name, self.names))
        rest = [(n, control) for n, control in zip(self.names, self.controls, strict=True) if n != name]
        self.names, self.controls = [n for n, _ in rest], nn.ModuleList(control for _, control in rest)
        self.scales = {n: self.scales[n] for n in self.names}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The network's, with a port for each control."""
        own = super().settings
        maps = {
            name: spell(MapPort(control.channels), PORTS)
            for name, control in zip(self.names, self.controls, strict=True)
            if isinstance(control, Control)
        }
        return {**own, "ports": {**own["ports"], **maps}}

    def forward(
        self, x: Float[Tensor, "b c *size"], time: Float[Tensor, "b"], cond: Mapping[str, Tensor]
    ) -> Float[Tensor, "b k *size"]:
        """The network's output with what the controls add. Raises UsageError for a hint of another shape than x has
        places, and as the network does."""
        network: Encoding = self.within  # type: ignore[assignment]
        opened = network.opened(x, time, {name: value for name, value in cond.items() if name not in self.names})
        parts = []
        for name, control in zip(self.names, self.controls, strict=True):
            if isinstance(control, Control) and name in cond and self.scales[name] != 0:
                value = fitting(name, cond[name], True, x.shape[0], control.channels, *x.shape[2:])
                hint = Hint.of(network, value.to(x.dtype), self.scales[name])
                parts.append(control.residuals(network, opened, hint))
        return network.answered(opened, Several(tuple(parts)) if parts else SILENT)


def controlled_in(network: nn.Module) -> Controlled | None:
    """The network with controls among those that a network is around of; None where it has none."""
    return next((each for each in around(network) if isinstance(each, Controlled)), None)


def controllable(network: nn.Module) -> Encoding:
    """The network; raises UsageError for one without an encoder that a control could stand beside."""
    if not isinstance(network, Encoding):
        raise UsageError(f"a {type(network).__name__} has no encoder to control", "take a unet, dit or mmdit")
    return network
