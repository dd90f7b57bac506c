"""Adapters as files: ebb's own, PEFT's folder, diffusers' file and kohya's, every key of them accounted for.

All hold the two factors of each change; they differ in names and in where the scale is: PEFT has α in its JSON, kohya a
tensor α beside each pair, both with s = α/r; diffusers often has none at all. A scale that is not there is not guessed.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ebb.adapt.adapter import Adapter, component_of, layers
from ebb.adapt.low_rank import LowRank, LowRankDirection
from ebb.errors import DamagedError, EbbError, UsageError, nearest
from ebb.store.tensors import save_tensors
from ebb.store.write import replace_text, replacing

Part = Literal["down", "up", "magnitude", "alpha"]

KIND = "ebb adapter"
"""What ebb's own files say of themselves."""

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Account:
    """What became of each key of a file: the layer and the part of it, or the rule by which it is no part."""

    parts: dict[str, tuple[str, Part]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)

    def rows(self) -> list[tuple[str, str]]:
        """A row of text for each key."""
        matched = [(key, f"{part} of {layer}") for key, (layer, part) in self.parts.items()]
        return [*matched, *((key, f"ignored: {why}") for key, why in self.ignored.items())]


@dataclass(frozen=True)
class Spelling:
    """How a format names the parts of a change: what stands before a layer's name, and what after it."""

    name: str
    before: str
    after: Mapping[str, Part]
    flat: bool = False
    """dots of a layer's name are underscores"""
    component: str = "unet"
    """as in `ebb.adapt.adapter.Adapter`, as far as the names say it"""

    def key(self, layer: str, part: Part) -> str:
        """The first of the names."""
        end = next(after for after, of in self.after.items() if of == part)
        return f"{self.before}{layer.replace('.', '_') if self.flat else layer}{end}"

    def account(self, keys: list[str], network: nn.Module | None) -> Account:
        """Where each key belongs; UsageError for one that no rule knows. Without a network layers are as they are
        spelt."""
        known = {} if network is None else {n.replace(".", "_") if self.flat else n: n for n in layers(network)}
        found = Account()
        for key in keys:
            end = next((end for end in self.after if key.endswith(end)), None)
            if end is None or not key.startswith(self.before):
                raise UsageError(
                    f"{self.name}: no rule knows the key {key}", f"keys are {self.before}LAYER{'|'.join(self.after)}"
                )
            layer = key[len(self.before) : -len(end)]
            if known and layer not in known:
                raise UsageError(
                    f"{self.name}: {key} is of {layer}, which this network does not have", nearest(layer, known)
                )
            found.parts[key] = known.get(layer, layer), self.after[end]
        return found


OWN = Spelling("ebb", "", {".down": "down", ".up": "up", ".magnitude": "magnitude"})
PEFT = Spelling(
    "PEFT",
    "base_model.model.",
    {".lora_A.weight": "down", ".lora_B.weight": "up", ".lora_magnitude_vector": "magnitude"},
)
KOHYA = Spelling(
    "kohya",
    "lora_unet_",
    {".lora_down.weight": "down", ".lora_up.weight": "up", ".dora_scale": "magnitude", ".alpha": "alpha"},
    flat=True,
)
DIFFUSERS = {
    part: Spelling(
        "diffusers",
        f"{part}.",
        {
            ".lora_A.weight": "down", ".lora_B.weight": "up", ".lora_magnitude_vector": "magnitude",
            ".lora.down.weight": "down", ".lora.up.weight": "up", ".alpha": "alpha",
        },
        component=part,
    )
    for part in ("unet", "transformer")
}  # fmt: skip


