"""A control as an addition: what is put beside a finished denoiser's network, so that it follows a map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ebb.adapt.addition import Addition, exchange, innermost
from ebb.adapt.controlled import CONTROLS, Controlled, controllable, controlled_in
from ebb.errors import UsageError
from ebb.process.denoiser import NetworkDenoiser
from ebb.recipe.names import parse


class MapControl(Addition):
    """A control of a kind of `CONTROLS` by maps of so many channels, which are given as the condition `control`."""

    def __init__(self, denoiser: NetworkDenoiser, control: str, channels: int, form: str = "controlnet") -> None:
        super().__init__()
        self.control, self.form = control, form
        kind = parse(form, CONTROLS, "form of control")
        self.part = kind.build(controllable(innermost(denoiser.network)), channels)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its condition, the channels of that, and its kind."""
        return {"control": self.control, "channels": self.part.channels, "form": self.form}

    def attach(self, denoiser: NetworkDenoiser, name: str, amount: float = 1.0) -> None:
        """Beside the network and the controls that it has, at the scale `amount`; within what hears a reference."""
        own = innermost(denoiser.network)
        there = controlled_in(denoiser.network)
        controlled = Controlled(own, {}) if there is None else there
        controlled.put(self.control, self.part, amount)
        if there is None:
            exchange(denoiser, own, controlled)

    def detach(self, denoiser: NetworkDenoiser, name: str) -> None:
        """The network is as it was where no other control is left."""
        controlled = controlled_in(denoiser.network)
        if controlled is None:
            return
        controlled.take(self.control)
        if not controlled.names:
            exchange(denoiser, controlled, controlled.within)

    def __str__(self) -> str:
        return f"a control by {self.control} ({self.form}, {self.size:,} numbers)"


def rescaled_by(network: nn.Module, factor: float) -> None:
    """Let all controls of a network count so much more, in place. Raises UsageError where there is none."""
    controlled = controlled_in(network)
    if controlled is None:
        raise UsageError("this model has no control to scale", "make one: ebb adapt RUN DATA --control edges")
    controlled.scales = {name: scale * factor for name, scale in controlled.scales.items()}
