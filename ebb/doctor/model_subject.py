"""A model as a doctor sees it: what holds its parameters, and how to ask it about noise without changing it."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ebb.doctor.finding import NothingToExamineError
from ebb.doctor.run_subject import RunSubject
from ebb.errors import DataError, EbbError
from ebb.networks.evaluating import evaluating
from ebb.process.denoiser import Cond, Denoiser, NetworkDenoiser, compute_dtype, input_scale
from ebb.process.path import Path, spread
from ebb.system.system import System
from ebb.understand.probe import Passage, narrowest

Ask = Callable[[Tensor, Tensor, Cond], Tensor]
"""A network or a denoiser: x [b, *d], what it is told of the time [b], conditions → its output."""

NSR = (0.05, 1.0, 20.0)
"""The ratios ν = σ/α a model is asked at: clear data, as much noise as data, almost nothing but noise."""

ROWS = 8
"""Samples in a question."""

STIRRED = 1e-3
"""A change of the output below this share of it counts as none: rounding is about 1e-6, and what a network uses moves
its output by far more than a hundredth."""

SPREAD = 0.5
"""The standard deviation that data in [−1, 1] is taken to have where the model does not say (Karras et al. 2022)."""


@dataclass(frozen=True, eq=False)
class ModelSubject:
    """A denoiser or a bare network, the shape of a sample (None: not known), and examples of its conditions.

    `cond` holds [k, …] rows of each condition, k its own. Of the model of a run, `deviation` is that of its data around
    their mean, and `run` prescribes commands; None where nothing is known. Questions are asked in evaluation mode,
    without gradients, and the global random state is put back afterwards (`at_rest`); nothing of the model changes.
    """

    model: nn.Module | Denoiser
    shape: tuple[int, ...] | None = None
    cond: Cond | None = None
    deviation: float | None = None
    run: RunSubject | None = None

    @classmethod
    def of_run(cls, run: RunSubject) -> ModelSubject:
        """The subject that a run's system is."""
        deviation = None
        with suppress(EbbError):  # the data may be gone
            deviation = float(run.clean.double().var(0, unbiased=False).mean().sqrt())
        return replace(cls.of(run.system), deviation=deviation, run=run)

    def again(self, changes: Mapping[str, Any]) -> tuple[str, ...]:
        """The command that trains the model of a run again with some changes, if it is one."""
        return () if self.run is None else (self.run.again(changes),)

    @classmethod
    def of(
        cls, model: System | nn.Module | Denoiser, shape: tuple[int, ...] | None = None, cond: Cond | None = None
    ) -> ModelSubject:
        """The subject that a system is, with its own shape and conditions; anything else, as given.

        Raises NothingToExamineError for an autoencoder.
        """
        if not isinstance(model, System):
            return cls(model, shape, cond)
        if model.model.denoiser is None:
            raise NothingToExamineError(f"{model.model.card()[0].lower()} has no denoiser to be asked")
        examples = {name: rows.to(model.device) for name, rows in model.conditioner.examples().items()}
        return cls(model.denoiser, model.inner, examples)

    @property
    def path(self) -> Path | None:
        """The path the model denoises on; None for a bare network."""
        path = getattr(self.model, "path", None)
        return path if isinstance(path, Path) else None

    @cached_property
    def core(self) -> Any:
        """The innermost of denoisers that wrap one another: the one that holds the network, if any does."""
        inside: Any = self.model
        while self.path is not None and not isinstance(inside, NetworkDenoiser) and hasattr(inside, "denoiser"):
            inside = inside.denoiser
        return inside

    @property
    def network(self) -> nn.Module | None:
        """The layers: of a denoiser its network, where that is known; None for a denoiser in closed form."""
        found = self.core.network if isinstance(self.core, NetworkDenoiser) else self.core
        return found if isinstance(found, nn.Module) else None

    @cached_property
    def ask(self) -> Ask:
        """What answers: the network itself where there is one, so that no factor of the path hides what it says."""
        return answering(self.core.network if isinstance(self.core, NetworkDenoiser) else self.model)

    @cached_property
    def answer(self) -> Ask:
        """What the model itself answers to x at a time of its path (`time`): x̂0, if it is a denoiser."""
        return answering(self.model)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        found = next(self.network.parameters(), None) if self.network is not None else None
        return torch.device("cpu") if found is None else found.device

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Evaluation mode, no gradients and a random state of its own; all is as before afterwards."""
        devices = [self.device] if self.device.type == "cuda" else []
        with evaluating(self.network), torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(0)
            yield

    def draw(self) -> tuple[Tensor, Tensor]:
        """(data, noise), [rows, *shape] each, always the same; the data is drawn as noise of its deviation, of
        SPREAD where that is not known."""
        if self.shape is None:
            raise DataError("the shape of a sample is not known", "give it: diagnose(model, shape=(1, 28, 28))")
        both = torch.randn(2, ROWS, *self.shape, generator=torch.Generator().manual_seed(0)).to(self.device)
        return (SPREAD if self.deviation is None else self.deviation) * both[0], both[1]

    def time(self, nsr: float) -> Tensor:
        """The path's time at ν for each row, float64; for a bare network ν/(1 + ν), in (0, 1)."""
        ratio = torch.full((ROWS,), nsr, dtype=torch.float64)
        return ratio / (1 + ratio) if self.path is None else self.path.time(ratio)

    def noisy(self, nsr: float) -> Tensor:
        """The data with noise at ν, on the path; for a bare network with α² + σ² = 1."""
        path, (x0, eps) = self.path, self.draw()
        if path is None:
            return (x0 + nsr * eps) / math.hypot(1, nsr)
        return path.mix(x0, eps, self.time(nsr))

    def seen(self, nsr: float) -> Tensor:
        """`noisy` as the network sees it."""
        x = self.noisy(nsr)
        if not isinstance(self.core, NetworkDenoiser) or self.core.sigma_data is None:
            return x
        return spread(input_scale(self.core.path, self.core.sigma_data, self.time(nsr)), x) * x

    def clocked(self, nsr: float) -> Tensor:
        """What the network is told of the time at ν: what its clock says, else the time itself."""
        t = self.time(nsr)
        if isinstance(self.core, NetworkDenoiser):
            t = self.core.clock(self.core.path, t)
        return t.to(self.device, torch.float64 if self.path is not None and self.network is None else torch.float32)

    def rows(self, only: str = "", shift: int = 0) -> Cond:
        """The conditions of a question, [rows, …] each; those of `only` are moved on by `shift` examples."""
        found = {}
        for name, value in (self.cond or {}).items():
            places = torch.arange(ROWS) + shift * (name == only)
            found[name] = value[places % len(value)].to(self.device)
        return found

    def output(
        self, nsr: float, *, clocked: float | None = None, cond: Cond | None = None, ask: Ask | None = None
    ) -> Tensor:
        """What `ask` (the model's own) says of the noisy data at ν, when told the time of `clocked` (ν as well)."""
        cond = self.rows() if cond is None else cond
        return (ask or self.ask)(self.seen(nsr), self.clocked(nsr if clocked is None else clocked), cond)

    @cached_property
    def passage(self) -> Passage | None:
        """The narrowest layer that all goes through, if it is narrower than a sample."""
        if self.network is None:
            return None
        x, clocked, cond = (
            self.seen(1.0)[:1],
            self.clocked(1.0)[:1],
            {name: rows[:1] for name, rows in self.rows().items()},
        )
        with self.at_rest():
            return narrowest(self.network, lambda x: self.ask(x, clocked, cond), x)

    @cached_property
    def moved(self) -> nn.Module | None:
        """A copy of the network with noise added to every parameter, which shows what is wired whatever training made
        of it.

        Networks often begin as the zero function. None where the layers are not known.
        """
        if self.network is None:
            return None
        copied, generator = copy.deepcopy(self.network).eval(), torch.Generator().manual_seed(0)
        for parameter in copied.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)
        return copied

    @property
    def shaken(self) -> Ask | None:
        """How to ask the copy that was `moved`."""
        return None if self.moved is None else answering(self.moved)


