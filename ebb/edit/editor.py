"""A system ready to edit with: pictures in, pictures out, whatever its denoiser works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import SupportsIndex, Unpack

import torch
from torch import Tensor

from ebb.data.images import PICTURES
from ebb.edit.between import Between, blend, frames
from ebb.edit.fill import canvas, fill
from ebb.edit.restore import softened
from ebb.edit.sdedit import sdedit, steps_for
from ebb.edit.translate import direction, translate
from ebb.errors import UsageError
from ebb.guide.cfg import Guide
from ebb.guide.inverse import mmps
from ebb.guide.named import automatic, surrounded
from ebb.guide.operators import Curved, Operator, downsample
from ebb.machine import ready
from ebb.process.denoiser import Cond
from ebb.recipe.limits import real, whole
from ebb.recipe.recipe import Sampling
from ebb.sample.invert import invert
from ebb.sample.noise import Noise
from ebb.sample.scheme import Scheme, last
from ebb.shapes import Float, batch_of, sides
from ebb.system.model import scheme_of
from ebb.system.sampler import Sampler, Settings, finite
from ebb.system.system import System

Label = str | int | None
"""A label's name or number, or a text where the model hears texts; None says nothing, the null it was trained with."""


@dataclass(frozen=True, eq=False)
class Editor:
    """Edits of pictures x0 [b, *shape] in [−1, 1], as float32 on the CPU, towards one label or text, or none.

    Edited picture i is a function of (system, settings, x0[i], seed + i) alone, whatever the batch, to within rounding.
    `progress` is told how many pictures each batch finished.
    """

    system: System
    sampling: Sampling
    label: Label = None
    batch: int = 64
    progress: Callable[[int], None] | None = None

    @classmethod
    def of(
        cls,
        system: System,
        *,
        label: Label = None,
        batch: SupportsIndex = 64,
        progress: Callable[[int], None] | None = None,
        **settings: Unpack[Settings],
    ) -> Editor:
        """An editor with the system's own sampling settings, but those that are asked for (steps, guidance, solver, …).

        Raises UsageError for settings or a label that the system does not have, and for guidance towards nothing.
        """
        if system.modality != PICTURES:
            raise UsageError(f"this model makes {system.modality.things}, and what is edited is pictures")
        sampling = system.settled(**settings)
        if label is None and settings.get("guidance") not in (None, 1) and not automatic(sampling.guides):
            raise UsageError(
                f"guidance {sampling.guidance:g} needs a label or a text to guide towards",
                "name one with --label or --text",
            )
        editor = cls(system, sampling, label, whole("batch", batch), progress)
        editor.cond(label, 1)
        ready()
        return editor

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.system.device

    def cond(self, label: Label, count: int) -> Cond:
        """The conditions of `count` pictures; UsageError for a label that the system does not know."""
        system = self.system
        said = system.null() if label is None else system.conditions(system.conditioner.about(label), 1)
        return {name: row.expand(count, *row.shape[1:]) for name, row in said.items()}

    @property
    def plain(self) -> Scheme:
        """How the settings sample, without guidance."""
        return scheme_of(self.system.denoiser, self.sampling)

    @property
    def guided(self) -> Scheme:
        """The same with its guides; without a label there is nothing to guide towards."""
        how = self.sampling
        if self.label is None and not automatic(how.guides):
            how = how.model_copy(update={"guidance": 1.0})
        return self.plain.guided(*self.system.guides(how))

    def encoded(self, x0: Float[Tensor, "b *d"]) -> Float[Tensor, "b *e"]:
        """Pictures as what the denoiser works on."""
        return self.system.encode(x0.to(self.device))

    def decoded(self, x: Float[Tensor, "b *e"]) -> Float[Tensor, "b *d"]:
        """Pictures of what the denoiser made, in [−1, 1]; raises EbbError where it is not finite."""
        return Sampler(self.system).decoded(finite(x))

    def each(
        self, given: Float[Tensor, "b *d"], seed: int, edit: Callable[[Tensor, Cond, Noise], Tensor]
    ) -> Float[Tensor, "b *e"]:
        """`edit(part, cond, noise)` for what is given, in batches; sample i has the noise of seed + i."""
        made, seed = [], whole("seed", seed)
        for part in self.parts(given):
            count = len(part)
            made.append(self.decoded(edit(part, self.cond(self.label, count), Noise.of(seed, count))))
            seed += count
            if self.progress:
                self.progress(count)
        return torch.cat(made)

    def like_its_own(self, x0: Float[Tensor, "b *d"]) -> None:
        """Raise UsageError unless these are pictures as the model makes them, in [−1, 1]."""
        batch_of("pictures", x0, self.system.shape)
        in_range(x0)

    def parts(self, given: Float[Tensor, "b *d"]) -> list[Tensor]:
        """What is given, in batches."""
        return [given[first : first + self.batch] for first in range(0, len(given), self.batch)]

    def strength(self, x0: Float[Tensor, "b *d"], strength: float, seed: int = 0) -> Float[Tensor, "b *d"]:
        """Image to image (`sdedit`): 0 gives the pictures back, 1 is a fresh sample."""
        self.like_its_own(x0)
        if steps_for(strength, self.sampling.steps) == 0:
            return x0
        scheme = self.guided
        return self.each(x0, seed, lambda part, cond, noise: sdedit(scheme, self.encoded(part), cond, noise, strength))

    def inpaint(
        self, x0: Float[Tensor, "b c *size"], new: Tensor, repeats: int = 1, seed: int = 0
    ) -> Float[Tensor, "b c *size"]:
        """New where `new` [*size] is true or not 0; elsewhere x0, bit for bit (`fill`).

        Where the denoiser works at a lower resolution, a place is held if all of it is known. Raises UsageError for a
        mask of another size, or one with nothing to make.
        """
        batch_of("pictures", x0, self.system.shape[:1], len(self.system.shape))  # sides may be larger: see `outpaint`
        in_range(x0)
        if not isinstance(new, Tensor):
            raise UsageError(f"a mask is a tensor {sides(x0.shape[2:])}, got {type(new).__name__}")
        if new.shape != x0.shape[2:]:
            raise UsageError(f"a mask of {sides(new.shape)} does not fit pictures of {sides(x0.shape[2:])}")
        if not bool(new.any()):
            raise UsageError("the mask has nothing to make new", "what is white in it is made new, what is black kept")

        def edit(part: Tensor, cond: Cond, noise: Noise) -> Tensor:
            # what is to be replaced must not reach the latents beside it
            z = self.encoded(torch.where(new != 0, 0.0, part))
            return fill(self.guided, z, covering(new, z), cond, noise, repeats)

        return torch.where(new != 0, self.each(x0, seed, edit), x0)

    def outpaint(
        self, x0: Float[Tensor, "b c *size"], border: int, repeats: int = 1, seed: int = 0
    ) -> Float[Tensor, "b c *more"]:
        """The pictures with `border` new places on every side. Raises UsageError where the network has one size, and
        for a border that an autoencoder's factor does not divide."""
        self.like_its_own(x0)
        if self.system.conditioner.maps:
            raise UsageError(
                "this model hears a picture beside its own, as large as that, and cannot make a larger one",
                "take a model that was trained without --beside",
            )
        factor = 1 if self.system.space is None else self.system.space.autoencoder.factor
        if border % factor:
            raise UsageError(f"this model's latents are {factor} times smaller, which does not divide {border}")
        return self.inpaint(*canvas(x0, border), repeats, seed)

    def translate(
        self, x0: Float[Tensor, "b *d"], source: Label = None, added: Tensor | None = None
    ) -> Float[Tensor, "b *d"]:
        """The pictures' counterparts under this editor's label: inverted under `source`, sampled again (`translate`).

        `added` goes to the noise between the two. Without it, and with one label both ways, the pictures come back to
        within the solver's error; so do more steps than for sampling.
        """
        self.like_its_own(x0)

        def edit(part: Tensor, cond: Cond, noise: Noise) -> Tensor:
            under, z = self.cond(source, len(part)), self.encoded(part)
            return translate(self.plain, self.guided, z, under, cond, added)

        return self.each(x0, 0, edit)

    def shift(
        self, x0: Float[Tensor, "b *d"], plus: Float[Tensor, "m *d"], minus: Float[Tensor, "k *d"], scale: float = 1.0
    ) -> Float[Tensor, "b *d"]:
        """The pictures moved from the pictures `minus` towards `plus`, by scale·`direction` in their noise."""
        return self.translate(x0, self.label, real("scale", scale) * self.direction(plus, minus))

    def direction(self, plus: Float[Tensor, "m *d"], minus: Float[Tensor, "k *d"]) -> Tensor:
        """From what some pictures have in common towards what others have, in their noise (`direction`)."""
        return direction(self.noises(plus), self.noises(minus))

    def noises(self, x0: Float[Tensor, "b *d"]) -> Float[Tensor, "b *e"]:
        """What the pictures would be made from, under this editor's label (`invert`)."""
        self.like_its_own(x0)

        scheme = self.plain

        def up(part: Tensor) -> Tensor:
            under, z = self.cond(self.label, len(part)), self.encoded(part)
            return last(invert(scheme.denoiser, scheme.solver, scheme.times, z, under))

        return torch.cat([up(part) for part in self.parts(x0)])

    def interpolate(
        self, seeds: tuple[int, int], count: SupportsIndex, labels: tuple[Label, Label] | None = None
    ) -> Float[Tensor, "n *d"]:
        """`count` samples from that of one seed to that of another, and from one label to another where two are given.

        The noise turns along a great circle (`Between`), the answers to two labels are mixed (`blend`).
        """
        for what, ends in (("seeds", seeds), ("labels", labels)):
            if ends is not None and (not isinstance(ends, Sequence) or isinstance(ends, str) or len(ends) != 2):
                raise UsageError(f"an interpolation is between two {what}, got {ends!r:.60}")
        shares = frames(whole("n", count, 2))
        if labels is None:
            return self.strip(self.guided, seeds, shares)
        null, (first, second) = self.system.null(), (self.cond(label, 1) for label in labels)

        def between(share: float) -> Guide:
            return surrounded(self.sampling.guides, blend(first, second, share, null, self.sampling.guidance))

        # one at a time, since a blend has one share
        return torch.cat([self.strip(self.plain.guided(between(share)), seeds, (share,)) for share in shares])

    def strip(self, scheme: Scheme, seeds: tuple[int, int], shares: Sequence[float]) -> Float[Tensor, "n *d"]:
        """Samples whose noise lies `shares` of the way between two seeds."""

        def edit(part: Tensor, cond: Cond, _: Noise) -> Tensor:
            like = torch.empty(len(part), *self.system.inner, device=self.device)
            return scheme.fresh(like, cond, Between(seeds, tuple(part.tolist())))

        return self.each(torch.tensor(shares, dtype=torch.float64), 0, edit)

    def upscale(self, small: Float[Tensor, "b c *less"], error: float = 0.01, seed: int = 0) -> Float[Tensor, "b *d"]:
        """Pictures of the system's size whose block means are the `small` ones, to about `error` (`restore`)."""
        batch_of("pictures", small, self.system.shape[:1], len(self.system.shape))
        in_range(small)
        return self.restore(small, downsample(self.factor(small), small.ndim - 2), error, seed)

    def deblur(
        self, soft: Float[Tensor, "b c *size"], sigma: float, error: float = 0.01, seed: int = 0
    ) -> Float[Tensor, "b *d"]:
        """Pictures that are the `soft` ones when blurred by a Gaussian of `sigma` places, to about `error`."""
        self.like_its_own(soft)
        return self.restore(soft, softened(sigma, soft.ndim - 2), error, seed)

    def restore(self, y: Tensor, operator: Operator, error: float, seed: int) -> Float[Tensor, "b *d"]:
        """Pictures of the system's shape that the operator takes to y, to about `error`, by `mmps`.

        It is exact for Gaussian data once its conjugate gradients, each a way back through the denoiser, reach the
        number of measurements; other data are fitted by two moments, and `disagreement` says what came of it. In
        latents the way to y leads through the decoder, and no picture is nearer to y than a latent can say.
        """
        space = self.system.space
        seen = operator if space is None else Curved(lambda z: operator(space.decode(z)))

        def edit(part: Tensor, cond: Cond, noise: Noise) -> Tensor:
            part = part.to(self.device)
            like = part.new_zeros(len(part), *self.system.inner)
            return self.guided.guided(mmps(part, seen, error)).fresh(like, cond, noise)

        return self.each(y, seed, edit)

    def factor(self, small: Float[Tensor, "b c *less"]) -> int:
        """By what whole number, 2 or more, the system's pictures are larger than these; UsageError where by none."""
        large, size = self.system.shape[1:], small.shape[2:]
        factor = large[0] // size[0]
        if factor < 2 or tuple(factor * length for length in size) != large:
            fitting = [sides([length // by for length in large]) for by in (2, 4, 8) if not any(s % by for s in large)]
            raise UsageError(
                f"upscaling is by a whole factor to the model's {sides(large)}, which {sides(size)} does not reach",
                f"for example from {' or '.join(fitting)}" if fitting else "",
            )
        return factor


def in_range(x0: Float[Tensor, "b *d"]) -> None:
    """Raise UsageError for values outside [−1, 1], to within rounding, and those that are no number."""
    if not bool((x0.abs() <= 1 + 1e-3).all()):
        raise UsageError(
            f"pictures have values from -1 to 1, got {float(x0.min()):g} to {float(x0.max()):g}",
            "8-bit pixels are pixels / 127.5 - 1",
        )


def covering(new: Tensor, z: Float[Tensor, "b c *size"]) -> Tensor:
    """A mask [*fine] for z [b, c, *size] of a resolution that divides it: true where any place within is."""
    mask = (new != 0).to(z.device)
    for axis, length in enumerate(z.shape[2:]):
        mask = torch.unflatten(mask, axis, (length, -1)).any(axis + 1)
    return mask
