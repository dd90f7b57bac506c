"""The peers: what each row of the contest is made of, and how it computes a loss, averages its weights and samples.

A row "default" has the settings its package documents; a row "tuned" the same package as a skilled user would set it
for a short run on this machine. Networks, schedules, losses, averages and samplers are the packages' own code. Guidance
is off for all peers, which halves the cost of sampling and is the better choice for a distance.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Settings:
    """What a peer's run is made of: plain values, kept with each of its results.

    `rate` is the course of the learning rate: "constant", "cosine" (500 steps of warm-up, zero after 100 passes) or
    "budget" (a twentieth of the time of warm-up, level, and straight to zero over the last quarter). A `fast` row times
    bf16 and fp32, in channels_last and not, and takes the fastest, within its own time; its optimiser is fused, and it
    keeps freed memory as ebb does.
    """

    package: str
    row: str
    network: dict[str, Any]
    process: dict[str, Any]
    batch: int
    optimiser: str
    lr: float
    betas: tuple[float, float]
    average: dict[str, Any] | None
    sampler: dict[str, Any]
    weight_decay: float = 0.0
    rate: str = "constant"
    clip: float | None = None
    flip: bool = False
    fast: bool = False
    remarks: str = ""


class Package(Protocol):
    """A peer's network with what its package does around it; images are [b, c, h, w] in [−1, 1]."""

    network: nn.Module

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch, at random times."""

    def follow(self) -> Callable[[], None]:
        """Begin to average the weights; what it returns is to be called after each update."""

    def weights(self) -> dict[str, Tensor]:
        """The weights it would sample from now."""

    def sample(self, labels: Tensor) -> Tensor:
        """Samples of the labels [b], around [−1, 1]."""

    def once(self, images: Tensor, labels: Tensor) -> object:
        """One evaluation of the network, to count its arithmetic."""


class Diffusers:
    """UNet2DModel, DDPMScheduler and EMAModel; sampled by DDIMScheduler or DPMSolverMultistepScheduler."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        import diffusers

        diffusers.utils.logging.set_verbosity_error()
        self.settings, self.device, self.averaged = settings, device, None
        self.network = diffusers.UNet2DModel(**settings.network).to(device)
        self.scheduler = diffusers.DDPMScheduler(**settings.process)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        noise = torch.randn_like(images)
        steps = torch.randint(self.scheduler.config.num_train_timesteps, (len(images),), device=self.device)
        target = noise
        if self.scheduler.config.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(images, noise, steps)
        found = self.network(self.scheduler.add_noise(images, noise, steps), steps, labels).sample
        return nn.functional.mse_loss(found.float(), target)

    def follow(self) -> Callable[[], None]:
        from diffusers.training_utils import EMAModel

        self.averaged = EMAModel(self.network.parameters(), **self.settings.average)
        return lambda: self.averaged.step(self.network.parameters())

    def weights(self) -> dict[str, Tensor]:
        network = copy.deepcopy(self.network)
        if self.averaged is not None:
            self.averaged.copy_to(network.parameters())
        return network.state_dict()

    def sample(self, labels: Tensor) -> Tensor:
        import diffusers

        kind, steps = self.settings.sampler["kind"], self.settings.sampler["steps"]
        own = {name: value for name, value in self.settings.sampler.items() if name not in ("kind", "steps")}
        scheduler = getattr(diffusers, kind).from_config(self.scheduler.config, **own)
        scheduler.set_timesteps(steps)
        shape = len(labels), self.network.config.in_channels, *2 * [self.network.config.sample_size]
        x = torch.randn(shape, device=self.device)
        for t in scheduler.timesteps:
            x = scheduler.step(self.network(x, t, labels).sample.float(), t, x).prev_sample
        return x

    def once(self, images: Tensor, labels: Tensor) -> object:
        return self.network(images, 500, labels)


class Lucidrains:
    """Unet and GaussianDiffusion of denoising_diffusion_pytorch.classifier_free_guidance, EMA of ema_pytorch.

    The package's Trainer reads a folder and knows no labels; the loop of the contest does what it does.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        without_torchvision()
        from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion, Unet

        self.settings, self.device, self.averaged = settings, device, None
        sampler = {"sampling_timesteps": settings.sampler["steps"], "ddim_sampling_eta": settings.sampler["eta"]}
        self.network = GaussianDiffusion(Unet(**settings.network), **settings.process, **sampler).to(device)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.network((images + 1) / 2, classes=labels)

    def follow(self) -> Callable[[], None]:
        from ema_pytorch import EMA

        self.averaged = EMA(self.network, **self.settings.average)
        return self.averaged.update

    def weights(self) -> dict[str, Tensor]:
        return (self.network if self.averaged is None else self.averaged.ema_model).state_dict()

    def sample(self, labels: Tensor) -> Tensor:
        model = self.network.model

        def unguided(x: Tensor, time: Tensor, classes: Tensor, **_: object) -> tuple[Tensor, Tensor]:
            """With cond_scale = 1 the package's own answers one tensor where its caller takes two, and fails."""
            found = model(x, time, classes, cond_drop_prob=0.0)
            return found, found

        model.forward_with_cond_scale = unguided
        return 2 * self.network.sample(labels, cond_scale=1.0) - 1

    def once(self, images: Tensor, labels: Tensor) -> object:
        return self.network.model(images, torch.full((len(images),), 500, device=images.device), labels)


