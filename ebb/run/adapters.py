"""Adapters as files beside runs: looked at, merged into a run, taken from two of them, respelt, brought to a rank."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ebb.adapt.adapter import Adapter, component_of, fingerprint, positive, retyped, survives
from ebb.adapt.adapter_files import OWN, WRITERS, Account, Spelling, Write, checked, parsed, read_adapter
from ebb.adapt.addition import Together, innermost
from ebb.adapt.approximate import Approximation, extracted
from ebb.adapt.lora import LoRA
from ebb.adapt.low_rank import LowRankDirection
from ebb.adapt.stacked import Summand, overlaps, stacked
from ebb.errors import UsageError, nearest
from ebb.run.export import Exported, Sharing, written
from ebb.store import shared
from ebb.store.place import beside_something, room_for, room_in
from ebb.system.families.adapter_family import AdaptedModel
from ebb.system.put_on import Put
from ebb.system.system import System, load

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Types of merged weights."""

SCALES = {
    "ebb": "s, in its header",
    "PEFT": "s = α/r (α/√r where use_rslora), α in its JSON",
    "kohya": "s = α/r, α beside each pair",
    "diffusers": "s = α/r, α in its header or beside each pair",
}
"""Where each format has the scale."""


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """An adapter as it lies in a file, what became of every key, and the network that it is looked at for, if any."""

    place: Path
    adapter: Adapter
    account: Account
    spelling: Spelling
    network: nn.Module | None

    besides: tuple[str, ...] = ()
    """what else a run of `ebb adapt` has, in words: new labels, new words"""

    @classmethod
    def read(cls, place: Path, network: nn.Module | None = None, scale: float | None = None) -> AdapterFile:
        """A run of `ebb adapt`, a file or PEFT's folder; the errors are those of `read_adapter`."""
        if (place / "run.yaml").is_file():
            return cls.of_run(place, network)
        adapter, account = read_adapter(place, network, scale=scale)
        return cls(place, adapter, account, parsed(place)[-1], network)

    @classmethod
    def of_run(cls, place: Path, network: nn.Module | None) -> AdapterFile:
        """The changes of weights of a run of `ebb adapt`; UsageError for one that has none."""
        system = load(place, device="cpu")
        if not isinstance(system.model, AdaptedModel) or not isinstance(system.model.addition, Together):
            raise UsageError(f"{place} is a run, and no adapter", f"make one of it: ebb adapt {place} DATA")
        parts = system.model.addition.of()
        others = tuple(str(part) for part in parts.values() if not isinstance(part, LoRA))
        lora = next((part for part in parts.values() if isinstance(part, LoRA)), None)
        if lora is None:
            raise UsageError(f"{place} changes no weights: it is {', '.join(others)}", "keep it as the run that it is")
        own = innermost(network_of(system, place))
        adapter = replace(lora.adapter(Put(place).name), base=fingerprint(own), component=component_of(own))
        keys = {f"{layer}.{part}": (layer, part) for layer in adapter.changes for part in ("down", "up")}
        return cls(place, adapter, Account(keys), OWN, network, others)  # type: ignore[arg-type]

    @property
    def kind(self) -> str:
        """Of its changes: "lora", "dora", or both."""
        kinds = {"dora" if isinstance(each, LowRankDirection) else "lora" for each in self.adapter.changes.values()}
        return " and ".join(sorted(kinds))

    def facts(self) -> list[tuple[str, str]]:
        """What it is, in words."""
        changes, base = self.adapter.changes.values(), self.adapter.base
        with torch.no_grad():
            size = math.hypot(*(float(change.change().norm()) for change in changes))
        ranks = sorted({change.rank for change in changes})
        rows = [
            ("name", self.adapter.name),
            ("format", self.spelling.name),
            ("form", f"{self.kind}, rank {' to '.join(str(each) for each in dict.fromkeys((ranks[0], ranks[-1])))}"),
            ("scale", SCALES[self.spelling.name]),
            *(("besides", each) for each in self.besides),
            ("layers", f"{len(changes)}, {self.adapter.size:,} numbers in all"),
            (
                "change",
                f"‖ΔW‖ {size:.4g}" + ("" if self.network is None else f", {self.share(size):.3%} of the weights"),
            ),
            ("base", f"sha256 {base[:16]}…" if base else "not said: whether it fits is known by its shapes alone"),
        ]
        if self.network is not None and base:
            rows.append(("fits", "yes" if base == fingerprint(self.network) else "no: it was learnt on other weights"))
        return rows

    def share(self, size: float) -> float:
        """A norm over that of the weights that are changed."""
        weights = [self.network.get_submodule(layer).weight for layer in self.adapter.changes]  # type: ignore[union-attr]
        return size / math.hypot(*(float(weight.norm()) for weight in weights))  # type: ignore[operator]

    def layers(self) -> list[tuple[str, ...]]:
        """Of each layer its weight's shape, rank, scale and norm of the change."""
        with torch.no_grad():
            return [
                (
                    layer,
                    "×".join(map(str, each.shape)),
                    str(each.rank),
                    f"{each.scale:.4g}",
                    f"{each.change().norm():.4g}",
                )
                for layer, each in self.adapter.changes.items()
            ]


def network_of(system: System, run: Path) -> nn.Module:
    """The network that adapters are put on; UsageError for an autoencoder."""
    if system.model.denoiser is None:
        raise UsageError(
            f"{run} is {system.model.card()[0].lower()}: adapters are put on what denoises", "name a run of diffusion"
        )
    network: nn.Module = system.model.denoiser.network
    return network


def looked_at(place: Path, run: Path | None = None, scale: float | None = None) -> AdapterFile:
    """An adapter, for the network of a run where one is named."""
    return AdapterFile.read(place, None if run is None else network_of(load(run, device="cpu"), run), scale)


