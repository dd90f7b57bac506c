"""Twenty faults, planted one at a time in small real runs, data and models; and ten healthy runs.

    make bench-doctor
    make bench-cures     does the advice help? Its commands are pasted into a shell, and the doctor is asked again

How many of the faults does `ebb doctor` find, and how often does it complain of a healthy run? Everything is made here,
of handwritten digits and two photographs that come with scikit-learn: about ten minutes on two cores. A fault counts
as found if one of the findings it should lead to is among those reported.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor, nn

from ebb.doctor.diagnose import Subject, diagnose
from ebb.errors import EbbError, UsageError
from ebb.events import finished
from ebb.process.predict import PREDICTIONS
from ebb.recipe.groups import DiTRecipe, OptimiserRecipe, UNetRecipe
from ebb.recipe.recipe import Recipe
from ebb.run.train import train
from ebb.store import checkpoint
from ebb.system.system import load, locate

STEPS = 1000
NETWORK = UNetRecipe(width=32)
COMMON: dict[str, Any] = {"steps": STEPS, "batch": 64, "sheets": 1, "precision": "fp32", "network": NETWORK, "seed": 0}
SCRATCH = Path(tempfile.gettempdir()) / "ebb-bench-doctor"
QUIET = Console(quiet=True)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 digits, uint8 [n, 1, 8, 8], and their labels."""
    found = load_digits()
    return np.rint(found.images * (255 / 16)).astype(np.uint8)[:, None], found.target.astype(np.int64)


