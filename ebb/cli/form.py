"""The options of `ebb train`: every field of every kind of recipe, in one flat form."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from ebb.recipe.groups import Group, members
from ebb.recipe.recipe import RECIPES


def form_of(groups: dict[str, type[Group]], name: str) -> type[BaseModel]:
    """One model with the fields of all these groups; those that not all have say in their help whose they are."""
    fields: dict[str, Any] = {}
    for field in dict.fromkeys(field for group in groups.values() for field in group.model_fields):
        owners = {kind: group.model_fields[field] for kind, group in groups.items() if field in group.model_fields}
        fields[field] = entry(field, owners, len(owners) < len(groups))
    return create_model(name, __config__=ConfigDict(frozen=True), **fields)


def entry(name: str, owners: dict[str, FieldInfo], some: bool) -> tuple[Any, Any]:
    """Type, default and help of a field that these kinds have, `some` of all."""
    first = next(iter(owners.values()))
    inner = {kind: group for field in owners.values() for kind, group in members(field.annotation).items()}
    if inner:
        form = form_of(inner, f"{name.capitalize()}Form")
        return form, Field(default=form(), description=first.description)
    whose = f"{' or '.join(owners)}: " if some else ""
    kind = Literal[tuple(owners)] if name == "kind" and len(owners) > 1 else first.annotation
    return kind, Field(default=first.default, description=f"{whose}{first.description or ''}")


Form = form_of(dict(RECIPES), "Form")
"""What `ebb train` can be asked for, whatever kind of recipe it makes."""