def read_adapter(
    path: Path, network: nn.Module | None, *, name: str | None = None, scale: float | None = None
) -> tuple[Adapter, Account]:
    """The adapter of a file or folder for a network, and what became of every key; without a network as it is by
    itself, for one that has not been met.

    `scale` is s, for files that have none. Raises UsageError, with nothing applied, for keys that no rule knows or that
    belong to no layer, a part without its other, shapes that do not fit, a scale that is missing, a change that is zero
    or not finite everywhere, and pickles; DamagedError for what cannot be read.
    """
    tensors, facts, config, spelling = parsed(path)
    account = spelling.account(list(tensors), network)
    changes = {}
    for layer in dict.fromkeys(layer for layer, _ in account.parts.values()):
        parts = {part: tensors[key].float() for key, (of, part) in account.parts.items() if of == layer}
        how = scale_of(layer, parts, facts, config, spelling)
        weight = None if network is None else network.get_submodule(layer).weight
        changes[layer] = built(layer, parts, scale if how is None else how, weight)  # type: ignore[arg-type]
    checked(changes, str(path))
    component = facts.get("component", spelling.component) if network is None else component_of(network)
    if component not in DIFFUSERS:
        raise DamagedError(f"{path} is of a component {component!r}", f"known are {' and '.join(DIFFUSERS)}")
    return Adapter(name or facts.get("name") or path.stem, changes, facts.get("base", ""), component), account


def is_adapter(place: Path) -> bool:
    """Whether a place is PEFT's folder, or a file of safetensors with keys of an adapter."""
    if place.is_dir():
        return (place / "adapter_config.json").is_file()
    if place.suffix != ".safetensors" or not place.is_file():
        return False
    try:
        parsed(place)
    except EbbError:
        return False
    return True


Parsed = tuple[dict[str, Tensor], dict[str, str], dict[str, Any], Spelling]
"""The tensors of a file by their keys, its metadata, PEFT's JSON beside it, and the spelling that it is in."""


def parsed(path: Path) -> Parsed:
    """A file or PEFT's folder, taken apart; the errors are those of `read_adapter`."""
    tensors, facts = opened(path / "adapter_model.safetensors" if path.is_dir() else path)
    config = peft_config(path) if path.is_dir() else {}
    return tensors, facts, config, spelled(tensors, facts, config)


def opened(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file, and its metadata."""
    if file.suffix in PICKLED:
        raise UsageError(
            f"{file} is a pickle, which can run code when it is opened", "convert it to safetensors where you trust it"
        )
    if not file.is_file():
        raise UsageError(
            f"there is no adapter {file}", "a .safetensors file, or PEFT's folder with adapter_model.safetensors"
        )
    try:
        with safe_open(file, framework="pt") as opened_file:
            tensors = {key: opened_file.get_tensor(key) for key in opened_file.keys()}  # noqa: SIM118
            return tensors, opened_file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"expected safetensors in {file}, got: {error}", "copy it again") from error


def peft_config(folder: Path) -> dict[str, Any]:
    """What PEFT's JSON says; UsageError for what is no LoRA, or trains what an adapter of ebb cannot have."""
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise UsageError(f"{folder} has no adapter_config.json, which has PEFT's scale", "copy the whole folder")
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf8"))
    except ValueError as error:
        raise DamagedError(f"expected JSON in {file}, got: {error}", "copy it again") from error
    wrong = {
        "peft_type": config.get("peft_type") != "LORA",
        "bias": config.get("bias", "none") != "none",
        "modules_to_save": bool(config.get("modules_to_save")),
        "fan_in_fan_out": bool(config.get("fan_in_fan_out")),
    }
    for name in (name for name, is_so in wrong.items() if is_so):
        raise UsageError(f"{file}: {name} is {config.get(name)!r}, and ebb puts on LoRA and DoRA of weights alone")
    if not config.get("r") or config.get("lora_alpha") is None:
        raise UsageError(f"{file} has no r or no lora_alpha, so its scale is not known", "ask whoever made it")
    return config


def spelled(tensors: Mapping[str, Tensor], facts: Mapping[str, str], config: Mapping[str, Any]) -> Spelling:
    """The spelling that a file is in; UsageError for none."""
    if config:
        return PEFT
    if facts.get("kind") == KIND:
        return OWN
    candidates = (KOHYA, *DIFFUSERS.values())
    found = [one for one in candidates if any(key.startswith(one.before) for key in tensors)]
    if not found:
        some = ", ".join(list(tensors)[:3]) or "none"
        raise UsageError(f"no format that ebb knows has such keys: {some}", "ebb, PEFT, diffusers and kohya are known")
    return found[0]


def scale_of(
    layer: str, parts: Mapping[Part, Tensor], facts: Mapping[str, str], config: Mapping[str, Any], spelling: Spelling
) -> float | None:
    """s of a layer as the file has it, or None."""
    rank = parts["down"].shape[0] if "down" in parts else 0
    if spelling is OWN:
        return float(json.loads(facts["scales"])[layer])
    if "alpha" in parts:
        return float(parts["alpha"]) / max(1, rank)
    if spelling is not PEFT:
        said = json.loads(facts.get("lora_adapter_metadata", "{}"))
        config = {key.partition(".")[2]: value for key, value in said.items() if key.startswith(spelling.before)}
        if "lora_alpha" not in config:
            return None
    alpha = patterned(layer, config.get("alpha_pattern"), config["lora_alpha"])
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / max(1, rank))


