"""A recipe: everything a run is, as one frozen document. It imports no torch, so the command line answers at once.

A field that is None is chosen from the data, the machine and the budget (`ebb.recipe.starting`), and the choice is
printed with its reason. A resolved recipe has no None left where a choice was possible; it is saved as run.yaml and
repeats the run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from ebb.errors import UsageError, nearest
from ebb.recipe.limits import LIMITS, within

T = TypeVar("T")


class Group(BaseModel):
    """A frozen group of settings that refuses unknown names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataRecipe(Group):
    """What is done to the data; size, channels and flip belong to pictures, window to tables."""

    size: int | None = None
    """side of the square that images are resized to; None: chosen from the images"""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for colour; None: colour if any image has colour"""
    flip: bool = False
    """mirror half of the images left to right"""
    window: int | None = None
    """rows of a table that are one example, a window of a series; 0: each row is one; None: as the table looks"""


class TextRecipe(Group):
    """What is heard of captions, where the data has any."""

    captions: Literal["heard", "required", "ignored"] = "heard"
    """heard: images without one are learnt without; required: refuse data in which one is missing; ignored"""
    vocabulary: int = 1024
    """pieces of words, learnt from the captions by byte-pair encoding"""
    length: int | None = None
    """most pieces of a text that are heard; None: those of the longest caption, at most 64, or 77 of encoders"""
    concepts: int = 0
    """unet: take captions apart at commas and "and" into up to so many, each attended to alone; 0: leave them whole"""
    encoders: tuple[str, ...] = ()
    """local folders of frozen CLIP, T5 or BERT-like encoders that read the captions, in place of an own vocabulary"""


class AutoencoderRecipe(Group):
    """An autoencoder, where `kind` asks for one."""

    kind: Literal["kl", "vq"] = "kl"
    """kl: a Gaussian latent (VAE); vq: a codebook (VQ-VAE)"""
    factor: int = 4
    """how many times smaller the latent's sides are than the picture's; a power of 2"""
    latent: int = 8
    """channels of the latent"""
    residual: bool = False
    """shortcuts around every change of resolution, for high compression"""
    distance: Literal["l1", "l2"] = "l2"
    """between a picture and what is made of it"""
    width: int = 64
    """channels at the highest resolution"""
    beta: float = 1e-3
    """kl: weight of the divergence from the prior; with l2, 2s² is a VAE whose pictures have the variance s²"""
    free_nats: float = 0.0
    """kl: nats of each number of the latent that cost nothing"""
    warmup: int = 0
    """kl: images until the weight of the divergence has risen to beta"""
    codes: int = 512
    """vq: size of the codebook"""
    perceptual: float = 0.0
    """weight of the distance in features of a classifier trained on the data"""
    lpips: str | None = None
    """safetensors file of LPIPS (VGG-16), whose features then take the classifier's place"""
    adversarial: float = 0.0
    """weight of a patch critic, heard from a quarter of the run on"""


class NetworkRecipe(Group):
    """The network; multipliers, attention and cross belong to the unet, positions to the dit."""

    kind: Literal["unet", "dit", "mmdit", "mlp"] = "unet"
    """unet, dit, mmdit for texts, or mlp for rows of numbers, which have no places for the others"""
    width: int | None = None
    """channels at the highest resolution (unet) or of every token (dit)"""
    depth: int | None = None
    """residual blocks per level (unet) or transformer blocks (dit)"""
    patch: int | None = None
    """side of the square of pixels that becomes one place"""
    multipliers: tuple[int, ...] | None = None
    """unet: width of each level, as a multiple of width"""
    attention: tuple[int, ...] | None = None
    """unet: levels that attend, 0 being the highest resolution"""
    cross: tuple[int, ...] | None = None
    """unet: levels that attend to the text"""
    positions: Literal["rope", "learned"] = "rope"
    """dit: how tokens know their place"""


