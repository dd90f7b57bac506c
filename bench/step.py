"""What an update costs: images a second at equal arithmetic, GFLOP/s, memory, and the time to the first one.

    make bench-step

An update is forward, backward, clipping, optimiser and average; ebb's also gathers its batch and guards itself, while
the peers' batch is ready in memory. Peers are run as their documentation shows first, and with the fast options of
PyTorch that they name or allow: bf16 by autocast, channels_last, fused and foreach. Their widths are chosen for the
arithmetic, or the number of parameters, of ebb's default network. Prints tables, then one line of JSON.
"""

from __future__ import annotations

import functools
import json
import math
import multiprocessing
import os
import re
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import Prepare, contest
from end_to_end import without_torchvision
from torch import Tensor, nn

from ebb.data.dataset import Dataset, Summary
from ebb.events import finished
from ebb.machine import keep_freed_memory, matrix_rate
from ebb.recipe.recipe import Recipe
from ebb.recipe.starting import complete
from ebb.run.build import Built, build, updates_of
from ebb.run.meter import peak_memory_mb
from ebb.run.prepare import prepared
from ebb.run.rehearse import forward_gflop
from ebb.system.families.family import facts_of
from ebb.understand.cost import gflop

Shape = tuple[int, int, int]

SHAPES: dict[str, Shape] = {"MNIST": (1, 28, 28), "CIFAR-10": (3, 32, 32)}
BATCH, THREADS, CPU = 128, 2, torch.device("cpu")
WITHIN = 0.1
"""How far a peer's arithmetic or parameters may be from ebb's."""

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # everything here runs on the CPU, child processes too

EBB = Path(__file__).parents[1] / ".venv/bin/ebb"
"""Of the environment that has what `ebb train digits` asks for."""


