"""A recipe: everything a run is, as one frozen document. It imports no torch, so the command line answers at once.

A field that is None is chosen from the data, the machine and the budget (`ebb.recipe.starting`), and the choice is
printed with its reason. A resolved recipe has no None left where a choice was possible; it is saved as run.yaml and
repeats the run.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Discriminator, Tag, field_validator, model_validator

from ebb.errors import UsageError
from ebb.recipe.groups import (
    AdditionRecipe,
    ControlRecipe,
    DataRecipe,
    DiTRecipe,
    Group,
    KLRecipe,
    LowRankRecipe,
    MLPRecipe,
    MMDiTRecipe,
    OptimiserRecipe,
    TextRecipe,
    UNetRecipe,
    VQRecipe,
    kind_or,
)
from ebb.recipe.limits import LIMITS, within

T = TypeVar("T")

Role = Literal["teacher", "autoencoder", "base"]
"""What a run is to the one that stands on it: learnt from, whose latents are denoised, or what it is put on."""


class Sampling(Group):
    """How a system samples unless told otherwise."""

    solver: str = "dpmpp_2m"
    """ddpm, ddim, ddim(eta=0.5), euler, heun, dpmpp_2m, …: see docs/sample.md"""
    grid: str = "log_snr"
    """uniform, noise_share, quadratic, karras, log_snr, trailing, leading or given(times=[…])"""
    steps: int = 16
    """steps of the solver"""
    guidance: float = 1.0
    """classifier-free guidance scale; 1 is off, more makes labels clearer and samples more alike"""
    guides: tuple[str, ...] = ()
    """rescaled(0.7), projected, within(0.3, 3), threshold, temperature(0.9), each around those before it"""
    noise_scale: float = 1.0
    """what the noise that a stochastic solver draws on its way is multiplied by; 1 is the solver's own"""
    precision: Literal["fp32", "bf16"] | None = None
    """of the network's forward pass; None: as trained"""


FEW = Sampling(solver="jump(renewed=1)", grid="noise_share", steps=2)
"""How a model of few steps samples: to the data, up again to where half of x is noise, and to the data."""


