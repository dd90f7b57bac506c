"""The groups of a recipe: what belongs together, and the members of one idea, each with options of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, field_validator, model_validator

from ebb.errors import UsageError


class Group(BaseModel):
    """A frozen group of settings that refuses unknown names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def kind_or(usual: str) -> Callable[[Any], str]:
    """Which member of an idea a value is: the `kind` that it has or names, or the usual one where it names none."""

    def kind(value: Any) -> str:
        named = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
        return usual if named is None else str(named)

    return kind


def members(annotation: Any) -> dict[str, type[Group]]:
    """The groups that a field with this annotation may hold, by their `kind`; {} for a field that is no group."""
    if isinstance(annotation, type):
        return {kind_or("")(annotation()): annotation} if issubclass(annotation, Group) else {}
    return {kind: group for inner in get_args(annotation) for kind, group in members(inner).items()}


class DataRecipe(Group):
    """What is done to the data; size, channels, flip and buckets belong to pictures, window to tables."""

    size: int | str | None = None
    """side of the square that images are resized to, or width x height, as in 96x64; None: chosen from the images"""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for colour; None: colour if any image has colour"""
    flip: bool = False
    """mirror half of the images left to right"""
    buckets: bool = False
    """keep portrait and landscape: a few shapes of about size × size pixels, a batch of one (aspect ratio bucketing)"""
    window: int | None = None
    """rows of a table that are one example, a window of a series; 0: each row is one; None: as the table looks"""

    @field_validator("size")
    @classmethod
    def plain(cls, size: int | str | None) -> int | str | None:
        """The side of a square as a number, and WIDTHxHEIGHT without blanks; UsageError for what is neither."""
        if not isinstance(size, str):
            return size
        match = re.fullmatch(r"\s*(\d+)\s*(?:[x×]\s*(\d+)\s*)?", size, re.IGNORECASE)
        if match is None:
            raise UsageError(f"data.size is a side or WIDTHxHEIGHT, got {size!r}", "such as --data.size 96x64")
        width, height = int(match[1]), int(match[2] or match[1])
        return width if width == height else f"{width}x{height}"

    @model_validator(mode="after")
    def of_one_area(self) -> DataRecipe:
        """Refuse both sides of a size where buckets choose their own."""
        if self.buckets and self.sides and len({*self.sides}) > 1:
            raise UsageError(
                f"buckets are of about as many pixels as a square, and data.size is {self.size}",
                f"--data.size {round(math.prod(self.sides) ** 0.5)}, or leave --data.buckets out",
            )
        return self

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width that images are resized to; None where these are open."""
        if self.size is None:
            return None
        width, _, height = str(self.size).partition("x")
        return int(height or width), int(width)


class TextRecipe(Group):
    """What is heard of captions, where the data has any."""

    captions: Literal["heard", "required", "ignored"] = "heard"
    """heard: what has none is learnt without; required: refuse data in which one is missing; ignored"""
    vocabulary: int = 1024
    """pieces of words, learnt from the captions by byte-pair encoding"""
    length: int | None = None
    """most pieces of a text that are heard; None: those of the longest caption, at most 64, or 77 of encoders"""
    concepts: int = 0
    """unet: take captions apart at commas and "and" into up to so many, each attended to alone; 0: leave them whole"""
    encoders: tuple[str, ...] = ()
    """local folders of frozen CLIP, T5 or BERT-like encoders that read the captions, in place of an own vocabulary"""


class PatchRecipe(Group):
    """What every network has."""

    width: int | None = None
    """channels at the highest resolution (unet) or of every token (dit, mmdit)"""
    depth: int | None = None
    """residual blocks at each resolution (unet) or transformer blocks (dit, mmdit)"""
    patch: int | None = None
    """side of the square of pixels that becomes one place"""


class UNetRecipe(PatchRecipe):
    """A U-Net."""

    tokens: ClassVar[bool] = False
    """whether it is a transformer, whose tokens see all others at once"""
    concepts: ClassVar[bool] = True
    """whether it attends to each concept of a text alone"""
    only: ClassVar[str] = ""
    """the one kind of example that it is of, where it is not of all"""
    kind: Literal["unet"] = "unet"
    """unet, dit, mmdit for texts, or mlp for rows of numbers, which have no places for the others"""
    multipliers: tuple[int, ...] | None = None
    """width at each resolution, as a multiple of width"""
    attention: tuple[int, ...] | None = None
    """resolutions that attend, 0 being the highest"""
    cross: tuple[int, ...] | None = None
    """resolutions that attend to the text"""
    waves: tuple[float, ...] = ()
    """radians per unit of x of waves that stand beside it, by which fine differences are told; for likelihood"""


class DiTRecipe(PatchRecipe):
    """A diffusion transformer."""

    tokens: ClassVar[bool] = True
    concepts: ClassVar[bool] = False
    only: ClassVar[str] = "pictures"
    kind: Literal["dit"] = "dit"
    positions: Literal["rope", "learned"] = "rope"
    """how tokens know their place"""


class MMDiTRecipe(PatchRecipe):
    """A transformer of two streams, for texts."""

    tokens: ClassVar[bool] = True
    concepts: ClassVar[bool] = False
    only: ClassVar[str] = "pictures"
    kind: Literal["mmdit"] = "mmdit"


class MLPRecipe(Group):
    """A perceptron, for rows of numbers: they have no places."""

    tokens: ClassVar[bool] = False
    concepts: ClassVar[bool] = False
    only: ClassVar[str] = "rows of numbers"
    patch: ClassVar[int] = 1
    kind: Literal["mlp"] = "mlp"
    width: int | None = None
    """numbers between layers"""
    depth: int | None = None
    """layers between the first and the last"""