class OptimiserRecipe(Group):
    """The optimiser and its learning rate."""

    kind: Literal["muon", "adamw"] | None = None
    """muon for the matrices inside the network and adamw for the rest, or adamw for all; None: what suits it"""
    lr: float | None = None
    """peak learning rate"""
    warmup: int | None = None
    """steps until the peak is reached"""
    decay: float = 0.25
    """share of the steps, the last ones, over which the learning rate falls to zero; before it is level"""
    weight_decay: float = 0.01
    """decoupled weight decay"""
    clip: float = 1.0
    """largest gradient norm"""
    accumulate: int = 1
    """batches per update"""


class Sampling(Group):
    """How a system samples unless told otherwise."""

    solver: str = "dpmpp_2m"
    """ddpm, ddim, ddim(eta=0.5), euler, heun, dpmpp_2m, …: see docs/sample.md"""
    grid: str = "log_snr"
    """uniform, quadratic, karras, log_snr, trailing, leading or given(times=[…])"""
    steps: int = 16
    """steps of the solver"""
    guidance: float = 1.0
    """classifier-free guidance scale; 1 is off, more makes labels clearer and pictures more alike"""
    precision: Literal["fp32", "bf16"] | None = None
    """of the network's forward pass; None: as trained"""


class Recipe(Group):
    """Everything a training run is."""

    kind: Literal["denoiser", "autoencoder"] = "denoiser"
    """what is trained"""
    autoencoder: str | None = None
    """run of an autoencoder in whose latent space to work"""
    reflow: str | None = None
    """run whose own pairs of noise and sample are learnt, from its weights on: its paths become straighter"""
    pairs: int = 20_000
    """reflow: how many pairs"""
    numbers: tuple[str, ...] = ()
    """fields of metadata.jsonl whose values are numbers, to be heard"""
    beside: tuple[str, ...] = ()
    """fields of metadata.jsonl that name other pictures of the same scene (a mask, a drawing, …), to be heard"""
    budget: str | None = None
    """wall-clock time to train for, e.g. 90s, 10m, 2h; None: chosen from data and machine"""
    steps: int | None = None
    """updates to make; None: as many as the budget allows at the measured speed"""
    batch: int | None = None
    """images per batch"""
    seed: int = 0
    """seed of the weights, the data order and the noise"""
    path: str = "linear"
    """linear, cosine, ddpm_linear, sigmoid, variance_exploding or edm"""
    prediction: str | None = None
    """noise, data, velocity, v, score or edm; None: what suits the path"""
    times: str | None = None
    """density of training times: uniform, discrete, logit_normal, log_normal or shifted; None: what suits the path"""
    coupling: str = "independent"
    """which noise goes with which image: independent or nearest"""
    weight: str = "unit"
    """loss weight: unit, simple, vlb, min_snr, edm or inverse_snr"""
    clock: str | None = None
    """what the network is told about time: fraction or quarter_log_nsr; None: what suits the path"""
    sigma_data: float | None = None
    """scale the input by 1/sqrt(alpha^2 sigma_data^2 + sigma^2); None: the data's own, measured"""
    label_dropout: float = 0.1
    """share of labels, texts, numbers and pictures hidden, so that guidance works"""
    precision: Literal["fp32", "bf16"] | None = None
    """of the forward pass; None: the faster of the two, measured"""
    engine: Literal["eager", "compiled"] | None = None
    """how a denoiser's network runs in training; None: eager, or on a GPU the faster, for 20 minutes or more"""
    grids: int | None = None
    """sample grids drawn while training, the last at the end; None: at most 10, for a tenth of the time"""
    ema_halflife: float = 500_000
    """longest half-life of the averaged weights, in images"""
    data: DataRecipe = DataRecipe()
    text: TextRecipe = TextRecipe()
    network: NetworkRecipe = NetworkRecipe()
    autoencoding: AutoencoderRecipe = AutoencoderRecipe()
    optimiser: OptimiserRecipe = OptimiserRecipe()
    sample: Sampling = Sampling()

    @field_validator("beside", mode="before")
    @classmethod
    def several(cls, value: Any) -> Any:
        """A run.yaml of before there could be several pictures has the name of one, or null."""
        return () if value is None else (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def within_limits(self) -> Recipe:
        """Refuse a number outside its limits, and a budget that is not a duration; UsageError names the field."""
        if self.budget is not None:
            seconds(self.budget)
        if self.kind == "denoiser" and self.autoencoding != AutoencoderRecipe():
            raise UsageError(
                "the autoencoding settings are of an autoencoder", "add --kind autoencoder, or leave them out"
            )
        if self.kind == "autoencoder" and (self.autoencoder or self.sample.guidance != 1):
            raise UsageError(
                "an autoencoder hears nothing and works on no latents", "leave --autoencoder and guidance out"
            )
        if self.autoencoding.lpips and not self.autoencoding.perceptual:
            raise UsageError(
                "LPIPS is the perceptual term of an autoencoder, whose weight is 0", "add --autoencoding.perceptual 0.1"
            )
        if self.kind == "autoencoder" and self.engine == "compiled":
            raise UsageError("an autoencoder is not compiled", "leave --engine out")
        if self.kind == "autoencoder" and self.reflow:
            raise UsageError("an autoencoder has no flow to straighten", "leave --reflow out")
        if self.kind == "autoencoder" and self.numbers:
            raise UsageError("an autoencoder hears no numbers", "leave --numbers out")
        for name, value in flat(self.model_dump()).items():
            for number in value if isinstance(value, tuple) else [value]:
                if isinstance(number, int | float) and name in LIMITS:
                    within(name, number)
        return self

    def asked(self) -> dict[str, Any]:
        """The fields that differ from the defaults, flat: {"network.width": 96}.

        A budget is left out where the steps are given too, as in a run.yaml: it has no effect then, and the command
        line takes one of them.
        """
        return flat(self.model_dump(exclude_defaults=True, exclude=None if self.steps is None else {"budget"}))


def seconds(duration: str) -> float:
    """`"10m"` → 600.0. Units: s, m, h, d. Raises UsageError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", duration.strip())
    if match is None or float(match[1]) == 0:
        raise UsageError(f"a budget is a number with s, m, h or d, got {duration!r}", "for example --budget 10m")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def resolved(value: T | None) -> T:
    """A field that a resolved recipe has; raises UsageError for a recipe in which it is still open."""
    if value is None:
        raise UsageError("this recipe leaves fields open that are chosen from data", "train with it: ebb train DATA")
    return value


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping with dotted names."""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        out |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return out


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines `name: old → new` for every dotted name whose value differs; a missing one is "chosen"."""
    names = sorted(set(old) | set(new))
    rows = [(n, old.get(n, "chosen"), new.get(n, "chosen")) for n in names]
    return [f"{n}: {a} → {b}" for n, a, b in rows if a != b]


def validated(tree: Any, source: str) -> Recipe:
    """A Recipe from a mapping; raises UsageError that names each wrong field and the nearest right one."""
    if not isinstance(tree, dict):
        raise UsageError(f"{source} is not a recipe: expected a mapping of fields", "see one with: ebb config show")
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise explained(error, source) from error


def explained(error: ValidationError, source: str) -> UsageError:
    """What is wrong with a recipe, one clause for each field, with the nearest name for an unknown one."""
    known, lines = list(flat(Recipe().model_dump())), []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(
                f"there is no field {name}, {nearest(name, known).split('known:')[0].strip() or 'see the list'}"
            )
        elif problem["type"] == "value_error":
            lines.append(str(problem["ctx"]["error"]))
        else:
            lines.append(f"{name}: {problem['msg'].lower()}, got {problem['input']!r}")
    return UsageError(f"{source}: " + "; ".join(lines), "see all fields with: ebb config show")


def from_yaml(path: Path) -> tuple[Recipe, dict[str, Any]]:
    """The recipe of a YAML file, and the file's other entries (a run.yaml holds it under `recipe`)."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if isinstance(tree, dict) and "recipe" in tree:
        rest = {name: value for name, value in tree.items() if name != "recipe"}
        return validated(tree["recipe"], str(path)), rest
    return validated(tree or {}, str(path)), {}


def to_yaml(recipe: Recipe, **rest: Any) -> str:
    """The text of a run.yaml: the recipe under `recipe`, and what else is known of the run."""
    return yaml.safe_dump({**rest, "recipe": recipe.model_dump(mode="json")}, sort_keys=False, allow_unicode=True)