def answering(model: Any) -> Ask:
    """A model called with x, time and conditions, or as many of these as it takes; of several outputs the first."""
    takes = list(inspect.signature(model.forward if isinstance(model, nn.Module) else model).parameters.values())
    places = [each for each in takes if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    most = 3 if any(each.kind == each.VAR_POSITIONAL for each in takes) else len(places)
    least = sum(each.default is each.empty for each in places)
    dtype = compute_dtype(model) if isinstance(model, nn.Module) else None

    def ask(x: Tensor, clocked: Tensor, cond: Cond) -> Tensor:
        given = min(most, max(least, 3 if cond else 2))
        answer = model(*(x if dtype is None else x.to(dtype), clocked, cond)[:given])
        answer = getattr(answer, "sample", answer)
        first: Tensor = answer[0] if isinstance(answer, tuple | list) else answer
        return first.float()

    return ask


def rms(x: Tensor) -> float:
    """√mean(x²). Raises EbbError where x is not finite: then there is nothing to compare."""
    found = float(x.double().square().mean().sqrt())
    if not math.isfinite(found):
        raise EbbError("the model's answer is not finite")
    return found


def change(a: Tensor, b: Tensor) -> float:
    """rms(a − b) as a share of the larger rms; 0 where both are 0."""
    return rms(a - b) / max(rms(a), rms(b), 1e-30)


def dead(model: ModelSubject, ask: Ask | None = None) -> str:
    """ "0 everywhere" or "the same for every input" of an output that is dead at every noise level; "" of another."""
    one = {name: rows[:1].expand_as(rows) for name, rows in model.rows().items()}
    with model.at_rest():
        answers = [model.output(nsr, cond=one, ask=ask) for nsr in NSR]
    if max(map(rms, answers)) < 1e-8:
        return "0 everywhere"
    return "the same for every input" if max(change(a, a.roll(1, 0)) for a in answers) < STIRRED else ""
