"""Both sides of the comparison with diffusers: its schedulers driven by hand, and the same network read by ebb.

A test file that imports this is skipped where diffusers is absent.
"""

from dataclasses import dataclass

import pytest
import torch

from ebb import testing
from ebb.networks.mlp import MLP
from ebb.process.denoiser import NetworkDenoiser, retime
from ebb.process.exact import finite
from ebb.process.path import EDM, DDPMLinear, Linear
from ebb.process.predict import PREDICTIONS, recover
from ebb.sample.adams import DEIS, ExponentialAB
from ebb.sample.ddim import DDIM, DDPM, Euler
from ebb.sample.dpm_sde import DPMpp2MSDE, DPMpp3MSDE
from ebb.sample.heun import Heun
from ebb.sample.multistep import DPMpp2M, DPMpp3M
from ebb.sample.trajectory import trajectory
from ebb.sample.unipc import UniPC

diffusers = pytest.importorskip("diffusers", reason="diffusers, the other implementation, is not installed")
diffusers.utils.logging.set_verbosity_error()

MARKS = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.usefixtures("one_thread"),
]
VP = DDPMLinear()
TABLE = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
TOLERANCE = {"double": 1e-5, "single": 1e-4}
NAMES = {"epsilon": "noise", "sample": "data", "v_prediction": "v", "flow_prediction": "velocity"}


class Tiny(torch.nn.Module):
    """F = x + (1 − t)·MLP(x, t) with random weights: x itself at the noise end, as any trained network would say."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.mlp = MLP(2, width=32, depth=2)
            for parameter in self.mlp.parameters():
                parameter.data += 0.2 * torch.randn_like(parameter)
        self.to(dtype)

    @torch.no_grad()
    def forward(self, x, told, cond):
        return x + (1 - told[:, None]) * self.mlp(x, told.to(x.dtype), cond)


@dataclass(frozen=True)
class Read:
    """A network read as a denoiser in float64, where `NetworkDenoiser` computes in float32."""

    network: torch.nn.Module
    path: object
    prediction: object

    def __call__(self, x, t, cond):
        F = self.network(x, t / self.path.end, cond)
        return recover(self.path, self.prediction, x, F, t.contiguous())


def draw(step, like, part=0):
    """The noise of a step, the same for both sides."""
    return torch.randn(like.shape, dtype=like.dtype, generator=torch.Generator().manual_seed(step))


def seeded(step, x):
    """That noise for a scheduler that draws it itself."""
    return {"generator": torch.Generator().manual_seed(step)}


def given(step, x):
    """That noise for a scheduler that takes it."""
    return {"variance_noise": draw(step, x)}


def make(name, **config):
    """A scheduler by name."""
    return getattr(diffusers, name + "Scheduler")(**config)


def ready(scheduler, steps=10, precision="double"):
    """The scheduler with its timesteps set, in `precision`."""
    if precision == "double" and hasattr(scheduler, "alphas_cumprod"):
        scheduler.alphas_cumprod = TABLE
    scheduler.set_timesteps(steps)
    if precision == "double" and hasattr(scheduler, "sigmas"):
        scheduler.sigmas = scheduler.sigmas.double()
    return scheduler


def follow(scheduler, F, x, told, extra=lambda step, x: {}):
    """x after every step of a scheduler that is `ready`, F(x, told) its network; Heun's two calls are one step."""
    points = []
    for i, t in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(F(seen, told[i].expand(len(x))), t, x, **extra(i, x)).prev_sample
        if getattr(scheduler, "dt", None) is None or i == len(scheduler.timesteps) - 1:
            points.append(x)
    return points


def ours(solver, denoiser, grid, x, noise=draw):
    return [point.x for point in trajectory(denoiser, solver, grid, x, {}, noise)]


def setting(scheduler):
    """(the path, what the network is told at each call, the grid): timestep k of the table is n = k + 1 of `VP`."""
    sigmas = scheduler.sigmas.double() if hasattr(scheduler, "sigmas") else None
    if "FlowMatch" in type(scheduler).__name__ or scheduler.config.get("use_flow_sigmas"):
        return Linear(), sigmas, sigmas.unique_consecutive()
    told = (scheduler.timesteps.double() + 1) / 1000
    if type(scheduler).__name__ in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
                                    "HeunDiscreteScheduler", "LMSDiscreteScheduler"):  # fmt: skip
        return EDM(float(sigmas[0])), told, sigmas.unique_consecutive()
    last = torch.zeros(1, dtype=torch.float64) if sigmas is None else VP.time(sigmas[-1:])
    return VP, told, torch.cat([told, last])


def the_point(path):
    """Data at one point: x̂0 is that point, so a deterministic solver is exact after every step, on any grid."""
    return finite(path, torch.tensor([[0.7, -0.4]], dtype=torch.float64))


def perfect(denoiser, prediction):
    """The network that answers F(x, told) for an exact denoiser."""

    def network(x, told):
        x, t = x.double(), told.double() * denoiser.path.end
        x0, (a, b) = denoiser(x, t, {}), PREDICTIONS[prediction](denoiser.path, t)
        return a[:, None] * x0 + b[:, None] * denoiser.path.noise(x, x0, t)

    return network


def plain(step, x):
    return {}


