"""An addition: what is put on a finished denoiser, whose own parameters alone are trained, averaged and saved.

A new one is one file with a class of it, one line in `ebb.adapt.additions.ADDITIONS`, and a group of that kind in the
recipe (`ebb.recipe.groups`) whose fields are its settings. It gives: how it is built on a denoiser, its parameters (as
any module), its settings as JSON, and how it is put on by an amount and taken off. Training, average, checkpoint,
resuming, loading, `ebb sample --adapter` and figures are then there.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ebb.errors import UsageError
from ebb.process.denoiser import Cond, NetworkDenoiser
from ebb.process.moment import Time
from ebb.process.path import Path
from ebb.process.predict import Prediction


class Addition(nn.Module, ABC):
    """What is put on a denoiser. `type(self)(denoiser, **settings)` builds it, silent: put on it changes nothing.

    Building reads the denoiser (the shapes of its layers) and leaves it as it is; fresh weights are from the global
    generator. Raises UsageError for settings that mean nothing to that denoiser.
    """

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """What it is built from, as JSON."""

    @abstractmethod
    def attach(self, denoiser: NetworkDenoiser, name: str, amount: float = 1.0) -> None:
        """Put it on, in place: 1 as it was trained, 0 nothing at all, to the bit. Several of other names may be on.

        Its parts become parts of the denoiser's network, so that a copy of that has a copy of them. Raises UsageError
        for a name that is on already, and a denoiser that it does not fit, before anything is changed.
        """

    @abstractmethod
    def detach(self, denoiser: NetworkDenoiser, name: str) -> None:
        """Take it off, in place: what was beneath is there again, to the bit."""

    def bake(self, denoiser: NetworkDenoiser) -> None:
        """Make what is put on part of the denoiser's own weights, in place and for good.

        Raises UsageError for an addition that is more than weights.
        """
        raise UsageError(f"{self} cannot become part of a network's weights", "keep it apart: ebb sample RUN --adapter")

    @abstractmethod
    def __str__(self) -> str:
        """What it is in a few words, "rank 2 on 14 layers"."""

    @classmethod
    def suited(
        cls, denoiser: NetworkDenoiser, asked: Mapping[str, Any], gradients: Callable[[], Mapping[str, Tensor]]
    ) -> tuple[Mapping[str, Any], Mapping[str, str]]:
        """What of its settings is chosen by the gradient of a first batch at the weights of each layer, by the layer's
        name, and the reason of each; without a choice as `asked`."""
        return asked, {}

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return sum(parameter.numel() for parameter in self.parameters())


class Around(nn.Module):
    """A network around another, `within`, as an addition may put it in the place of a denoiser's own."""

    def __init__(self, within: nn.Module) -> None:
        super().__init__()
        self.within = within

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the other is built from."""
        found: Mapping[str, Any] = getattr(self.within, "settings", {})
        return found


def innermost(network: nn.Module) -> nn.Module:
    """The network itself, without what is around it."""
    *_, inside = around(network)
    return inside


def around(network: nn.Module) -> Iterator[nn.Module]:
    """The network and all that it is around of, the outermost first."""
    yield network
    while isinstance(network, Around):
        network = network.within
        yield network


def exchange(denoiser: NetworkDenoiser, old: nn.Module, new: nn.Module) -> None:
    """Put `new` in the place of `old`, a denoiser's network or one of those within it, in place."""
    holder: nn.Module = denoiser
    for each in around(denoiser.network):
        if each is old:
            setattr(holder, "network" if holder is denoiser else "within", new)
            return
        holder = each


def unwrap(denoiser: NetworkDenoiser, which: Callable[[Around], bool]) -> None:
    """Take the outermost network of a kind from around what is within it, in place, wherever it stands."""
    for each in around(denoiser.network):
        if isinstance(each, Around) and which(each):
            exchange(denoiser, each, each.within)
            return


