"""What a checkpoint holds: a denoiser and what is needed to ask it for pictures, with its contract in writing."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebb import checkpoint
from ebb.encode.labels import Labels
from ebb.errors import DamagedError, EbbError, UsageError
from ebb.guide.cfg import Guide, cfg
from ebb.machine import keep_freed_memory
from ebb.names import parse, spell
from ebb.networks.table import NETWORKS
from ebb.process.denoiser import CLOCKS, Autocast, Denoiser, NetworkDenoiser
from ebb.process.path import PATHS
from ebb.process.predict import PREDICTIONS, audible
from ebb.process.times import GRIDS
from ebb.recipe import Sampling
from ebb.sample.fused import fused
from ebb.sample.loop import trajectory
from ebb.sample.noise import Noise
from ebb.sample.table import SOLVERS
from ebb.shapes import Float

FORMAT = 2


@dataclass(frozen=True, eq=False)
class System:
    """A denoiser, the names of its labels, the shape of what it makes, and how to sample it unless told otherwise.

    Its contract (network, path, prediction, clock, scales, shape, value range, labels) is saved with the weights; on
    loading everything is rebuilt from it and a mismatch is refused by name.
    """

    denoiser: NetworkDenoiser
    shape: tuple[int, ...]
    labels: Labels = field(default_factory=Labels)
    sampling: Sampling = field(default_factory=Sampling)

    def contract(self) -> dict[str, Any]:
        """The contract as JSON; every part is text that `from_contract` turns back into the part."""
        d = self.denoiser
        return {
            "format": FORMAT,
            "network": spell(d.network, NETWORKS),
            "path": spell(d.path, PATHS),
            "prediction": spell(d.prediction, PREDICTIONS),
            "clock": spell(d.clock, CLOCKS),
            "sigma_data": d.sigma_data,
            "shape": list(self.shape),
            "values": [-1, 1],
            "labels": list(self.labels.names),
            "sampling": self.sampling.model_dump(),
        }

    @classmethod
    def from_contract(cls, contract: dict[str, Any]) -> System:
        """The system a contract describes, with fresh weights; raises DamagedError where it cannot be one."""
        if contract.get("format") != FORMAT or contract.get("values") != [-1, 1]:
            raise DamagedError(
                f"this system has format {contract.get('format')!r} and values {contract.get('values')!r};"
                f" this ebb reads format {FORMAT} with values [-1, 1]",
                "load it with the version of ebb named in the run's env.json",
            )
        try:
            network = parse(contract["network"], NETWORKS, "network")
            denoiser = NetworkDenoiser(
                network,
                parse(contract["path"], PATHS, "path"),
                parse(contract["prediction"], PREDICTIONS, "prediction"),
                parse(contract["clock"], CLOCKS, "clock"),
                contract["sigma_data"],
            )
            shape, names = tuple(contract["shape"]), tuple(contract["labels"])
            if network.settings["classes"] != len(names):
                raise UsageError(f"{len(names)} labels for a network of {network.settings['classes']} classes")
            return cls(in_place(denoiser), shape, Labels(names), Sampling.model_validate(contract["sampling"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedError(f"the system's contract cannot be read: {error}") from error

    def wanted(self, count: int, label: str | int | Sequence[str | int] | None, seed: int) -> list[int]:
        """The label index of each of `count` images; without a wish, image i gets number (seed + i) mod classes.

        Raises UsageError for a label that does not exist, or a list that is not one label for each image.
        """
        if label is None:
            return [(seed + i) % max(1, len(self.labels.names)) for i in range(count)]
        each = [label] * count if isinstance(label, str | int) else list(label)
        if len(each) != count:
            raise UsageError(f"expected one label for each of {count} images, got {len(each)}")
        return [self.labels.index(one) for one in each]

    def sample(
        self,
        count: int,
        *,
        label: str | int | Sequence[str | int] | None = None,
        steps: int | None = None,
        seed: int = 0,
        guidance: float | None = None,
        solver: str | None = None,
        grid: str | None = None,
        precision: str | None = None,
        guide: Guide | None = None,
        batch: int = 128,
        compile: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Float[Tensor, "n *d"]:
        """`count` new samples, float32 [count, *shape] in [−1, 1].

        Image i is a function of (system, settings, seed + i) alone, whatever the batch (to within rounding, which in
        bf16 is visible to a computer only). `label` is a name, an index or a list with one for each image; `guide` goes
        around the classifier-free guidance; what is not given comes from the system's own `sampling`. `compile` fuses
        network, guides and solver for whole batches (`ebb.fused`): it takes a minute first.
        """
        how = self.settled(steps=steps, guidance=guidance, solver=solver, grid=grid, precision=precision)
        if count < 1:
            raise UsageError(f"expected 1 or more images, got {count}", "try --n 16")
        asked, path = self.wanted(count, label, seed), self.denoiser.path
        times = audible(path, self.denoiser.prediction, parse(how.grid, GRIDS, "grid")(path, how.steps))
        method = parse(how.solver, SOLVERS, "solver")
        device = next(self.denoiser.parameters()).device
        null = {name: row.to(device) for name, row in self.labels.null().items()}
        asked_for = cfg(how.guidance, null)(self.in_precision(how))
        guided, made = guide(asked_for) if guide else asked_for, []
        keep_freed_memory()
        follow = partial(trajectory, guided, method, times)
        whole = fused(guided, method, times) if compile and count >= batch else follow
        for first in range(0, count, batch):
            part = asked[first : first + batch]
            noise = Noise.of(seed + first, len(part))
            cond = {name: row.to(device) for name, row in self.labels(part).items()}
            x = noise.start(self.shape).to(device) * float(path.sigma(times[:1]))
            for point in (whole if len(part) == batch else follow)(x, cond, noise):
                x = point.x
            if not bool(torch.isfinite(x).all()):
                raise EbbError("sampling gave values that are not finite", "try more --steps, or --guidance 1")
            made.append(x.clamp(-1, 1).cpu())
            if progress:
                progress(len(part))
        return torch.cat(made)

    def in_precision(self, how: Sampling) -> Denoiser:
        """The denoiser with its network in the precision that `how` names."""
        return Autocast(self.denoiser, torch.bfloat16) if how.precision == "bf16" else self.denoiser

    def settled(self, **asked: Any) -> Sampling:
        """The system's sampling settings with what was asked for in place; UsageError for what cannot be."""
        given = {name: value for name, value in asked.items() if value is not None}
        if self.sampling.grid.startswith("given") and {"steps", "solver"} & {
            name for name, value in given.items() if value != getattr(self.sampling, name)
        }:
            given = {"grid": Sampling().grid} | given  # times that were searched for other steps
        how = Sampling.model_validate(self.sampling.model_dump() | given)
        if how.steps < 1:
            raise UsageError(f"sampling needs at least 1 step, got {how.steps}", "try --steps 16")
        if not math.isfinite(how.guidance):
            raise UsageError(f"guidance is a finite number, got {how.guidance}")
        if not self.labels.names and how.guidance != 1:
            raise UsageError(f"guidance {how.guidance:g} needs labels, and this model was trained without")
        return how