@dataclass(frozen=True)
class MergedRun:
    """What a merge wrote, and the share of the adapters that is left in weights of that type: predicted and counted."""

    made: Exported
    predicted: float
    amounts: Mapping[str, float]


def merged(run: Path, adapters: Sequence[str], out: Path, precision: str = "fp32") -> MergedRun:
    """Write a run, or what was exported, with adapters (`ebb.system.put_on.Put`) in its weights, as
    `ebb.run.export.export` does; new labels and words become its own.

    Raises UsageError for no adapter, two of one name, one of another base, one that is no change of weights, and
    weights of a type in which less than SURVIVES would be left; nothing is written then.
    """
    if not adapters:
        raise UsageError("there is no adapter to merge", "ebb adapter merge RUN ADAPTER --out OUT")
    shared.place_for(out)
    network_of(load(run, device="cpu"), run)
    system, amounts = load(run, device="cpu", adapters=adapters), [Put.read(each) for each in adapters]
    network = network_of(system, run)
    retyped(network, TYPES[precision])
    share = survives(network)
    whole = system.alone()
    changed = f"merged adapters: {', '.join(f'{put.name} × {put.amount:g}' for put in amounts)}"
    made = written(whole, run, out, Sharing(without=("figures", "samples")), changed)
    return MergedRun(made, share, {put.name: put.amount for put in amounts})


@dataclass(frozen=True, eq=False)
class JoinedAdapters:
    """Adapters with how much of each, and the one that is their sum."""

    parts: tuple[Summand, ...]
    adapter: Adapter

    def rows(self) -> list[tuple[str, str]]:
        """Of each how much of it and the norm of its change, of the sum its rank and norm, and how alike they are."""
        names = [f"{part.adapter.name} × {part.amount:g}" for part in self.parts]
        rows = [(name, f"‖w·ΔW‖ {size(part):.4g}") for name, part in zip(names, self.parts, strict=True)]
        rank = max(change.rank for change in self.adapter.changes.values())
        rows.append(("their sum", f"‖ΔW‖ {size(Summand(self.adapter)):.4g}, rank up to {rank}"))
        alike = [(f"{one} and {other}", f"cosine {cosine:+.2f}") for one, other, cosine in overlaps(self.parts)]
        return rows + alike


def size(part: Summand) -> float:
    """The norm of a change of all layers."""
    every = [change for layer in part.adapter.changes if (change := part.change(layer)) is not None]
    return math.hypot(*(float(change.norm()) for change in every))


def joined_files(adapters: Sequence[str], out: Path, run: Path | None = None) -> JoinedAdapters:
    """Adapters by their places and amounts (`ebb.system.put_on.Put`) as one, of the name of `out`.

    Raises UsageError for none, one that is named twice, a run that teaches more than changes of weights, and as
    `respelt` and `stacked` do.
    """
    puts = [Put.read(each) for each in adapters]
    places = [put.place.resolve() for put in puts]
    if not puts:
        raise UsageError("there is no adapter to join", "ebb adapter join ADAPTER:0.7 ADAPTER:0.5 --out OUT")
    for put, place in zip(puts, places, strict=True):
        if places.count(place) > 1:
            raise UsageError(f"{put.place} is named twice", f"give it one amount: {put.place}:1.5")
    files = [respelt(put.place, "ebb", run) for put in puts]
    for file in files:
        if file.besides:
            raise UsageError(
                f"{file.place} is more than changes of weights: {', '.join(file.besides)}",
                "an adapter's file has no place for that; both go on a run: ebb sample RUN --adapter ADAPTER ADAPTER",
            )
    parts = tuple(Summand(file.adapter, put.amount) for file, put in zip(files, puts, strict=True))
    made = stacked(parts, name_of(out))
    checked(made.changes, "their sum")
    return JoinedAdapters(parts, made)


def taken(first: Path, second: Path, rank: int) -> Approximation:
    """The adapter of a rank that leads from one run's network to another's, of the name of the second."""
    positive(rank)
    networks = [network_of(load(run, device="cpu"), run) for run in (first, second)]
    return extracted(networks[0], networks[1], name_of(second), rank)


def name_of(run: Path) -> str:
    """The name of an adapter that is made of a run."""
    return re.sub(r"\W+", "-", run.resolve().stem)


def respelt(place: Path, form: str, run: Path | None = None, scale: float | None = None) -> AdapterFile:
    """An adapter of a file that is to be written in a `form`, with the names of its layers as the network has them.

    Raises UsageError for kohya's file without a run: its names have lost their dots.
    """
    writer(form)
    file = looked_at(place, run, scale)
    if file.spelling.flat and run is None:
        raise UsageError(
            f"{place} has names without dots, which only the network can give back", "name its run: --run RUN"
        )
    return file


def save(adapter: Adapter, form: str, out: Path) -> Path:
    """Write an adapter in a form of WRITERS: a new file, or PEFT's folder. Raises UsageError for what is there."""
    write = writer(form)
    beside_something(out.parent)
    if out.exists():
        raise UsageError(f"{out} is there already", "name another place, or move it away")
    if form == "peft":
        room_in(out)
    elif out.suffix != shared.ONE:
        raise UsageError(f"an adapter of this form is one file, got {out}", f"end the name in {shared.ONE}")
    else:
        room_for(out)
    write(adapter, out)
    return out


def writer(form: str) -> Write:
    """What writes a form; UsageError for one that there is not."""
    if form not in WRITERS:
        raise UsageError(f"there is no form of adapter called {form!r}", nearest(form, WRITERS))
    return WRITERS[form]
