"""The contract of a system in writing: everything of it but the weights, as JSON in which no code stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebb.encode.autoencoder import AUTOENCODERS
from ebb.encode.conditioner import Conditioner
from ebb.encode.latent import LatentSpace
from ebb.errors import DamagedError, UsageError
from ebb.guide.distilled import GUIDANCE
from ebb.networks.ports import PORTS
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.flow_map import WAY
from ebb.recipe.names import parse, spell, split
from ebb.recipe.recipe import Sampling
from ebb.shapes import sides
from ebb.system.families.families import FAMILIES
from ebb.system.families.family import in_place
from ebb.system.model import Model

FORMER, FORMAT = 2, 3
"""Of contracts that are read, the last of which is written."""

OWN = (WAY, GUIDANCE)
"""What a network may hear that is nobody's wish: how it is asked."""

Parts = tuple[Model, tuple[int, ...], Conditioner, Sampling]
"""What a system consists of: model, shape, conditioner and sampling."""


def written(model: Model, shape: tuple[int, ...], conditioner: Conditioner, sampling: Sampling) -> dict[str, Any]:
    """The contract of a system of these parts; each is text or JSON that `parts_of` turns back into it."""
    return {
        "format": FORMAT,
        "family": model.family,
        **model.contract(),
        "shape": list(shape),
        "values": [-1, 1],
        "conditions": conditioner.to_json(),
        "autoencoder": None if model.space is None else described(model.space),
        "sampling": sampling.model_dump(),
    }


def parts_of(contract: Mapping[str, Any]) -> Parts:
    """The parts that a contract describes, with fresh weights; raises DamagedError where it cannot be one, UsageError
    where the network was built for other conditions than the rest."""
    form, values = contract.get("format"), contract.get("values")
    if form not in (FORMER, FORMAT) or values != [-1, 1]:
        raise DamagedError(
            f"this system has format {form!r} and values {values!r};"
            f" this ebb reads formats {FORMER} and {FORMAT} with values [-1, 1]",
            "load it with the version of ebb named in the run's env.json",
        )
    try:
        contract = upgraded(contract) if form == FORMER else contract
        description, shape = contract.get("autoencoder"), tuple(contract["shape"])  # before latents there was none
        space = rebuilt(description) if description else None
        conditioner = Conditioner.from_json(contract["conditions"])
        model = FAMILIES[family_of(contract)].load(contract, space)
        if model.denoiser is not None:
            agreed(model.denoiser, conditioner, shape if space is None else space.shape(shape))
        return model, shape, conditioner, Sampling.model_validate(contract["sampling"])
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"the system's contract cannot be read: {error}") from error


def family_of(contract: Mapping[str, Any]) -> str:
    """The family of a contract; before families an autoencoder was a denoiser whose network answered 0."""
    before = "autoencoder" if str(contract.get("network")).startswith("zero") else "diffusion"
    return str(contract.get("family", before))


def agreed(denoiser: NetworkDenoiser, hears: Conditioner, inner: tuple[int, ...]) -> None:
    """Raise UsageError where the network was built for other conditions than can be asked for."""
    ports = getattr(denoiser.network, "settings", {}).get("ports", {})
    built = {name: port for name, port in ports.items() if name not in OWN}
    asked = {name: spell(port, PORTS) for name, port in hears.ports.items()}
    for name in [*built, *asked]:
        if built.get(name) != asked.get(name):
            raise UsageError(f"{name} is {asked.get(name, 'nothing')}, for a network of {built.get(name, 'nothing')}")
    for name, map in hears.maps.items():
        places = tuple(length // map.factor for length in map.shape[1:])
        if places != inner[1:]:
            raise UsageError(f"{name} has {sides(places)} places, for {list(inner)}, by {map}")


def upgraded(contract: Mapping[str, Any]) -> dict[str, Any]:
    """A contract of FORMER as one of FORMAT: there was one condition of each kind at most, and networks had sizes in
    place of ports. Systems of before texts, numbers or maps have no such entry."""
    text, numbers, beside = (contract.get(name) for name in ("text", "numbers", "beside"))
    conditions = {"label": {"kind": "labels", "names": contract["labels"]}} if contract["labels"] else {}
    conditions |= {"numbers": {"kind": "numbers", **numbers}} if numbers else {}
    conditions |= {"text": {"kind": "frozen_text" if "folders" in text else "text", **text}} if text else {}
    conditions |= {beside["name"]: {"kind": "picture", **beside}} if beside else {}
    ports = {name: spell(port, PORTS) for name, port in Conditioner.from_json(conditions).ports.items()}
    kind, _, fields = split(contract["network"], "network")
    sizes = {name: fields.pop(name, 0) for name in SIZES}
    if any(sizes.values()) != bool(ports):
        raise ValueError(f"conditions {sorted(ports)} for a network of {sizes}")
    fields |= {"ports": ports} if kind != "zero" else {}
    network = f"{kind}({', '.join(f'{name}={value!r}' for name, value in fields.items())})"
    return {**contract, "format": FORMAT, "network": network, "conditions": conditions}


SIZES = ("classes", "vocabulary", "states", "length", "numbers", "image", "concepts")
"""The settings of networks of FORMER in place of ports."""


def described(space: LatentSpace) -> dict[str, Any]:
    """A latent space as JSON, but for its weights."""
    made = spell(space.autoencoder, AUTOENCODERS)
    return {"network": made, "mean": list(space.mean), "deviation": list(space.deviation)}


def rebuilt(description: Mapping[str, Any]) -> LatentSpace:
    """The latent space that `described` wrote down, with fresh weights."""
    autoencoder = parse(description["network"], AUTOENCODERS, "autoencoder")
    return LatentSpace(in_place(autoencoder), tuple(description["mean"]), tuple(description["deviation"]))
