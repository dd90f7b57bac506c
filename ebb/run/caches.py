"""Where beside a run lies what is computed once for all runs of a folder: latents, states of texts, reflowed pairs."""

from __future__ import annotations

from pathlib import Path

from ebb.recipe.recipe import AdapterRecipe, DenoiserRecipe, DiffusionRecipe, Recipe


def latents_in(cache: Path, data: str, autoencoder: str | Path) -> Path:
    """The latents of data of a name by the autoencoder of a run."""
    return cache / "latents" / f"{data}-{Path(autoencoder).name}"


def states_in(cache: Path, data: str, encoders: str, part: str) -> Path:
    """The states of the captions of a part of the data, by encoders of a fingerprint."""
    return cache / "texts" / f"{data}-{encoders[:8]}-{part}"


def pairs_in(cache: Path, teacher: str | Path) -> Path:
    """The pairs of noise and sample that a run has drawn."""
    return cache / "pairs" / Path(teacher).name


def prior_in(cache: Path, base: str | Path) -> Path:
    """The samples that a run has drawn to be learnt beside what it is taught."""
    return cache / "prior" / Path(base).name


def made_for(recipe: Recipe, cache: Path, data: str) -> list[Path]:
    """What was computed once for runs of such a recipe on data of a name, as far as it is there."""
    if not isinstance(recipe, DenoiserRecipe):
        return []
    places = [latents_in(cache, data, recipe.autoencoder)] if recipe.autoencoder else []
    places += [bucket for place in places for bucket in sorted(place.glob("bucket-*"))]
    if recipe.text.encoders:
        places += sorted((cache / "texts").glob(states_in(Path(), data, "?" * 8, "*").name))
    if isinstance(recipe, DiffusionRecipe) and recipe.reflow:
        places.append(pairs_in(cache, recipe.reflow))
    if isinstance(recipe, AdapterRecipe) and recipe.adapts and recipe.prior:
        places.append(prior_in(cache, recipe.adapts))
    return [place for place in places if place.is_dir()]
