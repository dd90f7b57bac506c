"""The same small network, the same number of evaluations: samples a second, ebb against its peers.

    make bench-sample

Each peer is run as its documentation shows first, and with the fast options it documents; ebb with the same network in
the same precision, and as it would choose. Batch 16 of 3×32×32, 20 steps of DDIM. The network is each peer's own, and
then the one that `ebb train` picks for such pictures, around which all three sample.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from unittest.mock import MagicMock

import torch
from contest import contest
from torch import Tensor, nn

import ebb
from ebb.machine import keep_freed_memory

BATCH, STEPS, SIDE = 16, 20, 32


class Adapted(nn.Module):
    """A peer's network as ebb calls one: (x, told time in steps of a thousand, cond)."""

    def __init__(self, network: nn.Module, answer: Callable[[object], Tensor]) -> None:
        super().__init__()
        self.network, self.answer = network, answer

    def forward(self, x: Tensor, time: Tensor, cond: object) -> Tensor:
        return self.answer(self.network(x, time))


def thousandths(path: ebb.Path, t: Tensor) -> Tensor:
    """What both peers tell their networks: the index of the step, 0 … 999."""
    return t * 1000 - 1


def unet_of_diffusers() -> nn.Module:
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=SIDE,
        block_out_channels=(64, 128, 128),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ).eval()


def without_torchvision() -> None:
    """Let denoising-diffusion-pytorch be imported where torchvision has no build: its trainer needs it, its network and
    sampler do not."""
    for name in ("torchvision", "pytorch_fid", "pytorch_fid.fid_score", "pytorch_fid.inception"):
        sys.modules.setdefault(name, MagicMock())


def unet_of_lucidrains() -> nn.Module:
    without_torchvision()
    from denoising_diffusion_pytorch import Unet

    torch.manual_seed(0)
    return Unet(dim=64, dim_mults=(1, 2, 2)).eval()


class Small(nn.Module):
    """The network of `ebb.recipe.starting.small`, called as both peers call theirs: (x, index of the step)."""

    channels = out_dim = 3
    self_condition = random_or_learned_sinusoidal_cond = False

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = ebb.UNet(3, width=96, multipliers=(1, 2), depth=2, patch=2, attention=())

    def forward(self, x: Tensor, time: Tensor, unused: None = None) -> Tensor:
        told = torch.as_tensor(time, dtype=x.dtype).expand(len(x))
        return self.network(x, told / 1000, {})


def small() -> nn.Module:
    return Small().eval()


def scheduler(fast: bool) -> Callable[[], object]:
    """diffusers' loop of a scheduler around any network, as its page on taking pipelines apart shows."""
    from diffusers import DDIMScheduler

    network, steps = small(), DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    if fast:
        network = torch.compile(network.to(memory_format=torch.channels_last))

    def sample() -> object:
        steps.set_timesteps(STEPS)
        x = torch.randn(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=fast):
            for t in steps.timesteps:
                x = steps.step(network(x, t), t, x).prev_sample
        return x

    return sample


def lucidrains_around(fast: bool) -> Callable[[], object]:
    """denoising-diffusion-pytorch's sampler around ebb's network."""
    return lucidrains(fast, small)


def diffusers(fast: bool) -> Callable[[], object]:
    from diffusers import DDIMPipeline, DDIMScheduler
    from diffusers.utils import logging

    logging.set_verbosity_error()
    unet = unet_of_diffusers()
    pipe = DDIMPipeline(unet, DDIMScheduler(clip_sample=False, timestep_spacing="trailing"))
    pipe.set_progress_bar_config(disable=fast)
    if fast:  # https://huggingface.co/docs/diffusers/optimization/fp16: channels_last, compile, lower precision
        pipe.unet = torch.compile(pipe.unet.to(memory_format=torch.channels_last))

    def sample() -> object:  # bf16 by autocast: with bf16 weights this pipeline fails where it makes an array
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            return pipe(batch_size=BATCH, num_inference_steps=STEPS, output_type="np" if fast else "pil")

    return sample


def lucidrains(fast: bool, network: Callable[[], nn.Module] = unet_of_lucidrains) -> Callable[[], object]:
    without_torchvision()
    from denoising_diffusion_pytorch import GaussianDiffusion

    unet = network()
    if fast:  # its pages name none for sampling; these are PyTorch's own
        unet = torch.compile(unet.to(memory_format=torch.channels_last))
    diffusion = GaussianDiffusion(unet, image_size=SIDE, timesteps=1000, sampling_timesteps=STEPS)

    def sample() -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            return diffusion.sample(batch_size=BATCH)

    return sample


def with_ebb(
    network: Callable[[], nn.Module], answer: Callable[[object], Tensor], fast: bool, compiled: bool
) -> Callable[[], object]:
    keep_freed_memory()
    module = network().requires_grad_(False)
    module = module.to(memory_format=torch.channels_last) if fast else module
    denoiser = ebb.NetworkDenoiser(Adapted(module, answer), ebb.DDPMLinear(), ebb.PREDICTIONS["noise"], thousandths)
    times = ebb.GRIDS["trailing"](denoiser.path, STEPS)
    whole = ebb.fused if compiled else functools.partial(functools.partial, ebb.trajectory)
    follow = whole(denoiser, ebb.DDIM(), times)

    def sample() -> Tensor:
        noise = ebb.Noise.of(0, BATCH)
        x = noise.start((3, SIDE, SIDE))
        x = x.contiguous(memory_format=torch.channels_last) if fast else x
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            for point in follow(x, {}, noise):
                x = point.x
        return x

    return sample


def sample_of(output: object) -> Tensor:
    return output.sample


def itself(output: object) -> Tensor:
    return output


def round_against(peers: dict[str, Callable[[bool], object]], network: object, answer: object) -> dict[str, object]:
    """The contenders around one network."""
    ours = functools.partial(with_ebb, network, answer)
    ways = {"as its pages show": False, "with fast options": True}
    theirs = {
        f"{name}, {way}": functools.partial(peer, fast) for name, peer in peers.items() for way, fast in ways.items()
    }
    return theirs | {
        "ebb, the same precision": functools.partial(ours, False, False),
        "ebb, bf16 channels_last": functools.partial(ours, True, False),
        "ebb, bf16 channels_last, compiled": functools.partial(ours, True, True),
    }


if __name__ == "__main__":
    for contenders in (
        round_against({"diffusers": diffusers}, unet_of_diffusers, sample_of),
        round_against({"lucidrains": lucidrains}, unet_of_lucidrains, itself),
        round_against({"diffusers": scheduler, "lucidrains": lucidrains_around}, small, itself),
    ):
        results = contest(contenders, repeats=5)
        slowest = next(iter(results.values()))[0]
        for name, (median, prepared) in results.items():
            rate = BATCH / median
            print(f"{name:36s} {rate:7.1f} samples/s  ×{slowest / median:.2f}  ready in {prepared:.0f} s", flush=True)
