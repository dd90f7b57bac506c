"""Stateless parts in text: `name` or `name(field=value)`, each a member of one closed table per idea.

`parse("karras(rho=5)", GRIDS, "grid")` is `Karras(rho=5)`, as is `karras(5)`, values without names being those of the
first fields, and `spell(Karras(rho=5), GRIDS)` is the text again. Files
and command lines therefore hold names and numbers only: never a class path, never code.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ebb.errors import UsageError, nearest


def check_call(what: str, function: Any, *arguments: str) -> None:
    """Raise UsageError unless `function` can be called with as many arguments as are named here."""
    try:
        if callable(function):
            inspect.signature(function).bind(*arguments)
            return
        why = f"got {function!r:.60}"
    except ValueError:  # some functions of C tell no signature
        return
    except TypeError as error:
        why = f"{getattr(function, '__name__', type(function).__name__)} cannot: {error}"
    raise UsageError(f"{what} is called as f({', '.join(arguments)}); {why}")


def split(text: str, idea: str) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """`"edm(80.0, sigma_data=0.5)"` → `("edm", (80.0,), {"sigma_data": 0.5})`; values are literals or inf, nothing is
    evaluated.

    Raises UsageError where the text is not of the form `name` or `name(field=value, …)`.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id, (), {}
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
            fields = {str(k.arg): literal(k.value) for k in tree.keywords if k.arg}
            return tree.func.id, tuple(map(literal, tree.args)), fields
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    raise UsageError(f"{idea} {text!r} is not of the form name or name(field=value)", f"for example: {idea} = name")


def literal(node: ast.expr) -> Any:
    """The value that stands there: a literal of Python, or inf; ValueError for anything else."""
    return math.inf if isinstance(node, ast.Name) and node.id == "inf" else ast.literal_eval(node)


def parse(text: str, members: Mapping[str, Any], idea: str) -> Any:
    """The member of `members` that `text` names, with the fields it gives in place of the member's own.

    A member is a frozen dataclass instance, a function, or a class to be built (networks). Raises UsageError for an
    unknown name or field (with the nearest one) or a value of the wrong type.
    """
    name, values, fields = split(text, idea)
    if name not in members:
        raise UsageError(f"there is no {idea} called {name!r}", nearest(name, members))
    member = members[name]
    made = member if inspect.isclass(member) else type(member)
    has_fields = inspect.isclass(member) or dataclasses.is_dataclass(member)
    known = list(inspect.signature(made).parameters) if has_fields else []
    if len(values) > len(known) or set(known[: len(values)]) & fields.keys():
        fields_of = f"fields of {name}: {', '.join(known) or 'none'}"
        raise UsageError(f"{idea} {text!r} has more values than fields", fields_of)
    fields = dict(zip(known, values, strict=False)) | fields
    for field in fields:
        if field not in known:
            hint = nearest(field, known) if known else "it has none"
            raise UsageError(f"{idea} {name!r} has no field {field!r}", hint)
    if not fields and not inspect.isclass(member):
        return member
    try:
        if dataclasses.is_dataclass(made):
            return TypeAdapter(made).validate_python(({} if inspect.isclass(member) else vars(member)) | fields)
        return made(**fields)
    except (ValidationError, TypeError) as error:
        if not isinstance(error, ValidationError):
            reason = str(error)
        elif isinstance(told := error.errors()[0].get("ctx", {}).get("error"), UsageError):
            raise told from error  # the member's own words and hint
        else:
            reason = error.errors()[0]["msg"]
        raise UsageError(f"{idea} {text!r}: {reason}", f"fields of {name}: {', '.join(known)}") from error


def spell(member: Any, members: Mapping[str, Any]) -> str:
    """The text that `parse` turns into `member`; its fields come from the dataclass or from `member.settings`.

    Raises UsageError where `member` is not of the table, and so cannot be written to a file.
    """
    for name, known in members.items():
        if member is known or member == known:
            return name
        if type(member) in (known, type(known)) and (dataclasses.is_dataclass(member) or hasattr(member, "settings")):
            fields = member.settings if hasattr(member, "settings") else vars(member)
            return f"{name}({', '.join(f'{k}={v!r}' for k, v in fields.items())})"
    raise UsageError(
        f"{type(member).__name__} is not one of {', '.join(members)}",
        "only these can be stored by name in a checkpoint",
    )
