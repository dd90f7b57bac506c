"""The families that a recipe or a checkpoint can name: one for each of `ebb.recipe.recipe.RECIPES`."""

from __future__ import annotations

from typing import Any

from ebb.system.families.adapter_family import AdapterFamily
from ebb.system.families.diffusion import DiffusionFamily
from ebb.system.families.family import Family
from ebb.system.families.few_step import FewStepFamily
from ebb.system.families.variational import VariationalFamily

FAMILIES: dict[str, Family[Any]] = {
    family.name: family for family in (DiffusionFamily(), FewStepFamily(), AdapterFamily(), VariationalFamily())
}
