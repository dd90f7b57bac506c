"""The options that every verb which samples takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class How:
    """How to sample; what is not given is the system's own."""

    steps: int | None = None
    """solver steps"""
    guidance: float | None = None
    """classifier-free guidance scale; 1 is off"""
    solver: str | None = None
    """ddpm, ddim, ddim(eta=0.5), euler, heun, dpmpp_2m, …: see docs/sample.md"""
    grid: str | None = None
    """uniform, quadratic, karras, log_snr, trailing or leading"""
    precision: Literal["fp32", "bf16"] | None = None
    """of the network's forward pass"""
