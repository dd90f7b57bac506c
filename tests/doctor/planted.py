"""A small run that is well, and every fault that `ebb doctor` should find in a run, planted in a copy of it.

`healthy(folder)` trains one (a few seconds); `PLANTED[name](run)` spoils a run folder so that the finding `name` is due.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from ebb.data.images import to_pixels
from ebb.data.scan import read
from ebb.events import finished
from ebb.judge.ensemble import save_ensemble, train_ensemble
from ebb.recipe.recipe import Recipe
from ebb.run.train import train
from ebb.store import checkpoint
from ebb.system.system import load

Plant = Callable[[Path], None]
OUT = "network.out."
RECIPE = {
    "budget": "10s",  # of which a hundredth is spent on timing; the steps are given
    "steps": 250,
    "batch": 32,
    "sheets": 1,
    "precision": "fp32",
    "network": {"width": 16, "depth": 1, "patch": 2, "multipliers": (1,)},
    "optimiser": {"lr": 4e-3, "warmup": 20},
}


def bars(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """8×8 images of a bright bar, left, middle or right, at any height of brightness, in faint noise; their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = 40 + 25 * rng.standard_normal((count, 8, 8))
    for image, label in zip(images, labels, strict=True):
        image[:, 1 + 2 * label : 3 + 2 * label] += rng.uniform(80, 160)
    return images.clip(0, 255).astype(np.uint8), labels


def trained(folder: Path, data: Path, **changes: Any) -> Path:
    """A run of RECIPE with some of its fields changed."""
    recipe = Recipe(**RECIPE | changes)
    return finished(train(str(data), recipe, run=folder, fresh=True))


def healthy(folder: Path) -> Path:
    """A run that is well, with its data and a classifier of it, in `folder`."""
    (x, y), (unseen, truth) = bars(500, 0), bars(100, 1)
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_test=unseen, y_test=truth)
    run = trained(folder / "run", folder / "data.npz")
    dataset = read(str(folder / "data.npz"))
    ensemble, accuracy = train_ensemble(dataset.rows, dataset.labels, 3, seeds=1, seconds=0.3)
    save_ensemble(run / "classifier.safetensors", ensemble, accuracy, dataset.summary.fingerprint)
    return run


