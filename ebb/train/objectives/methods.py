"""The few-step methods that a recipe can name."""

from ebb.train.objectives.consistency import Consistency
from ebb.train.objectives.lagrangian import Lagrangian
from ebb.train.objectives.map_matching import Target
from ebb.train.objectives.mean_flow import ContinuousConsistency, MeanFlow
from ebb.train.objectives.two_halves import Progressive, Shortcut, TwoHalves

METHODS: dict[str, Target] = {
    "consistency": Consistency(),
    "continuous_consistency": ContinuousConsistency(),
    "mean_flow": MeanFlow(),
    "lagrangian": Lagrangian(),
    "self_distil": TwoHalves(),
    "shortcut": Shortcut(),
    "progressive": Progressive(),
}
