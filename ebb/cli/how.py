"""The options that every verb which samples takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class How:
    """How to sample; what is not given is the system's own."""

    steps: int | None = None
    """solver steps"""
    guidance: float | None = None
    """guidance scale; 1 is off"""
    guides: Annotated[tuple[str, ...] | None, tyro.conf.arg(name="guide")] = None
    """auto, rescaled(0.7), projected, within(0.3, 3), threshold, temperature(0.9), each around those before it"""
    noise_scale: float | None = None
    """what the noise of a stochastic solver is multiplied by; 1 is the solver's own"""
    solver: str | None = None
    """ddpm, ddim, ddim(eta=0.5), euler, heun, dpmpp_2m, …: see docs/sample.md"""
    grid: str | None = None
    """uniform, quadratic, karras, log_snr, trailing or leading"""
    precision: Literal["fp32", "bf16"] | None = None
    """of the network's forward pass"""
