"""Recipes as documents: read from a mapping or a file, in today's words or older ones, and what is wrong with one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ebb.errors import UsageError, nearest
from ebb.recipe.groups import kind_or, members
from ebb.recipe.recipe import FIRST, KINDS, RECIPES, Recipe

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""What reads plain values and nothing else; that of libyaml, where it is there, in a tenth of the time."""


def validated(tree: Any, source: str) -> Recipe:
    """A recipe from a mapping; raises UsageError that names each wrong field and the nearest right one."""
    if not isinstance(tree, dict):
        raise UsageError(f"{source} is not a recipe: expected a mapping of fields", "see one with: ebb config show")
    kind = kind_or(FIRST)(tree)
    if kind not in RECIPES:
        raise UsageError(f"{source}: there is no kind of recipe called {kind!r}", nearest(kind, RECIPES))
    try:
        return RECIPES[kind].model_validate(tree)
    except ValidationError as error:
        raise explained(error, source) from error


def options() -> dict[str, list[str]]:
    """Every field that a recipe can have, by its dotted name, and the kinds, of recipe or group, that have it."""
    found: dict[str, list[str]] = {}
    for kind, recipe in RECIPES.items():
        for name, field in recipe.model_fields.items():
            inner = members(field.annotation)
            for tag, member in inner.items():
                for leaf in member.model_fields:
                    found.setdefault(f"{name}.{leaf}", []).append(tag if len(inner) > 1 else kind)
            if not inner:
                found.setdefault(name, []).append(kind)
    return {name: list(dict.fromkeys(kinds)) for name, kinds in found.items()}


def explained(error: ValidationError, source: str) -> UsageError:
    """What is wrong with a recipe, one clause for each field, with the nearest name for an unknown one."""
    known, lines = options(), []
    mine = next((kind for kind, recipe in RECIPES.items() if recipe.__name__ == error.title), "")
    for problem in error.errors():
        place = [str(part) for part in problem["loc"]]
        tag = place.pop(1) if len(place) > 1 and f"{place[0]}.kind" in KINDS else mine
        name = ".".join(place)
        owners = known.get(name) or [kind for kind, recipe in RECIPES.items() if name in recipe.model_fields]
        if problem["type"] == "extra_forbidden" and owners:
            group = f"{place[0]}." if len(place) > 1 else ""
            several = " and ".join(filter(None, (", ".join(owners[:-1]), owners[-1])))
            lines.append(
                f"{name} is of {several}; this {group.strip('.') or 'recipe'} is of {tag}: --{group}kind {owners[0]}"
            )
        elif problem["type"] == "extra_forbidden" and name in RENAMED:
            lines.append(f"{name} is called {RENAMED[name]}")
        elif problem["type"] == "extra_forbidden":
            lines.append(
                f"there is no field {name}, {nearest(name, known).split('known:')[0].strip() or 'see the list'}"
            )
        elif problem["type"] == "value_error":
            lines.append(str(problem["ctx"]["error"]))
        elif problem["type"] == "union_tag_invalid":
            lines.append(f"{name}.kind: input should be one of {problem['ctx']['expected_tags']}")
        else:
            lines.append(f"{name}: {problem['msg'].lower()}, got {problem['input']!r}")
    return UsageError(f"{source}: " + "; ".join(lines), "see all fields with: ebb train --help")


def fitting(tree: dict[str, Any]) -> dict[str, Any]:
    """A recipe's mapping without the fields that other kinds have and its own has not."""
    recipe = RECIPES.get(kind_or(FIRST)(tree))
    if recipe is None:
        return tree
    foreign = {name for other in RECIPES.values() for name in other.model_fields} - recipe.model_fields.keys()
    fit = {name: value for name, value in tree.items() if name not in foreign}
    for name in fit.keys() & recipe.model_fields.keys():
        inner = members(recipe.model_fields[name].annotation)
        own = inner.get(kind_or(next(iter(inner), ""))(fit[name]))
        if own is not None and isinstance(fit[name], dict):
            others = {leaf for member in inner.values() for leaf in member.model_fields} - own.model_fields.keys()
            fit[name] = {leaf: value for leaf, value in fit[name].items() if leaf not in others}
    return fit


RENAMED = {"grids": "sheets", "label_dropout": "condition_dropout"}
"""Fields by the names that they have in older files."""


def modern(tree: Any) -> Any:
    """A recipe's mapping in today's words: once it held every option of every kind, and diffusion was a denoiser."""
    if not isinstance(tree, dict):
        return tree
    tree = {RENAMED.get(name, name): value for name, value in tree.items()}
    tree = tree | ({"kind": FIRST} if tree.get("kind") == "denoiser" else {})
    return fitting(tree) if {"network", "autoencoding"} <= tree.keys() else tree


def from_yaml(path: Path) -> tuple[Recipe, dict[str, Any]]:
    """The recipe of a YAML file, and the file's other entries (a run.yaml holds it under `recipe`)."""
    try:
        tree = yaml.load(path.read_text(encoding="utf8"), LOADER)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if isinstance(tree, dict) and "recipe" in tree:
        rest = {name: value for name, value in tree.items() if name != "recipe"}
        if "asked" in rest:
            rest["asked"] = {RENAMED.get(name, name): value for name, value in rest["asked"].items()}
        for old, new in RENAMED.items():
            rest |= {"command": re.sub(rf"--{old}\b", f"--{new}", str(rest["command"]))} if "command" in rest else {}
        return validated(modern(tree["recipe"]), str(path)), rest
    return validated(modern(tree or {}), str(path)), {}


def to_yaml(recipe: Recipe, **rest: Any) -> str:
    """The text of a run.yaml: the recipe under `recipe`, and what else is known of the run."""
    return yaml.safe_dump({**rest, "recipe": recipe.model_dump(mode="json")}, sort_keys=False, allow_unicode=True)
