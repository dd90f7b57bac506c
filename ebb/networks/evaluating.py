"""A module in another state for a while; every part gets its own back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """`model`, where it is a module, in evaluation mode."""
    modes = [(part, part.training) for part in model.modules()] if isinstance(model, nn.Module) else []
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def differentiable(model: object) -> Iterator[list[nn.Parameter]]:
    """The parameters of `model`, where it is a module, with gradients asked for; what `.grad` holds is not touched."""
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    asked = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield parameters
    finally:
        for parameter, before in zip(parameters, asked, strict=True):
            parameter.requires_grad_(before)
