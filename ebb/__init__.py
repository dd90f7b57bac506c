"""ebb: train, sample, measure and understand diffusion models.

`import ebb` is instant; torch is imported when a name that needs it is first used.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

_HOMES = {
    "ebb.process.path": ["Path", "Linear", "Cosine", "DDPMLinear", "Sigmoid", "VarianceExploding", "EDM", "PATHS"],
    "ebb.process.predict": ["velocity", "v", "Preconditioned", "recover", "PREDICTIONS"],
    "ebb.process.times": [
        "Discrete",
        "LogitNormal",
        "LogNormal",
        "Shifted",
        "Karras",
        "LogSNR",
        "Given",
        "DENSITIES",
        "GRIDS",
    ],
    "ebb.process.denoiser": ["Denoiser", "NetworkDenoiser", "retime", "fraction", "quarter_log_nsr"],
    "ebb.process.learned": ["LearnedVariance"],
    "ebb.process.exact": ["Gaussian", "Mixture", "finite"],
    "ebb.networks.unet": ["UNet"],
    "ebb.networks.dit": ["DiT"],
    "ebb.networks.mmdit": ["MMDiT"],
    "ebb.networks.mlp": ["MLP"],
    "ebb.networks.attention": ["rescored"],
    "ebb.networks.classifier": ["Classifier", "PointClassifier"],
    "ebb.encode.labels": ["Labels"],
    "ebb.encode.numbers": ["Numbers"],
    "ebb.encode.text": ["Vocabulary"],
    "ebb.encode.pretrained_text": ["Joined", "PretrainedText"],
    "ebb.encode.picture": ["Beside"],
    "ebb.encode.conditioner": ["Conditioner", "Text", "Wishes"],
    "ebb.encode.autoencoder": ["KL", "VQ"],
    "ebb.encode.latent": ["LatentSpace"],
    "ebb.data.scan": ["read"],
    "ebb.data.loader": ["Batch", "Examples", "Loader", "Order"],
    "ebb.store.shards": ["cached"],
    "ebb.data.scenes": ["Scene", "Thing"],
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
    "ebb.sample.adaptive": ["Adaptive", "follow"],
    "ebb.process.flow_map": ["FlowMap", "Straight"],
    "ebb.sample.jumps": ["jumps"],
    "ebb.sample.invert": ["invert"],
    "ebb.sample.scheme": ["Scheme"],
    "ebb.sample.drift": ["drift"],
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
    "ebb.guide.classifier_guidance": ["NetworkClassifier", "classifier"],
    "ebb.guide.energy": ["energy"],
    "ebb.guide.inpaint": ["inpaint"],
    "ebb.guide.operators": ["Curved", "Operator", "blur", "downsample", "mask", "sensing"],
    "ebb.guide.inverse": ["dps", "mmps", "pigdm"],
    "ebb.guide.constrain": ["Ball", "Box", "HalfSpace", "Intersection", "constrain"],
    "ebb.train.objectives.classify": ["Classify"],
    "ebb.evaluate.measure": ["Evaluation", "measure"],
    "ebb.judge.features": ["Features"],
    "ebb.judge.ensemble": ["Ensemble", "train_ensemble"],
    "ebb.judge.distances": ["frechet", "kernel_distance"],
    "ebb.understand.concepts": ["Concept", "concepts", "emphasised"],
    "ebb.understand.likelihood": ["BitsPerDim", "bits_per_dim", "likelihood", "log_density"],
    "ebb.understand.straightness": ["straightness"],
    "ebb.understand.bound": ["Bound"],
    "ebb.understand.reconstruction": ["Reconstruction"],
    "ebb.understand.memorise": ["Memorisation", "memorisation"],
    "ebb.understand.levels": ["Levels"],
    "ebb.understand.probe": ["activations", "attention_maps", "sensitivity"],
    "ebb.doctor.finding": ["Diagnosis", "Finding"],
    "ebb.doctor.diagnose": ["diagnose"],
    "ebb.train.validate": ["Validation", "validation_of"],
    "ebb.train.ema": ["EMA"],
    "ebb.train.muon": ["Muon"],
    "ebb.train.objectives.coupling": ["COUPLINGS", "Nearest", "independent"],
    "ebb.train.loop": ["Training", "updates"],
    "ebb.train.objectives.objective": ["ConditionDropout", "Loss", "Objective"],
    "ebb.train.objectives.denoising": ["Denoising"],
    "ebb.system.sampler": ["Request", "Sampler"],
    "ebb.system.system": ["System", "load"],
    "ebb.edit.editor": ["Editor"],
    "ebb.errors": ["EbbError", "UsageError", "DataError", "ResourceError", "DamagedError"],
    "ebb.recipe.recipe": ["Recipe", "Sampling"],
    "ebb.run.rehearse": ["Rehearsal", "rehearse"],
}
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
