"""What the sampler adds to the network: whole trajectories against bare network calls, and one step against diffusers'.

    make bench-sample

Ratios of medians of interleaved repeats in one process; nothing here waits for an accelerator unless there is one.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

import ebb
from ebb.machine import keep_freed_memory
from ebb.process.moment import at
from ebb.sample.fused import Fused
from ebb.sample.trajectory import Denoise
from ebb.system.families.family import in_place

STEPS = 20


def seconds(run: Callable[[], object]) -> float:
    """The time of one run, of the accelerator too."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def medians(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median time of each, interleaved, in turning order."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for repeat in range(repeats + 1):
        for name in names if repeat % 2 else reversed(names):
            spent = seconds(runs[name])
            if repeat:
                took[name].append(spent)
    return {name: statistics.median(times) for name, times in took.items()}


def unet(channels: int, width: int, depth: int, patch: int) -> ebb.NetworkDenoiser:
    torch.manual_seed(0)
    network = ebb.UNet(channels, width=width, depth=depth, patch=patch, multipliers=(1, 2))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02)
    return in_place(ebb.NetworkDenoiser(network, ebb.Linear(), ebb.velocity)).requires_grad_(False).eval()


def overhead() -> None:
    """Whole trajectory ÷ the same number of bare calls, for networks of about 1, 10 and 100 ms."""
    cases = {
        "1×1×8×8": (unet(1, 64, 1, 1), (1, 1, 8, 8), 201),
        "4×3×32×32": (unet(3, 64, 2, 2), (4, 3, 32, 32), 51),
        "64×3×32×32": (unet(3, 64, 2, 2), (64, 3, 32, 32), 15),
    }
    for shape, (denoiser, size, repeats) in cases.items():
        found = medians(runs_of(denoiser, torch.randn(size)), repeats)
        eager, compiled = found.pop("bare calls") / STEPS, found.pop("bare compiled") / STEPS
        print(f"{shape:11s} network {eager * 1e3:6.2f} ms, compiled {compiled * 1e3:6.2f} ms")
        for name, spent in found.items():
            beside = f"  ÷ compiled {spent / STEPS / compiled:.4f}" if "fused" in name else ""
            print(f"    {name:14s} {spent / STEPS / eager:.4f}{beside}", flush=True)


def runs_of(denoiser: ebb.NetworkDenoiser, x: Tensor) -> dict[str, Callable[[], object]]:
    """Bare calls of the network, and whole trajectories of as many calls."""
    told, noise = torch.full((len(x),), 0.5), ebb.Noise.of(0, len(x))
    times = ebb.GRIDS["uniform"](denoiser.path, STEPS)

    def bare(network: nn.Module) -> None:
        with torch.no_grad():
            for _ in range(STEPS):
                network(x, told, {})

    def whole(solver: ebb.Solver) -> None:
        for _ in ebb.trajectory(denoiser, solver, times, x, {}, noise):
            pass

    def follow(compiled: Fused) -> None:
        for _ in compiled(x, {}, noise):
            pass

    runs: dict[str, Callable[[], object]] = {
        "bare calls": functools.partial(bare, denoiser.network),
        "bare compiled": functools.partial(bare, torch.compile(denoiser.network)),
    }
    for name in ("ddim", "dpmpp_2m"):
        runs[name] = functools.partial(whole, ebb.SOLVERS[name])
        runs[f"{name} fused"] = functools.partial(follow, ebb.fused(denoiser, ebb.SOLVERS[name], times))
    return runs


def one_step() -> None:
    """A step of 2M alone, from the network's answer to the next x, at 64×3×32×32."""
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(timestep_spacing="trailing")
    x, answer = torch.randn(64, 3, 32, 32), torch.randn(64, 3, 32, 32)
    path = ebb.DDPMLinear()
    denoiser = ebb.NetworkDenoiser(Answers(answer), path, ebb.PREDICTIONS["noise"])
    moments = [at(path, t) for t in ebb.GRIDS["trailing"](path, STEPS).tolist()]
    solver, draw = ebb.DPMpp2M(), ebb.Noise.of(0, 64)

    def theirs() -> None:
        scheduler.set_timesteps(STEPS)
        now = x
        for t in scheduler.timesteps[: STEPS - 1]:
            now = scheduler.step(answer, t, now).prev_sample

    def ours() -> None:
        now, memory, denoise = x, None, Denoise(denoiser)
        for t, s in pairwise(moments[:STEPS]):
            now, _, memory = solver.step(denoise, now, t, s, {}, memory, draw)

    fused = ebb.fused(denoiser, solver, torch.tensor([m.time for m in moments[:STEPS]], dtype=torch.float64))

    def compiled() -> None:
        for _ in fused(x, {}, draw):
            pass

    with torch.no_grad():
        found = medians({"diffusers": theirs, "ebb": ours, "ebb, fused": compiled}, 51)
    for name, spent in found.items():
        ratio = found["diffusers"] / spent
        print(f"2M step at 64×3×32×32, {name:10s} {spent / (STEPS - 1) * 1e6:7.1f} µs  ×{ratio:.2f}")


class Answers(nn.Module):
    """A network that takes no time."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, time: Tensor, cond: object) -> Tensor:
        return self.answer


if __name__ == "__main__":
    torch.set_num_threads(2)
    keep_freed_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; trajectories ÷ as many bare calls")
    overhead()
    one_step()