def photographs() -> np.ndarray:
    """Two photographs cut into tiles, uint8 [n, 3, 16, 16]."""
    tiles = []
    for image in load_sample_images().images:
        height, width = image.shape[0] // 16 * 16, image.shape[1] // 16 * 16
        cut = image[:height, :width].reshape(height // 16, 16, width // 16, 16, 3)
        tiles.append(cut.transpose(0, 2, 4, 1, 3).reshape(-1, 3, 16, 16))
    return np.concatenate(tiles)


def saved(name: str, **arrays: np.ndarray) -> str:
    """Arrays as an npz in the scratch folder."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    np.savez(SCRATCH / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    return str(SCRATCH / f"{name}.npz")


def trained(name: str, data: str = "digits", **fields: Any) -> Path:
    """A run of STEPS small updates, or what is left of it where training gives up; made once."""
    folder = SCRATCH / name
    recipe = Recipe(**COMMON | fields)
    try:
        return finished(train(data, recipe, run=folder))
    except UsageError:
        raise
    except EbbError:  # training gave up: what it left is examined
        return folder


def copied(name: str) -> Path:
    """The healthy run again, to be spoilt."""
    folder = SCRATCH / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained("healthy"), folder)
    return folder


def respelt(name: str, change: Callable[[dict[str, dict[str, Tensor]]], None]) -> Path:
    """The healthy run with its newest checkpoint changed, and saved as any other."""
    folder = copied(name)
    last = locate(folder)
    state = {part: checkpoint.read(last, part) for part in ("model", "ema", "optim", "rng")}
    about, step = checkpoint.about(last), int(last.name.split("-")[1])
    change(state)
    shutil.rmtree(last)
    checkpoint.save(folder / "checkpoints", step, state, about)
    return folder


def lagging() -> Path:
    """Averaged weights as they were after a twentieth of the run."""
    early = checkpoint.read(locate(trained("early", steps=STEPS // 20)), "ema")
    return respelt("lagging", lambda state: state["ema"].update(early))


def unaveraged() -> Path:
    return respelt("unaveraged", lambda state: state["ema"].update(state["model"]))


def silenced(name: str, part: str) -> Path:
    """The embedding of the time or the label at 0 in both sets of weights."""

    def change(state: dict[str, dict[str, Tensor]]) -> None:
        for tensors in (state["model"], state["ema"]):
            for key in tensors:
                if f"embedding.{part}" in key:
                    tensors[key] = torch.zeros_like(tensors[key])

    return respelt(name, change)


def damaged() -> Path:
    folder = copied("damaged")
    file = locate(folder) / "ema.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    return folder


def interrupted() -> Path:
    """The log of a run that was stopped after a third."""
    folder = copied("interrupted")
    lines = (folder / "log.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["step"] <= STEPS // 3]
    (folder / "log.jsonl").write_text("\n".join(kept) + "\n")
    return folder


def halfway() -> Path:
    """A run that was to make twice as many updates."""
    folder = copied("halfway")
    document = yaml.safe_load((folder / "run.yaml").read_text())
    document["recipe"]["steps"] *= 2
    (folder / "run.yaml").write_text(yaml.safe_dump(document))
    return folder


def sampled(name: str, **settings: Any) -> Path:
    """The healthy run with other settings for its samples, as a sweep would leave them."""
    folder = copied(name)
    sampling = load(folder).sampling.model_copy(update=settings)
    (folder / "sampling.json").write_text(json.dumps({"sampling": sampling.model_dump()}))
    return folder


def by_heart() -> Path:
    """Trained on 32 digits only, with others to compare."""
    x, y = digits()
    data = saved("few", images=x[:32], labels=y[:32], x_test=x[300:600], y_test=y[300:600])
    return trained("by heart", data, steps=2 * STEPS, batch=32)


class Around(nn.Module):
    """A network with one thing wrong."""

    def __init__(self, network: nn.Module, change: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network, self.change = network, change

    def forward(self, x: Tensor, time: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return self.change(self.network, x, time, cond)


def spoilt(change: Callable[..., Tensor]) -> Any:
    """The healthy run's system with something done around its network."""
    system = load(trained("healthy"))
    system.denoiser.network = Around(system.denoiser.network, change)
    return system


def normalised() -> Any:
    system = load(trained("healthy"))
    system.denoiser.network.norm = nn.BatchNorm2d(NETWORK.width or 0)
    return system


def misread() -> Any:
    """Velocity read as noise."""
    system = load(trained("healthy"))
    system.denoiser.prediction = PREDICTIONS["noise"]
    return system


def mislabelled() -> str:
    x, y = digits()
    wrong = np.random.default_rng(0).random(len(y)) < 0.05
    return saved("mislabelled", images=x, labels=np.where(wrong, (y + 3) % 10, y))


def repeated() -> str:
    """Forty tiles again, a little brighter."""
    x = photographs()
    again = (x[:40] * 1.05 + 3).clip(0, 255).astype(np.uint8)
    return saved("repeated", images=np.concatenate([x, again]))


def clipped() -> str:
    x = photographs().astype(np.float64)
    return saved("clipped", images=((x - 128) * 2 + 128).clip(0, 255).astype(np.uint8))


def leaked() -> str:
    x = photographs()
    return saved("leaked", images=x[:1800], x_test=np.concatenate([x[1800:], x[:20]]))


def half_written() -> str:
    """A folder of images, two of them cut off."""
    from PIL import Image

    folder = SCRATCH / "half written"
    folder.mkdir(parents=True, exist_ok=True)
    for i, tile in enumerate(photographs()[:1100]):
        Image.fromarray(tile.transpose(1, 2, 0)).save(folder / f"{i:04}.png")
    for i in (3, 7):
        file = folder / f"{i:04}.png"
        file.write_bytes(file.read_bytes()[:100])
    return str(folder)


FAULTS: dict[str, tuple[set[str], Callable[[], Subject]]] = {
    "run: learning rate 100 times too large": (
        {"diverged", "rate too high"},
        lambda: trained("too fast", optimiser=OptimiserRecipe(lr=0.6)),
    ),
    "run: averaged weights far behind": ({"average too long"}, lagging),
    "run: no average, raw weights in its place": ({"average a copy"}, unaveraged),
    "run: stopped after a third": ({"stopped early"}, interrupted),
    "run: a byte of the weights flipped": ({"damaged checkpoint"}, damaged),
    "run: guidance 15": ({"guidance too strong", "out of range"}, lambda: sampled("guidance", guidance=15.0)),
    "run: two steps": ({"too few steps"}, lambda: sampled("two steps", steps=2)),
    "run: a path that ends at sigma 4": (
        {"end not noise"},
        lambda: trained("quiet end", path="edm(sigma_max=4)", steps=STEPS // 4),
    ),
    "run: 32 images by heart": ({"memorised", "overfitting"}, by_heart),
    "run: labels not wired": ({"condition ignored"}, lambda: silenced("no label", "label")),
    "model: time not wired": (
        {"time ignored"},
        lambda: spoilt(lambda net, x, time, cond: net(x, torch.full_like(time, 0.5), cond)),
    ),
    "model: batch norm": ({"batch norm"}, normalised),
    "model: mean over the batch": (
        {"samples mixed"},
        lambda: spoilt(lambda net, x, time, cond: net(x - 0.1 * x.mean(0), time, cond)),
    ),
    "model: velocity read as noise": ({"noise left"}, misread),
    "data: bytes from 0 to 1": ({"values not in range"}, lambda: saved("dark", images=photographs() // 128)),
    "data: contrast doubled": ({"clipped"}, clipped),
    "data: 5 % of the labels wrong": ({"mislabelled"}, mislabelled),
    "data: 40 images twice, once brighter": ({"near duplicates"}, repeated),
    "data: training images in the test set": ({"leaked"}, leaked),
    "data: two files cut off": ({"corrupt"}, half_written),
}
"""fault → (findings it should lead to, what makes the subject)"""

HEALTHY: dict[str, Callable[[], Subject]] = {
    "linear, velocity": lambda: trained("healthy"),
    "linear, data": lambda: trained("data", prediction="data"),
    "cosine, v": lambda: trained("cosine", path="cosine"),
    "ddpm_linear, noise": lambda: trained("ddpm", path="ddpm_linear", prediction="noise"),
    "sigmoid, v": lambda: trained("sigmoid", path="sigmoid"),
    "edm": lambda: trained("edm", path="edm"),
    "variance_exploding": lambda: trained("exploding", path="variance_exploding"),
    "transformer": lambda: trained("transformer", network=DiTRecipe(width=64, depth=3, patch=2)),
    "no labels": lambda: trained("no labels", saved("bare", images=digits()[0])),
    "photographs in colour": lambda: trained("tiles", saved("tiles", images=photographs()), batch=32),
}
"""Ten runs with which nothing is wrong."""


def findings(make: Callable[[], Subject]) -> list[str]:
    """The names of what is found in what `make` makes, errors first."""
    made = make()
    return [found.name for found in diagnose(str(made) if isinstance(made, Path) else made).findings]


CURED: dict[str, tuple[str, Callable[[], Path]]] = {
    "a layer narrower than its patches": (
        "bottleneck",
        lambda: trained("narrow", saved("tiles", images=photographs()), network=UNetRecipe(width=16, patch=4)),
    ),
    "learning rate 100 times too large": ("diverged", lambda: trained("too fast", optimiser=OptimiserRecipe(lr=0.6))),
    "learning rate 300 times too small": ("rate too low", lambda: trained("slow", optimiser=OptimiserRecipe(lr=2e-5))),
    "a tenth of the updates": ("too short", lambda: trained("short", steps=STEPS // 10)),
    "averaged weights far behind": ("average too long", lagging),
    "no average, raw weights in its place": ("average a copy", unaveraged),
    "an average over two updates": ("average too short", lambda: trained("hasty", ema_halflife=128.0)),
    "stopped halfway": ("stopped early", halfway),
    "a byte of the weights flipped": ("damaged checkpoint", damaged),
    "guidance 15": ("guidance too strong", lambda: sampled("guidance", guidance=15.0)),
    "two steps": ("too few steps", lambda: sampled("two steps", steps=2)),
    "a path that ends at sigma 4": ("end not noise", lambda: trained("quiet end", path="edm(sigma_max=4)")),
    "32 images by heart": ("memorised", by_heart),
}
"""fault → (a finding whose commands should end it, what makes the run)"""


def pasted(run: Path, commands: tuple[str, ...]) -> Path:
    """The run that commands lead to, each pasted into a shell: the last that was trained, or the same."""
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=SCRATCH, capture_output=True, text=True, check=False)
        if done.returncode and not command.startswith("ebb doctor"):
            print(f"{command}\n{done.stdout[-500:]}{done.stderr[-500:]}", flush=True)
        words = shlex.split(command)
        run = Path(words[words.index("--run") + 1]) if "--run" in words else run
    return run


def cures(only: str) -> None:
    """Print a table of faults, what was advised, and whether that ended them."""
    print("| planted | finding | gone after its own advice | commands |\n|---|---|---|---|")
    for fault, (name, make) in CURED.items():
        if only in fault:
            run = make()
            found = [each for each in diagnose(str(run)).findings if each.name == name]
            commands = found[0].commands if found else ()
            gone = bool(found) and name not in findings(partial(pasted, run, commands))
            said = "; ".join(f"`{command}`" for command in commands).replace(str(SCRATCH), "…")
            print(f"| {fault} | {name if found else '—'} | {'yes' if gone else 'no'} | {said} |", flush=True)


def main() -> None:
    """Print both tables, and how they end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows that contain this text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of every run: thresholds were looked at with 0")
    parser.add_argument("--cures", action="store_true", help="instead, follow the advice and see whether it helps")
    given = parser.parse_args()
    COMMON["seed"] = given.seed
    shutil.rmtree(SCRATCH, ignore_errors=True)
    torch.set_num_threads(given.threads)
    if given.cures:
        cures(given.only)
        return
    caught, calm = [], []
    print("| planted | found | reported |\n|---|---|---|")
    for name, (expected, make) in FAULTS.items():
        if given.only in name:
            found = findings(make)
            caught.append(bool(expected & set(found)))
            print(f"| {name} | {'yes' if caught[-1] else 'no'} | {', '.join(found) or 'nothing'} |", flush=True)
    print("\n| healthy run | reported |\n|---|---|")
    for name, make_healthy in HEALTHY.items():
        if given.only in name:
            found = findings(make_healthy)
            calm.append(not found)
            print(f"| {name} | {', '.join(found) or 'nothing'} |", flush=True)
    print(f"\n{sum(caught)} of {len(caught)} faults found, {len(calm) - sum(calm)} of {len(calm)} healthy runs accused")


if __name__ == "__main__":
    main()