BETAS = {"beta_start": 1e-4, "beta_end": 0.02}
FULL = {"lower_order_final": False}
HIGHER = {"timestep_spacing": "leading", "steps_offset": 20}
FLOW = {"use_flow_sigmas": True}
SDE = {"algorithm_type": "sde-dpmsolver++", **FULL}
NOT_CLIPPED = {"clip_sample": False, "timestep_spacing": "trailing"}
CASES = {
    "ddim": ("DDIM", NOT_CLIPPED, DDIM(), plain),
    "ddim leading": ("DDIM", {"clip_sample": False}, DDIM(), plain),
    "ddim eta 1": ("DDIM", NOT_CLIPPED, DDIM(1.0), lambda i, x: {"eta": 1.0, **given(i, x)}),
    "ddim eta 0.5": ("DDIM", {"clip_sample": False}, DDIM(0.5), lambda i, x: {"eta": 0.5, **given(i, x)}),
    "ddpm small": ("DDPM", NOT_CLIPPED, DDPM(), seeded),
    "ddpm large": ("DDPM", {"clip_sample": False, "variance_type": "fixed_large"}, DDPM("large"), seeded),
    "2m": ("DPMSolverMultistep", FULL, DPMpp2M(), plain),
    "2m trailing": ("DPMSolverMultistep", {"timestep_spacing": "trailing"}, DPMpp2M(), plain),
    "2m to sigma_min": ("DPMSolverMultistep", {"final_sigmas_type": "sigma_min", **FULL}, DPMpp2M(), plain),
    "2m heun": ("DPMSolverMultistep", {"solver_type": "heun", **FULL}, ExponentialAB(2), plain),
    "2m sde": ("DPMSolverMultistep", SDE, DPMpp2MSDE(), given),
    "2m inverted": ("DPMSolverMultistepInverse", {**FULL, **HIGHER}, DPMpp2M(), plain),
    "unipc 2": ("UniPCMultistep", {}, UniPC(2), plain),
    "unipc 3": ("UniPCMultistep", {"solver_order": 3, "final_sigmas_type": "sigma_min", **FULL}, UniPC(3), plain),
    "deis 2": ("DEISMultistep", FULL, DEIS(2, "lam"), plain),
    "deis 3": ("DEISMultistep", {"solver_order": 3, **FULL}, DEIS(3, "lam"), plain),
    "euler": ("EulerDiscrete", BETAS, Euler(), plain),
    "euler leading": ("EulerDiscrete", {"timestep_spacing": "leading", **BETAS}, Euler(), plain),
    "heun": ("HeunDiscrete", BETAS, Heun(), plain),
    "heun trailing": ("HeunDiscrete", {"timestep_spacing": "trailing", **BETAS}, Heun(), plain),
    "lms": ("LMSDiscrete", BETAS, DEIS(3, "nsr"), lambda i, x: {"order": 3}),
    "euler ancestral": ("EulerAncestralDiscrete", BETAS, DDIM(1.0), seeded),
}  # fmt: skip
DIFFUSION = list(CASES)
FLOWS = {
    "flow euler": ("FlowMatchEulerDiscrete", {"shift": 3.0}, Euler(), plain),
    "flow heun": ("FlowMatchHeunDiscrete", {"shift": 3.0}, Heun(), plain),
    "flow 2m": ("DPMSolverMultistep", {**FLOW, **FULL}, DPMpp2M(), plain),
    "flow 2m sde": ("DPMSolverMultistep", {**FLOW, **SDE}, DPMpp2MSDE(), given),
    "flow unipc": ("UniPCMultistep", FLOW, UniPC(2), plain),
}
CASES |= FLOWS
SAMPLED = [
    (name, prediction)
    for name in DIFFUSION
    for prediction in ("epsilon", "v_prediction", "sample")
    if (name, prediction) != ("euler ancestral", "sample")  # which diffusers does not have
] + [(name, "flow_prediction") for name in FLOWS]

CASES |= {
    "3m": ("DPMSolverMultistep", {"solver_order": 3, "solver_type": "heun", **FULL}, DPMpp3M(), plain),
    "3m sde": ("DPMSolverMultistep", {"solver_order": 3, "solver_type": "heun", **SDE}, DPMpp3MSDE(), given),
}
"""Not the same formula: test_where_diffusers_differs.py."""


def agree(name, prediction, precision="double", change=lambda solver: solver):
    """Raise AssertionError unless both give the same x after every step of the case."""
    kind, config, solver, extra = CASES[name]
    if "FlowMatch" not in kind:
        config = {"prediction_type": prediction, **config}
    dtype = torch.float64 if precision == "double" else torch.float32
    scheduler, network = ready(make(kind, **config), precision=precision), Tiny(dtype)
    path, told, grid = setting(scheduler)
    x = torch.randn(4, 2, dtype=dtype, generator=torch.Generator().manual_seed(7))
    x = x * (scheduler.init_noise_sigma if isinstance(path, EDM) else 1)
    native, read = VP if isinstance(path, EDM) else path, PREDICTIONS[NAMES[prediction]]
    denoiser = Read(network, native, read) if precision == "double" else NetworkDenoiser(network, native, read)
    theirs = follow(scheduler, lambda x, told: network(x, told.to(x.dtype), {}), x, told, extra)
    mine = ours(change(solver), denoiser if native is path else retime(denoiser, path), grid, x)
    if name == "lms":  # its last step extrapolates ε̂ to σ = 0 too; every solver of ebb ends on x̂0
        mine, theirs = mine[:-1], theirs[:-1]
    for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        testing.close(f"{name}, {prediction}, after step {i + 1}", a, b, TOLERANCE[precision])