def patterned(layer: str, patterns: Mapping[str, float] | None, usual: float) -> float:
    """The value of the first pattern that a layer's name ends with, as PEFT matches them."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return usual


def built(layer: str, parts: Mapping[Part, Tensor], scale: float | None, weight: Tensor | None) -> LowRank:
    """The change of a layer's weight, where that is known; UsageError where a part is missing or does not fit."""
    for part in ("down", "up"):
        if part not in parts:
            raise UsageError(f"{layer} has no {part}: half of a change is none", "copy the file again")
    if scale is None:
        raise UsageError(
            f"the file has no scale for {layer}", "ask whoever made it, and give it: scale=1 is most common"
        )
    down, up = parts["down"], parts["up"].flatten(1)
    if weight is None:
        weight = torch.empty(len(up), *down.shape[1:])
    wanted = (down.shape[0], *weight.shape[1:]), (weight.shape[0], down.shape[0])
    if (tuple(down.shape), tuple(up.shape)) != wanted:
        raise UsageError(
            f"{layer} has a weight {list(weight.shape)}, and the change is {list(up.shape)} times {list(down.shape)}",
            "put it on the network that it was made for",
        )
    if "magnitude" in parts:
        turned = LowRankDirection(weight, len(down), scale)
        turned.magnitude.data = parts["magnitude"].flatten().clone()
        made: LowRank = turned
    else:
        made = LowRank(tuple(weight.shape), len(down), scale)
    made.down.data, made.up.data = down.clone(), up.clone()
    return made.to(weight.device)


def checked(changes: Mapping[str, LowRank], what: str) -> None:
    """Raise UsageError for changes that would do nothing, or would leave nothing."""
    if not changes:
        raise UsageError(f"{what} changes no layer", "it is empty")
    with torch.no_grad():
        for layer, change in changes.items():
            if not all(bool(torch.isfinite(part).all()) for part in change.parameters()):
                raise UsageError(f"{what}: the change of {layer} is not finite", "its training diverged")
        silent = all(
            not bool(change.change().any()) and not isinstance(change, LowRankDirection) for change in changes.values()
        )
    if silent:
        raise UsageError(f"{what} changes nothing: all its changes are zero", "it was saved before it was trained")


Write = Callable[[Adapter, Path], None]


