"""Ingredients that `bench/ablation.py` tries and that are no fields of the recipe, since none has earned its place.

Each is a function (recipe, parts) → (recipe, parts), given what `ebb train` would take, before the first update.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ebb.data.loader import Batch, Loader
from ebb.data.pictures import to_unit
from ebb.process.denoiser import NetworkDenoiser, Predictor, target_error
from ebb.process.path import spread
from ebb.process.predict import determinant, target
from ebb.recipe.recipe import Recipe, resolved
from ebb.run.build import Built
from ebb.shapes import Float
from ebb.train.ema import EMA
from ebb.train.guard import Guard
from ebb.train.muon import for_matrices
from ebb.train.objectives.coupling import independent
from ebb.train.objectives.denoising import Denoising
from ebb.train.objectives.objective import ConditionDropout, Loss, Objective
from ebb.train.optimiser import Memory, Pairs

Change = Callable[[Recipe, Built], tuple[Recipe, Built]]


@dataclass(frozen=True)
class Contrastive(Denoising):
    """Denoising, less `away` times the squared distance to the target of another sample: the batch's one before.

    Stoica et al. 2025, "Contrastive flow matching".
    """

    away: float = 0.05

    def losses(
        self, model: Predictor, batch: Batch, t: Float[Tensor, "b"], eps: Float[Tensor, "b *d"]
    ) -> Float[Tensor, "b *d"]:
        factors = model.prediction(model.path, t)
        error = target_error(model, batch.x0, eps, t, batch.cond, factors)
        gap = target(factors, batch.x0 - batch.x0.roll(1, 0), eps - eps.roll(1, 0))
        weight = self.weight(model.path, t, determinant(model.path, t, *factors))
        others = self.away * (error + gap) ** 2
        return spread(weight, error) * (error**2 - gradient_only(others))


def gradient_only(term: Tensor) -> Tensor:
    """0 with the gradient of the term: the guard compares the sizes of losses, which one that crosses 0 has not."""
    return term - term.detach()


@dataclass(frozen=True)
class Dispersive:
    """`objective` + weight·log mean exp(−‖z_i − z_j‖²/(d·temperature)) over all i, j of a batch, i = j as well.

    Wang & He 2025, "Diffuse and disperse"; z [b, d] are the features of the U-Net's last block on its way down.
    """

    objective: Objective
    weight: float = 0.5
    temperature: float = 0.5

    def __call__(self, model: Any, batch: Batch, generator: torch.Generator) -> Loss:
        kept = list[Tensor]()
        hook = model.network.down[-1][-1][-1].register_forward_hook(lambda _module, _given, out: kept.append(out))
        loss = self.objective(model, batch, generator)
        hook.remove()
        z = kept[0].float().flatten(1)
        apart = torch.pdist(z).square() / (z.shape[1] * self.temperature)
        every = torch.cat([-apart, -apart, apart.new_zeros(len(z))])
        alike = torch.logsumexp(every, 0) - math.log(len(every))
        return Loss(
            loss.value + self.weight * gradient_only(alike), {"alike": alike.detach(), **loss.terms}, loss.levels
        )


def shortest(x0: Float[Tensor, "b *d"], generator: torch.Generator) -> Float[Tensor, "b *d"]:
    """The pairing of a batch with as much noise that has the least Σ‖ε − x0‖² (Pooladian et al. 2023).

    It does not regard labels, so a label's noise is not what its samples will be drawn from.
    """
    eps = independent(x0, generator)
    cost = torch.cdist(x0.flatten(1), eps.flatten(1)).square()
    return eps[torch.from_numpy(linear_sum_assignment(cost.numpy())[1])]


@dataclass(frozen=True)
class Growing(Loader):
    """Batches of half the images until update number `whole_from`, and whole ones from there."""

    whole_from: int = 0

    def __call__(self, step: int) -> Batch:
        if step >= self.whole_from:
            return super().__call__(step - self.whole_from // 2)
        both, middle = super().__call__(step // 2), self.batch // 2
        half = slice(None, middle) if step % 2 == 0 else slice(middle, None)
        return replace(both, x0=both.x0[half], cond={name: value[half] for name, value in both.cond.items()})


class Unguarded(Guard):
    """Finds every update good, where the loss jumps because the images change."""

    def __call__(self, loss: Tensor, norm: Tensor) -> Tensor:
        return torch.zeros_like(loss, dtype=torch.bool)


@dataclass(frozen=True)
class Rising(Loader):
    """Images of half the sides until update number `whole_from`, and whole ones from there."""

    whole_from: int = 0

    def __call__(self, step: int) -> Batch:
        batch = super().__call__(step)
        return batch if step >= self.whole_from else replace(batch, x0=F.avg_pool2d(batch.x0, 2))


@dataclass(frozen=True, kw_only=True)
class SOAP:
    """A rule for matrices: Adam in the eigenbases of both sides of their gradients (Vyas et al. 2024, alg. 3)."""

    weight_decay: float = 0.0
    every: int = 10
    """updates between two rounds of orthogonal iteration"""
    first: float = 0.95
    second: float = 0.95
    """the rates β of both moments"""

    def move(self, pairs: Pairs, lr: float, memory: Memory, bad: Tensor) -> None:
        if not bad:
            for p, whole in pairs:
                self.turned(p, whole.reshape(len(whole), -1), lr, memory[p])

    def turned(self, p: Tensor, grad: Tensor, lr: float, state: dict[str, Any]) -> None:
        """One matrix by its gradient; the first that is not 0 only shows the bases."""
        first, second = self.first, self.second
        sides = grad @ grad.mT, grad.mT @ grad
        if not state:
            if grad.any():
                state |= {"n": 0, "mean": torch.zeros_like(grad), "square": torch.zeros_like(grad)}
                state |= {"sides": [(1 - second) * side for side in sides]}
                state |= {"bases": [torch.linalg.eigh(side)[1].flip(1) for side in sides]}
            return
        state["n"] += 1
        left, right = state["bases"]
        state["mean"].lerp_(grad, 1 - first)
        state["square"].lerp_((left.mT @ grad @ right).square(), 1 - second)
        mean = left.mT @ state["mean"] @ right / (1 - first ** state["n"])
        step = mean / ((state["square"] / (1 - second ** state["n"])).sqrt() + 1e-8)
        p.mul_(1 - lr * self.weight_decay)
        p.sub_((left @ step @ right.mT).reshape(p.shape) * lr)
        for old, side in zip(state["sides"], sides, strict=True):
            old.lerp_(side, 1 - second)
        if state["n"] % self.every == 0:
            self.iterate(state)

    def iterate(self, state: dict[str, Any]) -> None:
        """One round of orthogonal iteration on both bases, their columns by falling eigenvalue."""
        for axis, (side, base) in enumerate(zip(state["sides"], state["bases"], strict=True)):
            order = (base * (side @ base)).sum(0).argsort(descending=True)
            state["square"] = state["square"].index_select(axis, order)
            state["bases"][axis] = torch.linalg.qr(side @ base[:, order])[0]


def plain(parts: Built) -> tuple[ConditionDropout, Denoising]:
    """The objective of labelled data, and what it wraps."""
    dropping = parts.objective
    assert isinstance(dropping, ConditionDropout)
    assert isinstance(dropping.objective, Denoising)
    return dropping, dropping.objective


def contrastive(recipe: Recipe, parts: Built) -> tuple[Recipe, Built]:
    """Targets of others are stayed away from."""
    dropping, denoising = plain(parts)
    return recipe, replace(parts, objective=replace(dropping, objective=Contrastive(**vars(denoising))))


def shifted(recipe: Recipe, parts: Built) -> tuple[Recipe, Built]:
    """Only when sampling, the network's output is shifted away from the mean target, as `contrastive` would teach it.

    E‖F − u‖² − λE‖F − u′‖² is least at F = ū + (E[u|x] − ū)/(1 − λ), where ū is the mean of u′.
    """
    denoiser, away = parts.training.model, Contrastive.away
    assert isinstance(denoiser, NetworkDenoiser)
    halfway = torch.full((1,), 0.5, dtype=torch.float64)
    share, _ = denoiser.prediction(denoiser.path, halfway)  # on this path the same at all times
    mean = share.float() * to_unit(torch.from_numpy(parts.data.dataset.rows)).mean(0)

    def shift(network: nn.Module, _given: Any, out: Tensor) -> Tensor:
        return out if network.training else mean + (out - mean) / (1 - away)

    denoiser.network.register_forward_hook(shift)
    return recipe, parts


def transported(recipe: Recipe, parts: Built) -> tuple[Recipe, Built]:
    """Noise goes to images so that the distances within a batch are shortest."""
    dropping, denoising = plain(parts)
    return recipe, replace(parts, objective=replace(dropping, objective=replace(denoising, coupling=shortest)))


def dispersive(recipe: Recipe, parts: Built) -> tuple[Recipe, Built]:
    """Features are pushed apart."""
    return recipe, replace(parts, objective=Dispersive(parts.objective))


def growing(recipe: Recipe, parts: Built) -> tuple[Recipe, Built]:
    """The first half of all images in batches of half the size: half as many updates again for the same images.

    The rate falls over the last quarter of the updates, which here have 37 % of the images.
    """
    steps = resolved(recipe.steps) // 2 * 2
    loader = Growing(**vars(parts.loader), whole_from=steps)
    return recipe.model_copy(update={"steps": steps + steps // 2}), replace(parts, loader=loader)


def rising(recipe: Recipe, parts: Built) -> tuple[Recipe, Built]:
    """As many updates as before on images of half the sides, and three quarters as many on whole ones.

    Where half the sides fit the U-Net the arithmetic is what it was; MNIST's are padded to 16, which makes it 8 % more.
    The guard is left out: it takes the first whole images for outliers, and so all that follow.
    """
    steps = resolved(recipe.steps)
    parts.training.guard = Unguarded()
    loader = Rising(**vars(parts.loader), whole_from=steps)
    return recipe.model_copy(update={"steps": steps + steps * 3 // 4}), replace(parts, loader=loader)


def soap(recipe: Recipe, parts: Built) -> tuple[Recipe, Built]:
    """SOAP in the place of Muon."""
    training, how = parts.training, recipe.optimiser
    rule = SOAP(weight_decay=how.weight_decay)
    training.optimizer = for_matrices(rule, training.model, resolved(how.lr), how.weight_decay)
    return recipe, parts


def averaged(share: float) -> Change:
    """An average whose half-life is this share of the images seen."""

    def change(recipe: Recipe, parts: Built) -> tuple[Recipe, Built]:
        parts.training.ema = EMA(parts.training.model, recipe.ema_halflife, ramp=share)
        return recipe, parts

    return change


CHANGES: dict[str, Change] = {
    "contrastive": contrastive,
    "shifted": shifted,
    "transported": transported,
    "dispersive": dispersive,
    "growing": growing,
    "rising": rising,
    "soap": soap,
    **{f"averaged {share:g}": averaged(share) for share in (0.02, 0.1, 0.15, 0.25)},
}
