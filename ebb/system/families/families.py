"""The families that a recipe or a checkpoint can name."""

from __future__ import annotations

from ebb.system.families.diffusion import DiffusionFamily
from ebb.system.families.family import Family
from ebb.system.families.variational import VariationalFamily

FAMILIES: dict[str, Family] = {family.name: family for family in (DiffusionFamily(), VariationalFamily())}