def in_place(denoiser: NetworkDenoiser) -> NetworkDenoiser:
    """Convolution weights laid out channels last, as the fast kernels want them; values are unchanged."""
    has_planes = any(isinstance(module, nn.Conv2d) for module in denoiser.modules())
    return denoiser.to(memory_format=torch.channels_last) if has_planes else denoiser  # type: ignore[call-overload]


def locate(run: str | Path) -> Path:
    """The newest checkpoint of a run folder, or the checkpoint folder itself; raises UsageError where there is none."""
    folder = Path(run)
    if (folder / "manifest.json").is_file():
        return folder
    found = checkpoint.newest(folder / "checkpoints")
    if found is None:
        known = (
            sorted(p.parent.as_posix() for p in folder.parent.glob("*/checkpoints")) if folder.parent.is_dir() else []
        )
        there = f"runs beside it: {', '.join(known)}" if known else "train one first: ebb train DATA"
        raise UsageError(f"{folder} holds no checkpoint", there)
    return found


def best_device() -> torch.device:
    """The CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(run: str | Path, weights: str = "ema", device: torch.device | None = None) -> System:
    """The system of a run's newest checkpoint (or of a checkpoint folder), verified against its manifest.

    A run's own default settings, where `ebb sweep` found some, take the place of the recipe's.

    `weights` is "ema", the average one samples from, or "model", the raw weights; `device` where to sample, a GPU if
    there is one. Raises DamagedError for a file that is not what was saved, UsageError for a folder without a
    checkpoint.
    """
    if weights not in ("ema", "model"):
        raise UsageError(f"weights are 'ema' or 'model', got {weights!r}")
    where = locate(run)
    checkpoint.verify(where)
    system = System.from_contract(checkpoint.about(where))
    try:
        system.denoiser.load_state_dict(checkpoint.read(where, weights))
    except RuntimeError as error:
        raise DamagedError(f"the weights of {where} do not fit its contract: {error}") from error
    system.denoiser.requires_grad_(False).eval().to(device or best_device())
    found = Path(run) / "sampling.json"
    return dataclasses.replace(system, sampling=read_sampling(found)) if found.is_file() else system


def read_sampling(file: Path) -> Sampling:
    """The settings that a sweep left in a run folder; raises DamagedError for a file that is not such settings."""
    try:
        return Sampling.model_validate(json.loads(file.read_text(encoding="utf8"))["sampling"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{file} cannot be read: {error}", "delete it, or run ebb sweep again") from error