class Recipe(Group):
    """Everything a training run is. `Recipe(kind=…)` makes that of a family, as `pathlib.Path` makes its system's."""

    kind: str
    beside: tuple[str, ...] = ()
    """fields of metadata.jsonl that name pictures beside each (a mask, a drawing, …), to be heard"""
    budget: str | None = None
    """wall-clock time to train for, e.g. 90s, 10m, 2h; None: chosen from data and machine"""
    steps: int | None = None
    """updates to make; None: as many as the budget allows at the measured speed"""
    batch: int | None = None
    """examples per batch"""
    seed: int = 0
    """seed of the weights, the data order and the noise"""
    precision: Literal["fp32", "bf16"] | None = None
    """of the forward pass; None: the faster of the two, measured"""
    sheets: int | None = None
    """sheets of samples drawn while training, the last at the end; None: at most 10, for a tenth of the time"""
    ema_halflife: float = 500_000
    """longest half-life of the averaged weights, in examples"""
    data: DataRecipe = DataRecipe()
    optimiser: OptimiserRecipe = OptimiserRecipe()

    def __new__(cls, **fields: Any) -> Recipe:
        """A recipe of the family that `kind` names; the first where it names none."""
        if cls is Recipe:
            cls = RECIPES.get(fields.get("kind", FIRST), DiffusionRecipe)
        return super().__new__(cls)

    @field_validator("beside", mode="before")
    @classmethod
    def several(cls, value: Any) -> Any:
        """A run.yaml of before there could be several has the name of one, or null."""
        return () if value is None else (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def within_limits(self) -> Recipe:
        """Refuse a number outside its limits, and a budget that is not a duration; UsageError names the field."""
        if self.budget is not None:
            seconds(self.budget)
        for name, value in (flat(self.model_dump()) | {"data.size": self.data.sides}).items():
            for number in value if isinstance(value, tuple) else [value]:
                if isinstance(number, int | float) and name in LIMITS:
                    within(name, number)
        return self

    def asked(self) -> dict[str, Any]:
        """The fields that differ from the defaults, flat: {"network.width": 96}.

        A budget is left out where the steps are given too, as in a run.yaml: it has no effect then, and the command
        line takes one of them.
        """
        values = flat(self.model_dump())
        tags = {name.removesuffix(".kind"): {"kind": values[name]} for name in KINDS.keys() & values if "." in name}
        usual = flat(type(self).model_validate(tags).model_dump())
        differ = {name: value for name, value in values.items() if value != (KINDS.get(name) or usual[name])}
        return {name: value for name, value in differ.items() if name != "budget" or self.steps is None}

    def reads(self) -> dict[str, tuple[str, ...]]:
        """The files and folders that a run reads besides its data, by the option that names them."""
        return {}

    def origins(self) -> dict[Role, str]:
        """The run that this one stands on, by what it is for."""
        return {}

    def metadata(self) -> tuple[str, ...]:
        """The fields of metadata.jsonl whose numbers are read with the data."""
        return ()

    def shown(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What stands beside each picture: the fields of metadata.jsonl that name it, and extractors that find it."""
        return self.beside, ()

    def called(self, name: str, labelled: bool) -> str | None:
        """The label of data of this name that has none, where it is to have one."""
        return None

    def captioned(self) -> bool:
        """Whether captions matter."""
        return False

    @property
    def runs(self) -> Literal["eager", "compiled"] | None:
        """How the network runs in training; None where that is open."""
        return "eager"

    def running(self, engine: Literal["eager", "compiled"]) -> Recipe:
        """The recipe with another engine, where it has one."""
        return self


class DenoiserRecipe(Recipe):
    """What every denoiser has, that is sampled along a path from noise to data."""

    autoencoder: str | None = None
    """run of an autoencoder in whose latent space to work"""
    numbers: tuple[str, ...] = ()
    """fields of metadata.jsonl whose values are numbers, to be heard"""
    path: str = "linear"
    """linear, cosine, ddpm_linear, beta_table, sigmoid, variance_exploding or edm; fields as in cosine(s=0.008)"""
    prediction: str | None = None
    """noise, data, velocity, v, score or edm; None: what suits the path"""
    times: str | None = None
    """training times: uniform, discrete, logit_normal, log_normal, long_tailed, shifted; None: what suits the path"""
    coupling: str = "independent"
    """which noise goes with which example: independent or nearest"""
    weight: str = "unit"
    """loss weight: unit, simple, vlb, min_snr, edm or inverse_snr"""
    clock: str | None = None
    """what the network is told about time: fraction or quarter_log_nsr; None: what suits the path"""
    sigma_data: float | None = None
    """scale the input by 1/sqrt(alpha^2 sigma_data^2 + sigma^2); None: the data's own, measured"""
    condition_dropout: float = 0.1
    """share of labels, texts, numbers and other conditions hidden, so that guidance works"""
    engine: Literal["eager", "compiled"] | None = None
    """how a denoiser's network runs in training; None: eager, or on a GPU the faster, for 20 minutes or more"""
    text: TextRecipe = TextRecipe()
    network: Annotated[
        Annotated[UNetRecipe, Tag("unet")]
        | Annotated[DiTRecipe, Tag("dit")]
        | Annotated[MMDiTRecipe, Tag("mmdit")]
        | Annotated[MLPRecipe, Tag("mlp")],
        Discriminator(kind_or("unet")),
    ] = UNetRecipe()
    sample: Sampling = Sampling()

    @model_validator(mode="after")
    def whole_texts(self) -> DenoiserRecipe:
        """Refuse texts in concepts for a network that attends to whole ones."""
        if self.text.concepts and not self.network.concepts:
            raise UsageError(
                f"text.concepts is of a unet: network.kind {self.network.kind} attends to whole texts",
                "leave --text.concepts out, or --network.kind",
            )
        return self

    def reads(self) -> dict[str, tuple[str, ...]]:
        """Runs that this one stands on, and frozen encoders."""
        named = {"--autoencoder": self.autoencoder, **self.taught_by()}
        found = {option: (path,) for option, path in named.items() if path is not None}
        return found | {"--text.encoders": self.text.encoders}

    def taught_by(self) -> dict[str, str | None]:
        """The run that this one learns from, whose settings it shares, by the option that names it."""
        return {}

    def origins(self) -> dict[Role, str]:
        """The run that this one learns from, which has the autoencoder too, or `autoencoder`."""
        for teacher in filter(None, self.taught_by().values()):
            return {"teacher": teacher}
        return {} if self.autoencoder is None else {"autoencoder": self.autoencoder}

    def metadata(self) -> tuple[str, ...]:
        """`numbers`."""
        return self.numbers

    def captioned(self) -> bool:
        """Unless they are ignored."""
        return self.text.captions != "ignored"

    @property
    def runs(self) -> Literal["eager", "compiled"] | None:
        """`engine`."""
        return self.engine

    def running(self, engine: Literal["eager", "compiled"]) -> DenoiserRecipe:
        """The recipe with this engine."""
        return self.model_copy(update={"engine": engine})


class DiffusionRecipe(DenoiserRecipe):
    """A denoiser, sampled in many steps."""

    kind: Literal["diffusion"] = "diffusion"
    """what is trained: a diffusion model, one that samples in few steps, an adapter of one, or an autoencoder"""
    reflow: str | None = None
    """run whose own pairs of noise and sample are learnt, from its weights on: its paths become straighter"""
    pairs: int = 20_000
    """reflow: how many pairs"""
    likelihood: bool = False
    """learn to tell how likely data is too: at all levels of noise, down to 1/256 of the range of the data"""
    objective: str = "denoising"
    """denoising, or hybrid, which learns the variance of DDPM's steps too: hybrid(steps=1000, weight=0.001)"""

    def taught_by(self) -> dict[str, str | None]:
        """`reflow`."""
        return {"--reflow": self.reflow}


class FewStepRecipe(DenoiserRecipe):
    """A model of two times, sampled in one step, two or four."""

    kind: Literal["few_step"] = "few_step"
    teacher: str | None = None
    """run of a diffusion model from whose weights, and by whose flow, it learns; None: from the data alone"""
    method: str | None = None
    """consistency, mean_flow, lagrangian, self_distil, shortcut, progressive, …: docs/few.md; None: chosen"""
    guidances: tuple[float, float] | None = None
    """lowest and highest guidance scale that the model is told in place of two evaluations; None: 1 and 3 of labels"""
    sample: Sampling = FEW
    adapter: Literal["lora", "dora"] | None = None
    """train a change of this form alone, put on the frozen teacher; None: a network of its own"""
    rank: int | None = None
    """of that change of each layer; None: 16"""

    @model_validator(mode="after")
    def rising(self) -> FewStepRecipe:
        """Refuse guidance scales that do not rise from 1 or more, and any where nothing could teach them."""
        if self.guidances is None:
            return self
        low, high = self.guidances
        if not 1 <= low < high:
            raise UsageError(f"guidances are two scales that rise, from 1 on, got {low:g} {high:g}", "--guidances 1 3")
        if self.teacher is None:
            raise UsageError("guidance is learned from a teacher", "add --teacher RUN, or leave --guidances out")
        return self

    @model_validator(mode="after")
    def on_a_teacher(self) -> FewStepRecipe:
        """Refuse an adapter of nothing."""
        if self.adapter is not None and self.teacher is None:
            raise UsageError("an adapter of few steps is put on its teacher", "ebb distil RUN --as lora")
        if self.rank is not None and self.adapter is None:
            raise UsageError("a rank is of an adapter, and this is a network of its own", "ebb distil RUN --as lora")
        return self

    def taught_by(self) -> dict[str, str | None]:
        """`teacher`."""
        return {"--teacher": self.teacher}


class AdapterRecipe(DenoiserRecipe):
    """What a finished diffusion model is taught besides, in a few numbers of its own."""

    kind: Literal["adapter"] = "adapter"
    adapts: str | None = None
    """run of the diffusion model that it is put on, whose weights stay as they are"""
    addition: AdditionRecipe = LowRankRecipe()
    condition_dropout: float = 0.0
    label: str | None = None
    """what pictures without a label are; a new label is added to the model's own; None: the name of the data"""
    concept: str | None = None
    """a new word, which captions of the pictures have; of pictures without captions it is what they are asked for as"""
    reference: bool = False
    """learn to be asked by a picture: each is drawn with itself as its reference"""
    drift: float | None = None
    """how far answers for what is not taught may move, as a share of their size, before training stops; None: 0.1 with
    a new word, else it is measured alone"""
    prior: int | None = None
    """samples of the model itself learnt besides, so that the rest stays; None: 512, 0 where it stays anyway"""

    def control(self) -> ControlRecipe | None:
        """The map that it makes its base follow, if that is what is put on it."""
        return self.addition if isinstance(self.addition, ControlRecipe) else None

    def shown(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Also what it is controlled by."""
        one = self.control() or ControlRecipe()
        return (*self.beside, *filter(None, [one.field])), (*filter(None, [one.extractor]),)

    def called(self, name: str, labelled: bool) -> str | None:
        """`label`, or the name of the data unless it is a control; UsageError for a label beside those there are."""
        if labelled and self.label is not None:
            raise UsageError("this data has labels of its own", "leave --label out")
        return None if labelled else self.label or (name if self.control() is None else None)

    def taught_by(self) -> dict[str, str | None]:
        """`adapts`."""
        return {"--adapts": self.adapts}

    def origins(self) -> dict[Role, str]:
        """`adapts`."""
        return {} if self.adapts is None else {"base": self.adapts}


class AutoencoderRecipe(Recipe):
    """An autoencoder, sampled from the normal prior of its latents."""

    kind: Literal["autoencoder"] = "autoencoder"
    autoencoding: Annotated[
        Annotated[KLRecipe, Tag("kl")] | Annotated[VQRecipe, Tag("vq")], Discriminator(kind_or("kl"))
    ] = KLRecipe()

    def reads(self) -> dict[str, tuple[str, ...]]:
        """The features of its perceptual term."""
        return {} if self.autoencoding.lpips is None else {"--autoencoding.lpips": (self.autoencoding.lpips,)}


RECIPES: dict[str, type[Recipe]] = {
    "diffusion": DiffusionRecipe,
    "few_step": FewStepRecipe,
    "adapter": AdapterRecipe,
    "autoencoder": AutoencoderRecipe,
}
"""The recipe of each family by its `kind`; the first is the one that is meant where none is named."""

FIRST = "diffusion"

KINDS = {"kind": FIRST, "network.kind": "unet", "autoencoding.kind": "kl", "addition.kind": "low_rank"}
"""What each idea with several members is where nothing is said."""


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


def of_denoiser(recipe: Recipe) -> DenoiserRecipe:
    """A recipe that is one of a denoiser; UsageError for another."""
    if not isinstance(recipe, DenoiserRecipe):
        raise UsageError(f"this is of diffusion models, and the recipe is of kind {recipe.kind}")
    return recipe