def without_torchvision() -> None:
    """Let denoising-diffusion-pytorch be imported where torchvision has no build: its trainer needs it, its networks
    and samplers do not."""
    for name in ("torchvision", "pytorch_fid", "pytorch_fid.fid_score", "pytorch_fid.inception"):
        sys.modules.setdefault(name, MagicMock())


PACKAGES: dict[str, Callable[[Settings, torch.device], Package]] = {
    "diffusers": Diffusers,
    "denoising-diffusion-pytorch": Lucidrains,
}


def unet(side: int, channels: int, widths: tuple[int, ...], attention: tuple[int, ...], **more: Any) -> dict[str, Any]:
    """Arguments of UNet2DModel with labels; `attention` are the levels that attend, 0 the highest resolution."""
    down = ["AttnDownBlock2D" if level in attention else "DownBlock2D" for level in range(len(widths))]
    up = [kind.replace("Down", "Up") for kind in reversed(down)]
    return more | {
        "sample_size": side,
        "in_channels": channels,
        "out_channels": channels,
        "layers_per_block": 2,
        "block_out_channels": widths,
        "down_block_types": down,
        "up_block_types": up,
        "num_class_embeds": 10,
    }


COURSE = unet(28, 1, (32, 64, 64), (1, 2))
"""The network of Hugging Face's diffusion course, unit 2, with the library's own embedding of labels where the course
appends one to the input."""

GOOGLE = {"attention_head_dim": None, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1}
"""What google/ddpm-cifar10-32 sets besides its widths."""

DDIM_50 = {"kind": "DDIMScheduler", "steps": 50}

DPM_20 = {
    "kind": "DPMSolverMultistepScheduler",
    "steps": 20,
    "timestep_spacing": "trailing",
    "lambda_min_clipped": -5.1,  # "critical for the cosine schedule", as its documentation says
}


def tuned_diffusers(network: dict[str, Any], flip: bool) -> Settings:
    """A small network the fastest way, v-prediction, and a learning rate sized to the time."""
    return Settings(
        package="diffusers",
        row="tuned",
        network=network,
        process={"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
        batch=32,
        optimiser="AdamW",
        lr=1e-3,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        average={"decay": 0.9999, "use_ema_warmup": True, "inv_gamma": 1.0, "power": 0.75},
        sampler=DPM_20,
        rate="budget",
        clip=1.0,
        flip=flip,
        fast=True,
    )


def lucidrains(tuned: bool, side: int, channels: int, dim: int, mults: tuple[int, ...]) -> Settings:
    """The Trainer's own settings, or a larger batch, learning rate and average; colour is mirrored."""
    network = {"dim": dim, "dim_mults": mults, "channels": channels, "num_classes": 10}
    process = {"image_size": side, "timesteps": 1000}
    shared = {
        "package": "denoising-diffusion-pytorch", "optimiser": "Adam", "betas": (0.9, 0.99), "clip": 1.0,
        "flip": channels == 3,
    }  # fmt: skip
    if not tuned:
        return Settings(
            row="default",
            network=network | {"cond_drop_prob": 0.5},
            process=process,
            batch=16,
            lr=1e-4,
            average={"beta": 0.995, "update_every": 10},
            sampler={"kind": "DDIM", "steps": 50, "eta": 1.0},  # 1 is this class's default
            **shared,
        )
    return Settings(
        row="tuned",
        network=network | {"cond_drop_prob": 0.0},  # guidance is off: no label need be hidden
        process=process | {"objective": "pred_v"},
        batch=32,
        lr=1e-3,
        rate="budget",
        fast=True,
        average={"beta": 0.9999, "power": 0.75, "update_every": 1, "update_after_step": 0},
        sampler={"kind": "DDIM", "steps": 50, "eta": 0.0},
        **shared,
    )


PEERS: dict[str, dict[str, Settings]] = {
    "mnist": {
        "diffusers": Settings(
            package="diffusers",
            row="default",
            network=COURSE,
            process={"beta_schedule": "squaredcos_cap_v2"},
            batch=128,
            optimiser="Adam",
            lr=1e-3,
            betas=(0.9, 0.999),
            average=None,
            sampler=DDIM_50,
            remarks="settings of Hugging Face's diffusion course, unit 2",
        ),
        "denoising-diffusion-pytorch": lucidrains(False, 28, 1, 32, (1, 2, 4)),
        "diffusers, tuned": tuned_diffusers(COURSE, flip=False),
        "denoising-diffusion-pytorch, tuned": lucidrains(True, 28, 1, 32, (1, 2, 4)),
    },
    "cifar10": {
        "diffusers": Settings(
            package="diffusers",
            row="default",
            network=unet(32, 3, (128, 256, 256, 256), (1,), norm_eps=1e-6, **GOOGLE),
            process={"beta_schedule": "linear"},
            batch=16,
            optimiser="AdamW",
            lr=1e-4,
            betas=(0.95, 0.999),
            weight_decay=1e-6,
            average={"decay": 0.9999, "use_ema_warmup": True, "inv_gamma": 1.0, "power": 0.75},
            sampler=DDIM_50,
            rate="cosine",
            clip=1.0,
            flip=True,
            remarks="network of google/ddpm-cifar10-32, settings of examples/unconditional_image_generation",
        ),
        "denoising-diffusion-pytorch": lucidrains(False, 32, 3, 64, (1, 2, 4, 8)),
        "diffusers, tuned": tuned_diffusers(unet(32, 3, (64, 128, 128), (1,)), flip=True),
        "denoising-diffusion-pytorch, tuned": lucidrains(True, 32, 3, 32, (1, 2, 4)),
    },
}