def weights(run: Path, part: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    """Change the saved tensors of a part, and have the manifest say so."""
    where = checkpoint.newest(run / "checkpoints")
    file, manifest = where / f"{part}.safetensors", where / "manifest.json"
    save_file({name: x.contiguous() for name, x in change(checkpoint.read(where, part)).items()}, file)
    facts = json.loads(manifest.read_text())
    facts["files"][file.name] = {"size": file.stat().st_size, "sha256": checkpoint.sha256(file)}
    manifest.write_text(json.dumps(facts))


def offset(run: Path, amount: float) -> None:
    """Add to what the network outputs, a velocity: samples are off by −amount, the integral of it."""
    for part in ("ema", "model"):
        weights(run, part, lambda old: old | {OUT + "bias": old[OUT + "bias"] + amount})


def scaled(run: Path, factor: float) -> None:
    """Scale what the network outputs."""
    for part in ("ema", "model"):
        weights(run, part, lambda old: {name: x * (factor if name.startswith(OUT) else 1) for name, x in old.items()})


def logged(run: Path, change: Callable[[dict[str, Any], float], dict[str, Any]]) -> None:
    """Add `change(entry, share of the run that is over)` to every line of the log."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    told = [entry | change(entry, (i + 1) / len(lines)) for i, entry in enumerate(lines)]
    (run / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in told))


def rewritten(run: Path, **changes: Any) -> None:
    """Change fields of the recipe in run.yaml."""
    tree = yaml.safe_load((run / "run.yaml").read_text())
    tree["recipe"] |= changes
    (run / "run.yaml").write_text(yaml.safe_dump(tree))


def data_of(run: Path) -> Path:
    """Where the data of a run lies."""
    return Path(yaml.safe_load((run / "run.yaml").read_text())["data"])


def sampled(run: Path, **changes: Any) -> None:
    """Give the run other default settings, as a sweep does."""
    found = load(run).sampling.model_copy(update=changes).model_dump()
    (run / "sampling.json").write_text(json.dumps({"sampling": found}))


def other_data(run: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Have the run belong to other images: what it was not trained on."""
    before = np.load(data_of(run))
    arrays = {name: change(before[name]) if name.startswith("x") else before[name] for name in before.files}
    np.savez(run / "data.npz", **arrays)
    dataset = read(str(run / "data.npz"))
    tree = yaml.safe_load((run / "run.yaml").read_text())
    tree |= {"data": str(run / "data.npz"), "fingerprint": dataset.summary.fingerprint}
    (run / "run.yaml").write_text(yaml.safe_dump(tree))
    (run / "data.json").write_text(json.dumps(asdict(dataset.summary)))


def blurred(images: np.ndarray) -> np.ndarray:
    """The mean of four neighbours."""
    x = images.astype(float)
    x = (x + np.roll(x, 1, 1)) / 2
    return ((x + np.roll(x, 1, 2)) / 2).astype(np.uint8)


def roughened(images: np.ndarray) -> np.ndarray:
    """More noise than there was."""
    noise = np.random.default_rng(2).integers(-110, 111, images.shape)
    return (images + noise).clip(0, 255).astype(np.uint8)


def stretched(images: np.ndarray) -> np.ndarray:
    """Four times the contrast, as if those trained on had been scaled once too often."""
    return (128 + 4 * (images.astype(float) - 60)).clip(0, 255).astype(np.uint8)


def diversified(images: np.ndarray) -> np.ndarray:
    """Every image three times as far from the mean image."""
    mean = images.mean(0)
    return (mean + 3 * (images - mean)).clip(0, 255).astype(np.uint8)


def damaged(run: Path) -> None:
    file = checkpoint.newest(run / "checkpoints") / "ema.safetensors"
    held = bytearray(file.read_bytes())
    held[-9] ^= 64
    file.write_bytes(bytes(held))


def not_finite(run: Path) -> None:
    weights(run, "model", lambda old: old | {OUT + "bias": old[OUT + "bias"] * float("nan")})


def no_average(run: Path) -> None:
    where = checkpoint.newest(run / "checkpoints")
    facts = json.loads((where / "manifest.json").read_text())
    del facts["files"]["ema.safetensors"]
    (where / "manifest.json").write_text(json.dumps(facts))
    (where / "ema.safetensors").unlink()


def copied(run: Path) -> None:
    raw = checkpoint.read(checkpoint.newest(run / "checkpoints"), "model")
    weights(run, "ema", lambda _: raw)


def too_short_an_average(run: Path) -> None:
    copied(run)
    rewritten(run, ema_halflife=1.0)


def lagging(run: Path) -> None:
    """A third of the way back to the first weights, as an average that was not given the time to forget them."""
    generator = torch.Generator().manual_seed(0)
    weights(
        run,
        "ema",
        lambda old: {n: 0.7 * x + 0.3 * x.std() * torch.randn(x.shape, generator=generator) for n, x in old.items()},
    )


def raw_measured(run: Path) -> None:
    """Raw weights that still jump about, and figures made with them."""
    generator = torch.Generator().manual_seed(0)
    weights(
        run,
        "model",
        lambda old: {n: x + 0.1 * x.std() * torch.randn(x.shape, generator=generator) for n, x in old.items()},
    )
    settings = {"weights": "model", "checkpoint": checkpoint.newest(run / "checkpoints").name}
    (run / "evaluation.json").write_text(json.dumps({"settings": settings}))


def diverged(run: Path) -> None:
    """From two thirds on the loss grows, most at little noise."""
    grown = [1.0] * 12 + [9.0] * 4
    logged(
        run,
        lambda entry, share: {
            "loss": entry["loss"] * (3 if share > 0.66 else 1),
            "levels": [0.1 * (g if share > 0.66 else 1) for g in grown],
        },
    )


def spiked(run: Path) -> None:
    logged(run, lambda entry, share: {"loss": entry["loss"] * (4 if entry["step"] % 40 == 0 else 1)})


def overfitted(run: Path) -> None:
    """Ten validations, lowest in the middle of the run, while the training loss falls on."""
    logged(run, lambda entry, share: {"loss": 0.5 - 0.3 * share, "validation_ema": None})
    logged(run, lambda entry, share: {"validation_ema": 0.3 + (share - 0.5) ** 2} if entry["step"] % 25 == 0 else {})


def memorised(run: Path) -> None:
    """Training data in which lie all the images that the run makes."""
    system = load(run)
    made = np.concatenate([to_pixels(system.sample(96, label=[k] * 96, seed=0))[:, 0] for k in range(3)])
    other_data(run, lambda images: np.concatenate([made, images[len(made) :]]) if len(images) > len(made) else images)


def moved(run: Path) -> None:
    """The data is where run.yaml does not look for it."""
    tree = yaml.safe_load((run / "run.yaml").read_text())
    (run / "run.yaml").write_text(yaml.safe_dump(tree | {"data": "/nowhere/at/all.npz"}))


def mistold(run: Path) -> None:
    """Two classes whose embeddings have changed places."""
    name = "network.embedding.layers.0.table.weight"
    for part in ("ema", "model"):
        weights(run, part, lambda old: old | {name: old[name][[1, 0, *range(2, len(old[name]))]]})


def again(run: Path, **changes: Any) -> None:
    """The same data, trained otherwise."""
    trained(run, data_of(run), **changes)


PLANTED: dict[str, Plant] = {
    "damaged checkpoint": damaged,
    "raw weights not finite": not_finite,
    "no average": no_average,
    "average too short": too_short_an_average,
    "average a copy": copied,
    "average too long": lagging,
    "raw weights measured": raw_measured,
    "data gone": moved,
    "diverged": diverged,
    "stopped early": lambda run: rewritten(run, steps=2 * RECIPE["steps"]),
    "rate too high": spiked,
    "rate too low": lambda run: again(run, steps=60, optimiser={"lr": 2e-5, "warmup": 0}),
    "too short": lambda run: again(run, steps=60),
    "one noise level drives the gradient": lambda run: again(run, weight="vlb", times="uniform", steps=80),
    "overfitting": overfitted,
    "grey": lambda run: other_data(run, stretched),
    "samples alike": lambda run: other_data(run, diversified),
    "brightness shift": lambda run: offset(run, -0.2),
    "blurry": lambda run: other_data(run, roughened),
    "grainy": lambda run: other_data(run, blurred),
    "guidance untrained": lambda run: (rewritten(run, condition_dropout=0.0), sampled(run, guidance=1.5)),
    "guidance too strong": lambda run: sampled(run, guidance=20.0),
    "out of range": lambda run: scaled(run, 1.6),
    "too few steps": lambda run: sampled(run, steps=2),
    "labels missing": mistold,
    "memorised": memorised,
}
"""Every finding about a run, and how to make it due."""
