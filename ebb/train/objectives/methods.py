"""The few-step methods that a recipe can name."""

from ebb.train.objectives.consistency import Consistency
from ebb.train.objectives.consistency_trajectory import ConsistencyTrajectory
from ebb.train.objectives.lagrangian import Lagrangian
from ebb.train.objectives.map_matching import Target
from ebb.train.objectives.mean_flow import ContinuousConsistency, MeanFlow
from ebb.train.objectives.progressive import Progressive
from ebb.train.objectives.trajectories import Trajectories
from ebb.train.objectives.two_halves import Shortcut, TwoHalves

METHODS: dict[str, Target] = {
    "trajectories": Trajectories(),
    "consistency": Consistency(),
    "consistency_trajectory": ConsistencyTrajectory(),
    "continuous_consistency": ContinuousConsistency(),
    "mean_flow": MeanFlow(),
    "lagrangian": Lagrangian(),
    "self_distil": TwoHalves(),
    "shortcut": Shortcut(),
    "progressive": Progressive(),
}
