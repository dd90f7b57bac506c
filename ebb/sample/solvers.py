"""The solvers a recipe or a request can name."""

from ebb.sample.adams import DEIS, IPNDM, ExponentialAB
from ebb.sample.adaptive import Adaptive
from ebb.sample.ddim import DDIM, DDPM, Euler
from ebb.sample.dpm_sde import DPMpp2MSDE, DPMpp2SSDE, DPMpp3MSDE
from ebb.sample.heun import Heun
from ebb.sample.jump import Jump
from ebb.sample.karras import Churn
from ebb.sample.multistep import DPMpp2M, DPMpp3M
from ebb.sample.restart import Restart
from ebb.sample.sde import EulerMaruyama, PredictorCorrector
from ebb.sample.singlestep import DPMpp2S
from ebb.sample.trajectory import Solver
from ebb.sample.unipc import UniPC

SOLVERS: dict[str, Solver] = {
    "ddpm": DDPM(),
    "ddim": DDIM(),
    "euler": Euler(),
    "heun": Heun(),
    "churn": Churn(),
    "dpmpp_2m": DPMpp2M(),
    "dpmpp_3m": DPMpp3M(),
    "dpmpp_2s": DPMpp2S(),
    "dpmpp_2m_sde": DPMpp2MSDE(),
    "dpmpp_3m_sde": DPMpp3MSDE(),
    "dpmpp_2s_sde": DPMpp2SSDE(),
    "unipc": UniPC(),
    "deis": DEIS(),
    "ipndm": IPNDM(),
    "exponential_ab": ExponentialAB(),
    "euler_maruyama": EulerMaruyama(),
    "predictor_corrector": PredictorCorrector(),
    "restart": Restart(),
    "adaptive": Adaptive(),
}

NAMED: dict[str, Solver] = {**SOLVERS, "jump": Jump()}
"""Those that settings can name: the solvers of denoisers, and what follows a model of two times."""