class Together(Addition):
    """Several additions as one, by the kind of each, put on in their order."""

    def __init__(self, parts: Mapping[str, Addition]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    def of(self) -> dict[str, Addition]:
        """Its parts by kind."""
        return {kind: part for kind, part in self.parts.items() if isinstance(part, Addition)}

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of its parts by their kind."""
        return {kind: dict(part.settings) for kind, part in self.of().items()}

    def attach(self, denoiser: NetworkDenoiser, name: str, amount: float = 1.0) -> None:
        """All of its parts."""
        for part in self.of().values():
            part.attach(denoiser, name, amount)

    def detach(self, denoiser: NetworkDenoiser, name: str) -> None:
        """All of its parts, the last first."""
        for part in reversed(self.of().values()):
            part.detach(denoiser, name)

    def bake(self, denoiser: NetworkDenoiser) -> None:
        """All of its parts."""
        for part in self.of().values():
            part.bake(denoiser)

    def __str__(self) -> str:
        return ", ".join(map(str, self.of().values()))


class Adapted(nn.Module):
    """A finished denoiser with an addition on it, as what is trained: its parameters are the addition's alone.

    The denoiser beneath is frozen and no part of the module, so that neither its checkpoint nor its average nor its
    optimiser holds it; a copy shares the frozen weights with the first, and has an addition of its own.
    """

    takes_moments = True

    def __init__(self, denoiser: NetworkDenoiser, addition: Addition, name: str) -> None:
        super().__init__()
        denoiser.requires_grad_(False).eval()
        addition.attach(denoiser, name)
        self.addition, self.name = addition.requires_grad_(True), name
        self.beneath = (denoiser,)  # in a tuple, where a module does not look for its parts

    @property
    def denoiser(self) -> NetworkDenoiser:
        """The denoiser with the addition."""
        return self.beneath[0]

    @property
    def path(self) -> Path:
        """The denoiser's."""
        return self.denoiser.path

    @property
    def prediction(self) -> Prediction:
        """The denoiser's."""
        return self.denoiser.prediction

    def raw(self, x: Tensor, t: Time, cond: Cond) -> Tensor:
        """The denoiser's."""
        return self.denoiser.raw(x, t, cond)

    def output(self, x: Tensor, t: Time, cond: Cond) -> Tensor:
        """The denoiser's."""
        return self.denoiser.output(x, t, cond)

    def forward(self, x: Tensor, t: Time, cond: Cond) -> Tensor:
        """The denoiser's x̂0."""
        x0: Tensor = self.denoiser(x, t, cond)
        return x0

    def __deepcopy__(self, memo: dict[int, Any]) -> Adapted:
        """The same with an addition of its own, on the same frozen weights."""
        own = {id(parameter) for parameter in self.addition.parameters()}
        memo |= {id(each): each for each in tensors(self.denoiser) if id(each) not in own}
        made = Adapted.__new__(Adapted)
        nn.Module.__init__(made)
        made.addition, made.name = copy.deepcopy(self.addition, memo), self.name
        made.beneath = (copied(self.denoiser, memo),)
        return made


def tensors(module: nn.Module) -> Iterable[Tensor]:
    """Parameters and buffers."""
    return chain(module.parameters(), module.buffers())


M = TypeVar("M", bound=nn.Module)


def sharing(module: M) -> M:
    """A copy of a module with the very tensors of the first: what is put on one is not on the other."""
    return copied(module, {id(each): each for each in tensors(module)})


def copied(module: M, memo: dict[int, Any]) -> M:
    """A copy of a module from which what is on it can be taken off.

    torch keeps the weight of a layer with something on it as a property of a class of that layer, which a mere copy
    shares with the first: taking it off one would leave the other without a weight.
    """
    made = copy.deepcopy(module, memo)
    for part in made.modules():
        if is_parametrized(part):
            kind = type(part)
            own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
            part.__class__ = type(kind.__name__, kind.__bases__, own)
    return made