def pictures(shape: Shape, count: int) -> Dataset:
    """Noise in ten classes, held as a data set in memory is."""
    rng = np.random.default_rng(0)
    names = tuple(map(str, range(10)))
    summary = Summary(
        kind="noise", name="noise", count=count, shape=shape, classes=dict.fromkeys(names, count // 10), captions=0,
        mean=[0.0] * shape[0], std=[0.58] * shape[0], histogram=[], fingerprint="", chosen={}, findings=(),
    )  # fmt: skip
    pixels = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return Dataset(pixels, rng.integers(0, 10, count), names, summary, None)


def default_of_ebb(shape: Shape, batch: int, precision: str, engine: str = "eager") -> tuple[Recipe, Built]:
    """What `ebb train` makes of pictures of this shape, in `batch` images, `precision` and `engine`."""
    asked = Recipe(batch=batch, precision=precision, engine=engine, steps=1)
    learnt = finished(prepared(asked, pictures(shape, 8 * batch)))
    recipe, _ = complete(asked, facts_of(learnt))
    return recipe, build(recipe, learnt, CPU)


def with_ebb(shape: Shape, batch: int, precision: str, engine: str = "eager") -> Callable[[], object]:
    keep_freed_memory()
    recipe, parts = default_of_ebb(shape, batch, precision, engine)
    made = updates_of(recipe, parts)
    return lambda: next(made).loss.item()


def unet_of_diffusers(shape: Shape, width: int, multipliers: tuple[int, ...] = (1, 2, 2)) -> nn.Module:
    """The network of Hugging Face's diffusion course, unit 2, there of width 32."""
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    return diffusers.UNet2DModel(
        sample_size=shape[1],
        in_channels=shape[0],
        out_channels=shape[0],
        layers_per_block=2,
        block_out_channels=tuple(m * width for m in multipliers),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=math.gcd(width, 32),
    )


def unet_of_lucidrains(shape: Shape, width: int) -> nn.Module:
    """The network of its README, there of width 64 and four levels; here of three, as 28×28 can be halved."""
    without_torchvision()
    from denoising_diffusion_pytorch import Unet

    return Unet(width, dim_mults=(1, 2, 4), channels=shape[0], flash_attn=True)


NETWORKS: dict[str, Callable[[Shape, int], nn.Module]] = {
    "diffusers": unet_of_diffusers,
    "diffusers, one width": functools.partial(
        unet_of_diffusers, multipliers=(1, 1, 1)
    ),  # wider where pictures are large
    "denoising-diffusion-pytorch": unet_of_lucidrains,
}


def parameters(network: nn.Module, shape: Shape) -> float:
    """10^6 numbers that are learnt."""
    return sum(p.numel() for p in network.parameters()) / 1e6


def arithmetic(network: nn.Module, shape: Shape) -> float:
    """GFLOP of a forward pass of one image."""
    with torch.no_grad():
        return gflop(lambda: network(torch.zeros(1, *shape), torch.zeros(1, dtype=torch.long)))


def fitted(peer: str, shape: Shape, size: Callable[[nn.Module, Shape], float], wanted: float) -> tuple[int, float]:
    """(width, size) of the peer's network whose size is nearest to `wanted`; ValueError if none is near enough."""
    found = list[tuple[int, float]]()
    for width in range(8, 260, 2):  # sine and cosine need an even width
        found.append((width, size(NETWORKS[peer](shape, width), shape)))
        if found[-1][1] > wanted:
            break
    width, nearest = min(found[-2:], key=lambda one: abs(one[1] - wanted))
    if abs(nearest / wanted - 1) > WITHIN:
        raise ValueError(
            f"{peer}: no width is within {WITHIN:.0%} of {wanted:.3g}; nearest is {width} with {nearest:.3g}"
        )
    return width, nearest


def laid_out(x: Any, fast: bool) -> Any:
    return x.to(memory_format=torch.channels_last) if fast else x


def updating(
    network: nn.Module,
    loss: Callable[[], Tensor],
    optimiser: torch.optim.Optimizer,
    average: Callable[[], object],
    fast: bool,
) -> Callable[[], object]:
    """The update that both peers' own loops make."""

    def update() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            found = loss()
        found.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        average()
        return found.item()

    return update


def with_diffusers(peer: str, shape: Shape, batch: int, width: int, fast: bool) -> Callable[[], object]:
    """As examples/unconditional_image_generation of diffusers, with its --use_ema."""
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    network, scheduler = laid_out(NETWORKS[peer](shape, width), fast), DDPMScheduler()
    images = laid_out(2 * torch.rand(batch, *shape) - 1, fast)

    def loss() -> Tensor:
        noise, steps = torch.randn_like(images), torch.randint(1000, (batch,))
        return nn.functional.mse_loss(network(scheduler.add_noise(images, noise, steps), steps).sample.float(), noise)

    optimiser = torch.optim.AdamW(
        network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, fused=fast or None
    )
    average = EMAModel(network.parameters(), use_ema_warmup=True, inv_gamma=1.0, power=0.75, foreach=fast)
    return updating(network, loss, optimiser, lambda: average.step(network.parameters()), fast)


def with_lucidrains(peer: str, shape: Shape, batch: int, width: int, fast: bool) -> Callable[[], object]:
    """As the package's Trainer; its average moves at every tenth update."""
    unet = laid_out(NETWORKS[peer](shape, width), fast)
    from denoising_diffusion_pytorch import GaussianDiffusion
    from ema_pytorch import EMA

    diffusion = GaussianDiffusion(unet, image_size=shape[1], timesteps=1000)
    images = laid_out(torch.rand(batch, *shape), fast)
    optimiser = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99), fused=fast or None)
    average = EMA(diffusion, beta=0.995, update_every=10)
    return updating(diffusion, lambda: diffusion(images), optimiser, average.update, fast)


UPDATES = {
    "diffusers": with_diffusers,
    "diffusers, one width": with_diffusers,
    "denoising-diffusion-pytorch": with_lucidrains,
}


def contenders(
    shape: Shape, batch: int, size: Callable[[nn.Module, Shape], float], wanted: float, peers: tuple[str, ...]
) -> tuple[dict[str, Prepare], dict[str, float]]:
    """Those that update a network of the same size, by name, and the size of each one's network."""
    made: dict[str, Prepare] = {
        "ebb, as it would choose (bf16)": functools.partial(with_ebb, shape, batch, "bf16"),
        "ebb, fp32": functools.partial(with_ebb, shape, batch, "fp32"),
    }
    sizes = dict.fromkeys(made, wanted)
    for peer in peers:
        width, near = fitted(peer, shape, size, wanted)
        for fast, how in ((False, "as its pages show"), (True, "with fast options")):
            name = f"{peer} {width}, {how}"
            made[name], sizes[name] = functools.partial(UPDATES[peer], peer, shape, batch, width, fast), near
    return made, sizes


