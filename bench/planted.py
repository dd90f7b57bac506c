"""How often a check of `ebb doctor` is right: its fault planted in small runs of fresh seeds, beside healthy ones.

    python bench/planted.py "one noise level drives the gradient"     ten minutes on two cores
    python bench/planted.py "block cut off"                           half a minute
    python bench/planted.py "posterior collapse"                      and so for each name in CASES
    python bench/planted.py "an adapter" --runs 18                    six faults of an adapter's run, and none
    python bench/planted.py "few steps"                               four faults of a run of few steps, and none

Twenty faults of several kinds and ten that are well, each of another seed: runs trained on handwritten digits, and
networks in which one block, drawn by the seed, is told a constant.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ebb.adapt.low_rank import LowRank
from ebb.data.scan import read
from ebb.doctor.finding import Check, Round
from ebb.doctor.model_subject import ModelSubject
from ebb.doctor.model_wiring import check_block_cut_off
from ebb.doctor.run_adapter import OF_ADAPTERS
from ebb.doctor.run_autoencoder import (
    check_dead_codes,
    check_posterior_collapse,
    check_reconstructions_blurred,
)
from ebb.doctor.run_checks import RUN_CHECKS
from ebb.doctor.run_few_steps import FEW_STEP_CHECKS
from ebb.doctor.run_subject import RunSubject
from ebb.events import finished
from ebb.networks.dit import DiT
from ebb.networks.mlp import MLP
from ebb.networks.mmdit import MMDiT
from ebb.networks.ports import ShareEmbedding
from ebb.networks.unet import UNet
from ebb.recipe.groups import DiTRecipe, UNetRecipe
from ebb.recipe.recipe import AdapterRecipe, AutoencoderRecipe, FewStepRecipe, Recipe
from ebb.run.train import train

SMALL: dict[str, Any] = {
    "steps": 200,
    "batch": 32,
    "sheets": 1,
    "precision": "fp32",
    "network": UNetRecipe(width=16, depth=1, patch=2, multipliers=(1,)),
}

HEALTHY: tuple[dict[str, Any], ...] = (
    {},
    {"prediction": "data"},
    {"path": "cosine"},
    {"path": "ddpm_linear", "prediction": "noise"},
    {"path": "ddpm_linear", "prediction": "noise", "times": "uniform"},
    {"path": "sigmoid", "times": "discrete"},
    {"path": "edm"},
    {"path": "variance_exploding"},
    {"network": DiTRecipe(width=32, depth=2, patch=2)},
    {"path": "cosine", "weight": "min_snr", "times": "uniform"},
)
"""Ten ways in which a run may be well."""

LEVELS: tuple[dict[str, Any], ...] = (
    {"weight": "vlb", "times": "uniform"},
    {"prediction": "score"},
    {"prediction": "score", "path": "cosine", "times": "uniform"},
    {"prediction": "data", "weight": "simple", "times": "uniform"},
    {"prediction": "data", "path": "ddpm_linear", "weight": "simple", "times": "uniform"},
)
"""Ways in which one level of noise drives the gradient."""


def level_run(folder: Path, seed: int, fields: dict[str, Any]) -> list[str]:
    """What is found in a run with these fields."""
    run = finished(train("digits", Recipe(**SMALL | fields, seed=seed), run=folder))
    seen = Round()
    seen.examine(lambda: RunSubject(run), [each for each in RUN_CHECKS if "drives" in each.__name__], "the run")
    return [finding.symptom for finding in seen.findings] + seen.unchecked


CODEC = {"kind": "autoencoder", "steps": 150, "batch": 32, "sheets": 1, "precision": "fp32"}

NARROW: dict[str, Any] = {"factor": 2, "latent": 4, "width": 16}

CODECS: tuple[dict[str, Any], ...] = (
    {"kind": "kl", **NARROW},
    {"kind": "kl", **NARROW, "latent": 2},
    {"kind": "kl", **NARROW, "latent": 8},
    {"kind": "kl", **NARROW, "beta": 1e-3},
    {"kind": "kl", **NARROW, "distance": "l2"},
    {"kind": "kl", **NARROW, "residual": True},
    {"kind": "vq", **NARROW, "codes": 256},
    {"kind": "vq", **NARROW, "codes": 64},
    {"kind": "vq", **NARROW, "codes": 512},
    {"kind": "kl", **NARROW, "width": 32},
)
"""Ten ways in which an autoencoder may be well."""

WEIGHED: tuple[dict[str, Any], ...] = tuple({"kind": "kl", **NARROW, "beta": beta} for beta in (3.0, 10.0, 30.0, 100.0))
"""A divergence that outweighs the pictures."""

FAR: tuple[dict[str, Any], ...] = tuple(
    {"kind": "vq", **NARROW, "codes": codes, "far": far} for codes in (64, 256) for far in (0.7, 0.9)
)
"""Codebooks of which a share is moved far from every vector after training."""

LITTLE: tuple[dict[str, Any], ...] = (
    {"kind": "kl", "factor": 8, "latent": 1, "width": 16},
    {"kind": "kl", "factor": 8, "latent": 2, "width": 16},
    {"kind": "vq", "factor": 8, "latent": 2, "width": 16, "codes": 16},
)
"""Latents that hold too little of a picture."""


def codec_run(check: Check[RunSubject], folder: Path, seed: int, fields: dict[str, Any]) -> list[str]:
    """What a check finds in a run that trained an autoencoder with these fields."""
    own = {name: value for name, value in fields.items() if name != "far"}
    recipe = AutoencoderRecipe.model_validate(CODEC | {"autoencoding": own, "seed": seed})
    subject, seen = RunSubject(finished(train("digits", recipe, run=folder))), Round()
    if "far" in fields and subject.system.space is not None:
        codebook = subject.system.space.autoencoder.codebook
        codebook.sums[: round(fields["far"] * codebook.codes)] += 1e4
    seen.examine(lambda: subject, [check], "the run")
    return [finding.symptom for finding in seen.findings] + seen.unchecked


KINDS: dict[str, Callable[[], nn.Module]] = {
    "unet": lambda: UNet(1, width=32, multipliers=(1, 2), depth=2, attention=(1,), ports=PORTS),
    "unet with text": lambda: UNet(1, width=32, multipliers=(1, 2), cross=(0, 1), ports=TEXT),
    "dit": lambda: DiT(1, width=64, depth=4, patch=2, ports=TEXT),
    "mmdit": lambda: MMDiT(1, width=64, depth=4, patch=2, ports=TEXT),
    "mlp": lambda: MLP(8, width=32, depth=4, ports=PORTS),
}
"""Networks with a label, some with a text besides."""

PORTS = {"label": "classes(count=3)"}
TEXT = PORTS | {"text": "pieces(vocabulary=9, length=4)"}
ROWS = {"label": torch.arange(3), "text": torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0], [6, 7, 8, 1]])}


def of_kind(part: nn.Module) -> bool:
    """Whether a part is told the time."""
    return type(part).__name__ in ("Residual", "DiTBlock", "JointBlock")


def deafened(network: nn.Module, seed: int) -> None:
    """One block, drawn by the seed, is told a constant in place of time and conditions."""
    blocks = [part for part in network.modules() if of_kind(part)] or list(network.film)  # type: ignore[arg-type]
    block = blocks[np.random.default_rng(seed).integers(len(blocks))]

    def constant(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        of = {2: 1, 3: 1, 5: 2}.get(len(given), 0)  # the place of what is told: (x, told, …), (text, x, vector, …)
        told = given[of]
        told = torch.ones_like(told) if isinstance(told, Tensor) else told._replace(vector=torch.ones_like(told.vector))
        return (*given[:of], told, *given[of + 1 :])

    block.register_forward_pre_hook(constant)


def cut_network(_: Path, seed: int, fields: dict[str, Any]) -> list[str]:
    """What is found in a network with fresh weights, with a block cut off or none."""
    torch.manual_seed(seed)
    network = KINDS[fields["kind"]]()
    if fields["cut"]:
        deafened(network, seed)
    cond = {name: ROWS[name] for name in network.embedding.ports}  # type: ignore[union-attr]
    shape = (8,) if fields["kind"] == "mlp" else (1, 8, 8)
    finding = check_block_cut_off(ModelSubject(network, shape, cond))
    return [] if finding is None else [finding.evidence]


FEW: dict[str, Any] = {"steps": 300, "batch": 32, "sheets": 1, "precision": "fp32"}

DISTILLED: tuple[dict[str, Any], ...] = (
    {},
    {"method": "consistency_trajectory(steps=8, of=8)"},
    {"method": "consistency(q=64)"},
    {"method": "consistency_trajectory"},
    {"method": "self_distil"},
    {"method": "mean_flow"},
)
"""Ways in which a model of few steps may be well."""

RESTLESS = tuple({"optimiser": {"lr": rate, "decay": 0.0}} for rate in (0.06, 0.1, 0.2))
"""Learning rates that are ten times too high and more, and never fall."""

WILD = tuple({"wild": size} for size in (1.5, 3.0))
"""How far the network turns with the time, by random weights where it hears how far it is to go."""

SHORT = ({"steps": 1}, {"steps": 2}, {"steps": 4})
"""Updates after which one step still is a mean."""

FEWER = ({"examples": 1}, {"examples": 2})
"""Examples of each label that it learns from, where the data has many."""

UNSETTLED: tuple[dict[str, Any], ...] = tuple(
    {"fault": name, **fields}
    for name, faults in {
        "target moves": RESTLESS,
        "tangents explode": WILD,
        "means of several": SHORT,
        "diversity lost": FEWER,
    }.items()
    for fields in faults
)
"""What may be wrong with a run of few steps, each by the name of its finding."""


@functools.cache
def teacher(seed: int) -> Path:
    """A run of diffusion on handwritten digits that others are distilled from."""
    recipe = Recipe(**SMALL | {"steps": 1500, "seed": seed, "network": UNetRecipe(width=32, depth=1, patch=2)})
    return finished(train("digits", recipe, run=Path(tempfile.mkdtemp()) / "teacher"))


def few_run(folder: Path, seed: int, fields: dict[str, Any]) -> list[str]:
    """What is found in a run that was distilled with these fields, the fault that was planted or, where it is well,
    any."""
    own, fault = {name: fields[name] for name in fields.keys() - {"fault", "wild", "examples"}}, fields.get("fault")
    data, learnt = "digits", {"teacher": str(teacher(0))}
    if "examples" in fields:
        digits = read("digits")
        order = np.random.default_rng(seed).permutation(len(digits.rows))
        some = np.concatenate([[at for at in order if digits.labels[at] == k][: fields["examples"]] for k in range(10)])
        data, learnt = str(folder.with_suffix(".npz")), {}
        np.savez(data, images=digits.rows[some, 0], labels=digits.labels[some])
        own |= {"steps": 1500, "network": UNetRecipe(width=32, depth=1, patch=2)}
    recipe = FewStepRecipe.model_validate(FEW | learnt | own | {"seed": seed})
    subject, seen = RunSubject(finished(train(data, recipe, run=folder))), Round()
    if "examples" in fields:
        subject.__dict__["reading"] = read("digits")
    for part in subject.system.denoiser.network.modules():
        if "wild" in fields and isinstance(part, ShareEmbedding):
            generator = torch.Generator().manual_seed(seed)
            last = part.mlp[-1].weight
            last.data += fields["wild"] / part.gain * torch.randn(last.shape, generator=generator)
    seen.examine(lambda: subject, FEW_STEP_CHECKS, "the run")
    if seen.unchecked:
        raise SystemExit("; ".join(seen.unchecked))
    return [f"{each.name}: {each.evidence}" for each in seen.findings if fault in (None, each.name)]


TAUGHT: dict[str, Any] = {"label": "7", "steps": 200, "prior": 256, "precision": "fp32", "sheets": 1}

HARD: dict[str, Any] = {"prior": 0, "steps": 600, "addition": {"rank": 32}}
"""By many numbers, and with nothing of the base beside it."""

AMISS: tuple[dict[str, Any], ...] = (
    {"fault": "adapter idle", "optimiser": {"lr": 1e-8}},
    {"fault": "layers untrained", "silent": 3},
    {"fault": "rest moved", **HARD},
    {"fault": "label unheeded", "prior": 0, "condition_dropout": 1.0},
    {"fault": "taught copied", **HARD, "steps": 1500, "examples": 3},
    {"fault": "base missing"},
)
"""What may be wrong with an adapter's run, each by the name of its finding."""

