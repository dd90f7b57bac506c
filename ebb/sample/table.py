"""The solvers a recipe or a request can name."""

from ebb.sample.ddim import DDIM, DDPM, Euler
from ebb.sample.heun import Heun
from ebb.sample.loop import Solver
from ebb.sample.multistep import DPMpp2M

SOLVERS: dict[str, Solver] = {
    "ddpm": DDPM(),
    "ddim": DDIM(),
    "euler": Euler(),
    "heun": Heun(),
    "dpmpp_2m": DPMpp2M(),
}
