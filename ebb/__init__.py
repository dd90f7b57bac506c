"""ebb: train, sample, measure and understand diffusion models.

`import ebb` is instant; torch is imported when a name that needs it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "ebb.process.path": ["Path", "Linear", "Cosine", "DDPMLinear", "Sigmoid", "VarianceExploding", "EDM", "PATHS"],
    "ebb.process.predict": ["velocity", "v", "Preconditioned", "recover", "PREDICTIONS"],
    "ebb.process.times": ["Discrete", "LogitNormal", "LogNormal", "Shifted", "Karras", "LogSNR", "Given", "DENSITIES", "GRIDS"],
    "ebb.process.denoiser": ["Denoiser", "NetworkDenoiser", "retime", "fraction", "quarter_log_nsr"],
    "ebb.process.exact": ["Gaussian", "Mixture", "finite"],
    "ebb.networks.unet": ["UNet"],
    "ebb.networks.dit": ["DiT"],
    "ebb.networks.mlp": ["MLP"],
    "ebb.encode.labels": ["Labels"],
    "ebb.data.scan": ["read"],
    "ebb.data.loader": ["Batch", "Loader", "Order"],
    "ebb.sample.loop": ["Point", "Solver", "trajectory"],
    "ebb.sample.noise": ["Noise"],
    "ebb.sample.table": ["SOLVERS"],
    "ebb.sample.tune": ["tune"],
    "ebb.sample.ddim": ["DDIM", "DDPM", "Euler"],
    "ebb.sample.heun": ["Heun"],
    "ebb.sample.multistep": ["DPMpp2M"],
    "ebb.guide.cfg": ["cfg"],
    "ebb.train.ema": ["EMA"],
    "ebb.train.loop": ["Training", "updates"],
    "ebb.train.objectives.objective": ["ConditionDropout", "Loss", "Objective"],
    "ebb.train.objectives.denoising": ["Denoising"],
    "ebb.system": ["System", "load"],
    "ebb.errors": ["EbbError", "UsageError", "DataError", "ResourceError", "DamagedError"],
    "ebb.recipe": ["Recipe", "Sampling"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)  # computed, so that a name is written once


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ebb' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