def speeds(shape: Shape, batch: int, repeats: int, threads: int) -> dict[str, dict[str, float]]:
    """Of each contender at equal GFLOP an image: images/s, GFLOP/s and what share of a bf16 matrix product's that is.

    The matrix product is measured before and after, and the faster one counts.
    """
    made, sizes = contenders(
        shape, batch, arithmetic, forward_gflop(default_of_ebb(shape, 1, "fp32")[1]), tuple(UPDATES)
    )
    name = "ebb, compiled (bf16)"
    made[name], sizes[name] = functools.partial(with_ebb, shape, batch, "bf16", "compiled"), next(iter(sizes.values()))
    torch.set_num_threads(threads)
    before = matrix_rate(torch.bfloat16, CPU) / 1e9
    results = contest(made, repeats, threads)
    matrix = max(before, matrix_rate(torch.bfloat16, CPU) / 1e9)
    found = {}
    for name, (median, ready) in results.items():
        speed, size = batch / median, sizes[name]
        rate = 3 * size * speed
        found[name] = {
            "images_per_second": speed, "forward_gflop": size, "gflops": rate, "share": rate / matrix,
            "matrix_gflops": matrix, "ready_in": ready,
        }  # fmt: skip
    return found


def peak(prepare: Prepare, threads: int) -> float:
    """MB that this process grows by from before the network exists to the peak of three updates."""
    import diffusers.training_utils  # noqa: F401  # so that every contender starts from the same

    torch.set_num_threads(threads)
    unet_of_diffusers((1, 8, 8), 8)
    before = peak_memory_mb()
    update = prepare()
    for _ in range(3):
        update()
    return peak_memory_mb() - before


def memories(shape: Shape, batch: int, threads: int) -> dict[str, dict[str, float]]:
    """Of ebb and diffusers at equal numbers of parameters: the most memory of an update, each in its own process."""
    network = default_of_ebb(shape, 1, "fp32")[1].system.denoiser.network
    made, sizes = contenders(shape, batch, parameters, parameters(network, shape), ("diffusers",))
    found = {}
    for name, prepare in made.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[name] = {"parameters_million": sizes[name], "peak_mb": pool.apply(peak, (prepare, threads))}
    return found


def first_updates(repeats: int, program: Path = EBB) -> list[float]:
    """Seconds from the start of `ebb train digits` to its first update, by --dry-run: up to there they do the same."""
    took = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            command = [str(program), "train", "digits", "--dry-run", "--run", f"{folder}/run"]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        took.append(float(re.search(r"first update +([\d.]+) s", said)[1]))
    return took


def show_speeds(case: str, found: Mapping[str, Mapping[str, float]]) -> None:
    ours = next(iter(found.values()))
    print(f"\n{case}, updates of {BATCH} images; a bf16 matrix product has {ours['matrix_gflops']:.0f} GFLOP/s")
    print(f"{'':56s} GFLOP an image  images/s  ebb is   GFLOP/s  share  ready in")
    for name, row in found.items():
        ratio = ours["images_per_second"] / row["images_per_second"]
        print(
            f"{name:56s} {row['forward_gflop']:14.3f} {row['images_per_second']:9.1f} {f'×{ratio:.2f}':>7s}"
            f" {row['gflops']:9.0f} {row['share']:6.0%} {row['ready_in']:7.1f} s"
        )


def show_memories(case: str, found: Mapping[str, Mapping[str, float]]) -> None:
    ours = next(iter(found.values()))
    print(f"\n{case}, peak memory of updates of {BATCH} images")
    print(f"{'':56s} million parameters        MB  ebb has")
    for name, row in found.items():
        ratio = row["peak_mb"] / ours["peak_mb"]
        print(f"{name:56s} {row['parameters_million']:18.2f} {row['peak_mb']:9.0f} {f'1/{ratio:.2f}':>8s}")


def main() -> None:
    torch.set_num_threads(THREADS)
    print(f"torch {torch.__version__}, {THREADS} threads")
    found: dict[str, Any] = {"torch": torch.__version__, "threads": THREADS, "batch": BATCH, "speed": {}, "memory": {}}
    for case, shape in SHAPES.items():
        found["speed"][case] = speeds(shape, BATCH, 7, THREADS)
        show_speeds(case, found["speed"][case])
    for case, shape in SHAPES.items():
        found["memory"][case] = memories(shape, BATCH, THREADS)
        show_memories(case, found["memory"][case])
    found["first_update"] = first_updates(3)
    print(f"\nebb train digits, from its start to the first update: {statistics.median(found['first_update']):.1f} s")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