def pieces(adapter: Adapter, spelling: Spelling) -> dict[str, Tensor]:
    """The tensors of an adapter by their names in a format; others shape B and m of a convolution as its weight."""
    found = dict[str, Tensor]()
    for layer, change in adapter.changes.items():
        places = [1] * (change.down.dim() - 2 if spelling is not OWN else 0)
        found[spelling.key(layer, "down")] = change.down
        found[spelling.key(layer, "up")] = change.up.view(*change.up.shape, *places)
        if isinstance(change, LowRankDirection):
            shape = [1, -1, *places] if places else [-1]
            found[spelling.key(layer, "magnitude")] = change.magnitude.view(shape)
        if spelling is KOHYA:
            found[spelling.key(layer, "alpha")] = torch.tensor(change.scale * change.rank)
    return found


def write_own(adapter: Adapter, path: Path) -> None:
    """ebb's file: names of layers as they are, scales and the base's sha256 in the metadata."""
    scales = {layer: change.scale for layer, change in adapter.changes.items()}
    facts = {"kind": KIND, "name": adapter.name, "base": adapter.base, "scales": json.dumps(scales)}
    facts |= {"component": adapter.component}
    with replacing(path) as partial:
        save_tensors(pieces(adapter, OWN), partial, facts)


def write_kohya(adapter: Adapter, path: Path) -> None:
    """kohya's file, α beside each pair."""
    ranks = {str(change.rank) for change in adapter.changes.values()}
    facts = {"ss_network_module": "networks.lora", "ss_network_dim": ranks.pop() if len(ranks) == 1 else "Dynamic"}
    with replacing(path) as partial:
        save_tensors(pieces(adapter, KOHYA), partial, facts)


def config_of(adapter: Adapter) -> dict[str, Any]:
    """What PEFT's JSON says of it: the commonest rank and α, and patterns for the layers that differ.

    `target_modules` is an expression that matches whole names: of a list PEFT takes every layer that ends so, and `out`
    is the end of many.
    """
    ranks = [change.rank for change in adapter.changes.values()]
    alphas = [change.scale * change.rank for change in adapter.changes.values()]
    rank, alpha = statistics.mode(ranks), statistics.mode(alphas)
    named = list(zip(adapter.changes, ranks, alphas, strict=True))
    directions = {isinstance(change, LowRankDirection) for change in adapter.changes.values()}
    if len(directions) > 1:
        raise UsageError(
            f"{adapter.name} has both LoRA and DoRA, which one file of PEFT cannot", "write ebb's own file"
        )
    return {
        "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none",
        "target_modules": "|".join(map(re.escape, adapter.changes)),
        "use_rslora": False, "use_dora": directions == {True},
        "rank_pattern": {whole(layer): r for layer, r, _ in named if r != rank},
        "alpha_pattern": {whole(layer): a for layer, _, a in named if a != alpha},
        "fan_in_fan_out": False, "init_lora_weights": True, "modules_to_save": None, "inference_mode": True,
        "base_model_name_or_path": None, "task_type": None,
    }  # fmt: skip


def whole(layer: str) -> str:
    """A pattern of one layer, and of none that ends so."""
    return f"^{re.escape(layer)}"


def write_peft(adapter: Adapter, path: Path) -> None:
    """PEFT's folder."""
    config = config_of(adapter)
    path.mkdir(exist_ok=True)
    with replacing(path / "adapter_model.safetensors") as partial:
        save_tensors(pieces(adapter, PEFT), partial, {"format": "pt"})
    replace_text(path / "adapter_config.json", json.dumps(config, indent=1))


def write_diffusers(adapter: Adapter, path: Path) -> None:
    """diffusers' file, with the metadata that has its scale."""
    spelling = DIFFUSERS[adapter.component]
    config = {f"{spelling.before}{key}": value for key, value in config_of(adapter).items()}
    with replacing(path) as partial:
        save_tensors(pieces(adapter, spelling), partial, {"format": "pt", "lora_adapter_metadata": json.dumps(config)})


WRITERS: dict[str, Write] = {"ebb": write_own, "peft": write_peft, "diffusers": write_diffusers, "kohya": write_kohya}
"""What an adapter can be written as."""
