"""The options of `ebb train`: every field of every kind of recipe, in one flat form."""

from __future__ import annotations

import ast
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from ebb.recipe.groups import Group, members
from ebb.recipe.recipe import RECIPES


def form_of(groups: dict[str, type[Group]], name: str) -> type[BaseModel]:
    """One model with the fields of all these groups; those that not all have say in their help whose they are."""
    fields: dict[str, Any] = {}
    for field in dict.fromkeys(field for group in groups.values() for field in group.model_fields):
        owners = {kind: group for kind, group in groups.items() if field in group.model_fields}
        fields[field] = entry(field, owners, len(owners) < len(groups))
    return create_model(name, __config__=ConfigDict(frozen=True), **fields)


def entry(name: str, owners: dict[str, type[Group]], some: bool) -> tuple[Any, Any]:
    """Type, default and help of a field that these kinds have, `some` of all."""
    first = next(iter(owners.values()))
    field, about = first.model_fields[name], docstring(first, name)
    inner = {
        kind: group for owner in owners.values() for kind, group in members(owner.model_fields[name].annotation).items()
    }
    if inner:
        form = form_of(inner, f"{name.capitalize()}Form")
        return form, Field(default=form(), description=about)
    whose = f"{' or '.join(owners)}: " if some else ""
    kind = Literal[tuple(owners)] if name == "kind" and len(owners) > 1 else field.annotation
    return kind, Field(default=field.default, description=f"{whose}{about}")


def docstring(group: type[Group], name: str) -> str:
    """The docstring that stands below a field, in the group itself or in one that it is made of."""
    texts = (docstrings(above.__module__).get((above.__name__, name)) for above in group.__mro__[:-2])
    return next(filter(None, texts), "")


@cache
def docstrings(module: str) -> dict[tuple[str, str], str]:
    """The docstrings below all fields of a module's classes, by class and field; its source is read once."""
    file, out = getattr(sys.modules[module], "__file__", None), dict[tuple[str, str], str]()
    if file is None:
        return out
    classes = [node for node in ast.parse(Path(file).read_text(encoding="utf8")).body if isinstance(node, ast.ClassDef)]
    for node in classes:
        for field, below in pairwise(node.body):
            text = below.value if isinstance(below, ast.Expr) else None
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Constant):
                out[node.name, ast.unparse(field.target)] = str(text.value)
    return out


Form = form_of(dict(RECIPES), "Form")
"""What `ebb train` can be asked for, whatever kind of recipe it makes."""
