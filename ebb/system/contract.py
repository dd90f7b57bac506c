"""The contract of a system in writing: everything of it but the weights, as JSON in which no code stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebb.encode.autoencoder import AUTOENCODERS
from ebb.encode.conditioner import Conditioner, text_from
from ebb.encode.labels import Labels
from ebb.encode.latent import LatentSpace
from ebb.encode.numbers import Numbers
from ebb.encode.picture import Beside
from ebb.errors import DamagedError, UsageError
from ebb.process.denoiser import NetworkDenoiser
from ebb.recipe.names import parse, spell
from ebb.recipe.recipe import Sampling
from ebb.shapes import sides
from ebb.system.families.families import FAMILIES
from ebb.system.families.family import in_place
from ebb.system.model import Model

FORMAT = 2

Parts = tuple[Model, tuple[int, ...], Conditioner, Sampling]
"""What a system consists of: model, shape, conditioner and sampling."""


def written(model: Model, shape: tuple[int, ...], conditioner: Conditioner, sampling: Sampling) -> dict[str, Any]:
    """The contract of a system of these parts; each is text or JSON that `parts_of` turns back into it."""
    text, numbers, beside = conditioner.text, conditioner.numbers, conditioner.beside
    return {
        "format": FORMAT,
        "family": model.family,
        **model.contract(),
        "shape": list(shape),
        "values": [-1, 1],
        "labels": list(conditioner.labels.names),
        "text": None if text is None else text.to_json(),
        "numbers": None if numbers is None else numbers.to_json(),
        "beside": None if beside is None else beside.to_json(),
        "autoencoder": None if model.space is None else described(model.space),
        "sampling": sampling.model_dump(),
    }


def parts_of(contract: Mapping[str, Any]) -> Parts:
    """The parts that a contract describes, with fresh weights; raises DamagedError where it cannot be one, UsageError
    where the network was built for other conditions than the rest."""
    if contract.get("format") != FORMAT or contract.get("values") != [-1, 1]:
        raise DamagedError(
            f"this system has format {contract.get('format')!r} and values {contract.get('values')!r};"
            f" this ebb reads format {FORMAT} with values [-1, 1]",
            "load it with the version of ebb named in the run's env.json",
        )
    try:
        description, shape = contract.get("autoencoder"), tuple(contract["shape"])  # before latents there was none
        space, conditioner = rebuilt(description) if description else None, conditioner_of(contract)
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


def conditioner_of(contract: Mapping[str, Any]) -> Conditioner:
    """What a contract says can be asked for; systems of before texts, numbers or pictures have no such entry."""
    text, numbers, beside = (contract.get(name) for name in ("text", "numbers", "beside"))
    return Conditioner(
        Labels(tuple(contract["labels"])),
        text_from(text) if text else None,
        Numbers.from_json(numbers) if numbers else None,
        Beside.from_json(beside) if beside else None,
    )


def agreed(denoiser: NetworkDenoiser, hears: Conditioner, inner: tuple[int, ...]) -> None:
    """Raise UsageError where the network was built for other conditions than can be asked for."""
    built = getattr(denoiser.network, "settings", {})
    for name, size in hears.sizes.items():
        if built.get(name, 0) != size:
            what = {"classes": "labels", "numbers": "numbers", "image": f"channels beside ({hears.beside})"}
            mine = what.get(name, f"{name} of {hears.text}")
            raise UsageError(f"{size} {mine} for a network of {built.get(name, 0)} {name}")
    if hears.beside is not None:
        places = tuple(length // hears.beside.factor for length in hears.beside.shape[1:])
        if places != inner[1:]:
            raise UsageError(f"{sides(places)} places beside, for {list(inner)}, by {hears.beside}")


def described(space: LatentSpace) -> dict[str, Any]:
    """A latent space as JSON, but for its weights."""
    made = spell(space.autoencoder, AUTOENCODERS)
    return {"network": made, "mean": list(space.mean), "deviation": list(space.deviation)}


def rebuilt(description: Mapping[str, Any]) -> LatentSpace:
    """The latent space that `described` wrote down, with fresh weights."""
    autoencoder = parse(description["network"], AUTOENCODERS, "autoencoder")
    return LatentSpace(in_place(autoencoder), tuple(description["mean"]), tuple(description["deviation"]))