NetworkRecipe = UNetRecipe | DiTRecipe | MMDiTRecipe | MLPRecipe


class CodecRecipe(Group):
    """What every autoencoder has."""

    factor: int = 4
    """how many times smaller the latent's sides are than the example's; a power of 2"""
    latent: int = 8
    """channels of the latent"""
    residual: bool = False
    """shortcuts around every change of resolution, for high compression"""
    distance: Literal["l1", "l2"] = "l2"
    """between an example and what is made of it"""
    width: int = 64
    """channels at the highest resolution"""
    perceptual: float = 0.0
    """weight of the distance in features of a classifier trained on the data"""
    lpips: str | None = None
    """safetensors file of LPIPS (VGG-16), whose features then take the classifier's place"""
    adversarial: float = 0.0
    """weight of a patch critic, heard from a quarter of the run on"""

    @model_validator(mode="after")
    def weighed(self) -> CodecRecipe:
        """Refuse features of a term that has no weight."""
        if self.lpips and not self.perceptual:
            raise UsageError(
                "LPIPS is the perceptual term of an autoencoder, whose weight is 0", "add --autoencoding.perceptual 0.1"
            )
        return self


class KLRecipe(CodecRecipe):
    """A Gaussian latent (VAE)."""

    kind: Literal["kl"] = "kl"
    """kl: a Gaussian latent (VAE); vq: a codebook (VQ-VAE)"""
    beta: float = 1e-3
    """weight of the KL divergence from the prior; with l2, 2s² is a VAE whose reconstructions have the variance s²"""
    free_nats: float = 0.0
    """nats of each number of the latent that cost nothing"""
    warmup: int = 0
    """examples until the weight of the KL divergence has risen to beta"""


class VQRecipe(CodecRecipe):
    """A codebook (VQ-VAE)."""

    kind: Literal["vq"] = "vq"
    codes: int = 512
    """size of the codebook"""


AutoencodingRecipe = KLRecipe | VQRecipe


class LowRankRecipe(Group):
    """A thin change of the weights of layers: LoRA, or DoRA."""

    kind: Literal["low_rank"] = "low_rank"
    """what is put on a finished model: low_rank, thin changes of its weights"""
    form: Literal["lora", "dora"] = "lora"
    """lora; or dora, which has a length for each output besides"""
    rank: int | None = None
    """rank of the change of each layer; None: chosen by the gradient of a first batch"""
    layers: tuple[str, ...] = ()
    """names of the layers that are changed, * as in file names; none: all, or, with the rank, chosen"""
    reach: Literal["new", "all"] | None = None
    """what changes: new, samples asked for by a new label or word alone, so that all others stay to the bit; all, every
    sample; None: new where all that is taught has new labels, and no prior is asked for"""


class BareRecipe(Group):
    """Nothing but what the data needs: a new word, or a new label, whose vector alone is learnt."""

    kind: Literal["bare"] = "bare"
    """bare, nothing but the vector of a new word or label"""


class ControlRecipe(Group):
    """A module beside the network that makes it follow maps, such as edges."""

    kind: Literal["control"] = "control"
    """what is put on a finished model: control, a module by which it follows maps"""
    form: str = "controlnet"
    """controlnet, a copy of the network's encoder; or two_way, a narrow one that listens at every block; with fields,
    as in two_way(share=0.5)"""
    extractor: str | None = None
    """what is found in the pictures themselves: edges, soft_edges, palette, low_resolution, mask or grey, with fields,
    as in edges(high=0.3)"""
    field: str | None = None
    """or the field of metadata.jsonl that names a picture beside each"""

    @property
    def name(self) -> str:
        """What it is called."""
        return (self.field or self.extractor or "").partition("(")[0]


AdditionRecipe = Annotated[
    Annotated[LowRankRecipe, Tag("low_rank")]
    | Annotated[ControlRecipe, Tag("control")]
    | Annotated[BareRecipe, Tag("bare")],
    Discriminator(kind_or("low_rank")),
]


class OptimiserRecipe(Group):
    """The optimiser and its learning rate."""

    kind: Literal["muon", "adamw"] | None = None
    """muon for the matrices inside the network and adamw for the rest, or adamw for all; None: what suits it"""
    lr: float | None = None
    """peak learning rate"""
    warmup: int | None = None
    """steps until the peak is reached"""
    schedule: Literal["level_then_fall", "linear", "cosine"] = "level_then_fall"
    """how the learning rate goes from its peak to zero: level, then falling over `decay`; or all the way, as a line or
    half a cosine"""
    decay: float = 0.25
    """level_then_fall: share of the steps, the last ones, over which the learning rate falls to zero"""
    search: bool = False
    """try learning rates from a quarter to four times the usual one, for up to a minute, and take the best"""
    weight_decay: float = 0.01
    """decoupled weight decay"""
    clip: float = 1.0
    """largest gradient norm"""
    accumulate: int = 1
    """batches per update"""

    @model_validator(mode="after")
    def agreed(self) -> OptimiserRecipe:
        """Refuse a share of the steps for a rate that falls over all of them."""
        if self.schedule != "level_then_fall" and self.decay != type(self).model_fields["decay"].default:
            raise UsageError(
                f"a {self.schedule} learning rate falls over the whole run, and decay {self.decay:g} is a share of it",
                "leave --optimiser.decay out, or --optimiser.schedule level_then_fall",
            )
        return self