ADAPTED: tuple[dict[str, Any], ...] = (
    {},
    {"addition": {"rank": 4}},
    {"addition": {"rank": 4, "form": "dora"}},
    {"addition": {"kind": "bare"}, "prior": 0},
    {"examples": 20},
)
"""Ways in which one may be well."""


@functools.cache
def without_sevens() -> tuple[Path, np.ndarray]:
    """A run of diffusion on handwritten digits without the sevens, and these."""
    home, digits = Path(tempfile.mkdtemp()), read("digits")
    rest = digits.labels != 7
    labels = digits.labels[rest] - (digits.labels[rest] > 7)
    names = np.array([name for name in digits.names if name != "7"])
    np.savez(home / "rest.npz", images=digits.rows[rest, 0], labels=labels, label_names=names)
    recipe = Recipe(**SMALL | {"steps": 1500, "network": UNetRecipe(width=32, depth=1, patch=2)})
    return finished(train(home / "rest.npz", recipe, run=home / "base")), digits.rows[~rest, 0]


def adapter_run(folder: Path, seed: int, fields: dict[str, Any]) -> list[str]:
    """What is found in an adapter's run with these fields, the fault that was planted or, where it is well, any."""
    (base, sevens), fault = without_sevens(), fields.get("fault")
    own = {name: value for name, value in fields.items() if name not in ("fault", "silent", "examples")}
    data = folder.with_suffix(".npz")
    order = np.random.default_rng(seed).permutation(len(sevens))
    np.savez(data, images=sevens[order[: fields.get("examples", 50)]])
    recipe = AdapterRecipe.model_validate(TAUGHT | own | {"adapts": str(base), "seed": seed})
    subject, seen = RunSubject(finished(train(data, recipe, run=folder))), Round()
    if "silent" in fields:
        for change in [part for part in subject.system.model.module.modules() if isinstance(part, LowRank)][
            : fields["silent"]
        ]:
            change.up.data.zero_()
    away = base.rename(base.with_name("away")) if fault == "base missing" else base
    seen.examine(lambda: subject, OF_ADAPTERS, "the run")
    away.rename(base)
    return [f"{each.name}: {each.evidence}" for each in seen.findings if fault in (None, each.name)]


