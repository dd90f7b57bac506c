"""Contract suites, to run on parts of your own: a path, prediction, weight, solver, guide, network, condition,
objective or tracker.

Each `check_…` raises AssertionError that says what was expected and what came. Those of the mathematics hold parts
against answers that are known in closed form, so a part that passes is right and not only unchanged.
"""

from ebb.testing.of_sampling import ConvergenceOrder as ConvergenceOrder
from ebb.testing.of_sampling import TwoLabels as TwoLabels
from ebb.testing.of_sampling import at_angles as at_angles
from ebb.testing.of_sampling import check_guide as check_guide
from ebb.testing.of_sampling import check_network as check_network
from ebb.testing.of_sampling import check_path as check_path
from ebb.testing.of_sampling import check_prediction as check_prediction
from ebb.testing.of_sampling import check_solver as check_solver
from ebb.testing.of_sampling import check_stochastic as check_stochastic
from ebb.testing.of_sampling import close as close
from ebb.testing.of_sampling import columns as columns
from ebb.testing.of_sampling import graded as graded
from ebb.testing.of_sampling import inside as inside
from ebb.testing.of_sampling import measured_order as measured_order
from ebb.testing.of_sampling import normal as normal
from ebb.testing.of_sampling import quantile_flow as quantile_flow
from ebb.testing.of_sampling import same_by_batch as same_by_batch
from ebb.testing.of_sampling import sampled as sampled
from ebb.testing.of_sampling import two_humps as two_humps
from ebb.testing.of_training import check_condition as check_condition
from ebb.testing.of_training import check_objective as check_objective
from ebb.testing.of_training import check_tracker as check_tracker
from ebb.testing.of_training import check_weight as check_weight
