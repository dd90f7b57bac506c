"""ebb: train, sample, measure and understand diffusion models.

`import ebb` is instant; torch is imported when a name that needs it is first used. The names here are what many
programs need; everything else is imported from its room, as in `from ebb.guide.operators import mask`. What the command
line does is in `ebb.verbs`.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

_HOMES = {
    "ebb.errors": ["EbbError", "UsageError", "DataError", "ResourceError", "DamagedError"],
    "ebb.recipe.recipe": ["Recipe", "Sampling"],
    "ebb.process.path": [
        "Path",
        "Linear",
        "Cosine",
        "DDPMLinear",
        "BetaTable",
        "Sigmoid",
        "VarianceExploding",
        "EDM",
        "PATHS",
    ],
    "ebb.process.predict": ["velocity", "PREDICTIONS"],
    "ebb.process.times": ["LogitNormal", "LogNormal", "Shifted", "Karras", "DENSITIES", "GRIDS"],
    "ebb.process.denoiser": ["Denoiser", "NetworkDenoiser", "quarter_log_nsr", "retime"],
    "ebb.process.learned": ["LearnedVariance"],
    "ebb.process.flow_map": ["FlowMap"],
    "ebb.process.exact": ["Gaussian", "Mixture", "finite"],
    "ebb.networks.unet": ["UNet"],
    "ebb.networks.dit": ["DiT"],
    "ebb.networks.mmdit": ["MMDiT"],
    "ebb.networks.mlp": ["MLP"],
    "ebb.data.loader": ["Batch"],
    "ebb.sample.trajectory": ["Point", "Solver", "trajectory"],
    "ebb.sample.fused": ["fused"],
    "ebb.sample.noise": ["Noise"],
    "ebb.sample.ddim": ["DDIM", "DDPM", "Euler"],
    "ebb.sample.heun": ["Heun"],
    "ebb.sample.karras": ["Churn"],
    "ebb.sample.multistep": ["DPMpp2M", "DPMpp3M"],
    "ebb.sample.singlestep": ["DPMpp2S"],
    "ebb.sample.dpm_sde": ["DPMpp2MSDE", "DPMpp3MSDE", "DPMpp2SSDE"],
    "ebb.sample.unipc": ["UniPC"],
    "ebb.sample.adams": ["DEIS", "IPNDM", "ExponentialAB"],
    "ebb.sample.sde": ["EulerMaruyama", "PredictorCorrector"],
    "ebb.sample.restart": ["Restart"],
    "ebb.sample.repaint": ["Resample"],
    "ebb.sample.adaptive": ["Adaptive"],
    "ebb.sample.jumps": ["jumps"],
    "ebb.sample.invert": ["invert"],
    "ebb.sample.scheme": ["Scheme"],
    "ebb.sample.solvers": ["SOLVERS"],
    "ebb.sample.tune": ["tune"],
    "ebb.guide.cfg": ["cfg", "cfg_plus_plus"],
    "ebb.guide.rescale": ["Rescaled"],
    "ebb.guide.apg": ["Projected"],
    "ebb.guide.interval": ["within"],
    "ebb.guide.autoguide": ["autoguide"],
    "ebb.guide.compose": ["compose"],
    "ebb.guide.region": ["regions"],
    "ebb.guide.temperature": ["temperature"],
    "ebb.guide.threshold": ["dynamic_threshold"],
    "ebb.guide.classifier_guidance": ["classifier"],
    "ebb.guide.energy": ["energy"],
    "ebb.guide.inpaint": ["inpaint"],
    "ebb.guide.inverse": ["dps", "mmps", "pigdm"],
    "ebb.guide.constrain": ["constrain"],
    "ebb.train.objectives.objective": ["ConditionDropout", "Loss", "Objective"],
    "ebb.train.objectives.denoising": ["Denoising"],
    "ebb.train.loop": ["Training", "updates"],
    "ebb.train.ema": ["EMA"],
    "ebb.train.muon": ["muon"],
    "ebb.system.sampler": ["Request", "Sampler"],
    "ebb.system.system": ["System", "load"],
    "ebb.edit.editor": ["Editor"],
    "ebb.judge.features": ["Features"],
    "ebb.judge.distances": ["frechet", "kernel_distance"],
    "ebb.evaluate.two_sets": ["compare"],
    "ebb.evaluate.measure": ["Evaluation", "measure"],
    "ebb.understand.likelihood": ["bits_per_dim", "log_density"],
    "ebb.understand.straightness": ["straightness"],
    "ebb.understand.memorise": ["memorisation"],
    "ebb.understand.probe": ["attention_maps"],
}
"""Where each exported name lives; `make stub` writes `__init__.pyi` from it, by which type checkers know them."""
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)  # computed, so that a name is written once


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if not name.startswith("_") and importlib.util.find_spec(f"ebb.{name}"):  # a module, such as ebb.testing
        return importlib.import_module(f"ebb.{name}")
    raise AttributeError(f"module 'ebb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