Case = tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...], Callable[[Path, int, dict[str, Any]], list[str]]]

CASES: dict[str, Case] = {
    "one noise level drives the gradient": (LEVELS, HEALTHY, level_run),
    "posterior collapse": (WEIGHED, CODECS, partial(codec_run, check_posterior_collapse)),
    "dead codes": (FAR, CODECS, partial(codec_run, check_dead_codes)),
    "reconstructions blurred": (LITTLE, CODECS, partial(codec_run, check_reconstructions_blurred)),
    "few steps": (UNSETTLED, DISTILLED, few_run),
    "an adapter": (AMISS, ADAPTED, adapter_run),
    "block cut off": (
        tuple({"kind": kind, "cut": True} for kind in KINDS),
        tuple({"kind": kind, "cut": False} for kind in KINDS),
        cut_network,
    ),
}
"""check, or what is checked → (faults, healthy variants, what makes one and says what is found)"""


def main() -> None:
    """Print a line for each fault and each that is well, and how many were found and accused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", choices=CASES)
    parser.add_argument("--first", type=int, default=100, help="seed of the first run: thresholds were looked at below")
    parser.add_argument("--runs", type=int, default=30, help="of which two thirds have the fault")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    faults, healthy, look = CASES[given.check]
    right = {"faults found": 0, "healthy runs accused": 0}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(given.runs):
            planted = number < given.runs * 2 // 3
            fields = (faults if planted else healthy)[number % len(faults if planted else healthy)]
            found = look(Path(scratch) / str(number), given.first + number, fields)
            right["faults found" if planted else "healthy runs accused"] += bool(found)
            print(f"| {'fault' if planted else 'healthy'} | {fields} | {'; '.join(found) or 'nothing'} |", flush=True)
    print(
        f"{right['faults found']} of {given.runs * 2 // 3} faults found,"
        f" {right['healthy runs accused']} of {given.runs - given.runs * 2 // 3} healthy runs accused"
    )


if __name__ == "__main__":
    main()
