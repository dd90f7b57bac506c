"""Numbers that texts on diffusion models state, and what they are, each by ebb's own functions.

    python examples/worked.py

`what` is the quantity, `says` how texts have it, `right` what ebb computes, `by` the function that does, and `why` what
to teach. tests/test_worked.py holds each against an answer of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import ebb
from ebb.encode.autoencoder import divergence, draw
from ebb.guide.cfg import cfg
from ebb.guide.temperature import temperature
from ebb.judge.distances import frechet
from ebb.networks.convolutional import Pyramid
from ebb.process import betas
from ebb.process.denoiser import CLOCKS
from ebb.process.path import Path
from ebb.train.objectives.weights import WEIGHTS
from ebb.understand.probe import entropy

DDPM, COSINE, LATENT = ebb.DDPMLinear(), ebb.Cosine(0.008), ebb.BetaTable("scaled_linear")


def step(n: float) -> Tensor:
    """The time of timestep n of 1,000, [1] in float64."""
    return torch.tensor([n / 1000], dtype=torch.float64)


def signal(path: Path, n: float) -> float:
    """ᾱ, the power of the signal."""
    return float(path.alpha(step(n)) ** 2)


def on_noise(weight: str, n: float) -> float:
    """A loss weight on the squared error of ε: noise prediction has the determinant α."""
    return float(WEIGHTS[weight](DDPM, step(n), DDPM.alpha(step(n))))


def reached(path: Path, power: float) -> float:
    """The timestep at which ᾱ has fallen to `power`."""
    ratio = math.sqrt((1 - power) / power)
    return 1000 * float(path.time(torch.tensor([ratio], dtype=torch.float64)))


def misread_cosine(count: int) -> float:
    """ᾱ after some steps where β itself is made a cosine of the time."""
    table = tuple(0.5 * math.cos((k / 1000 + 0.008) * math.pi / 2) ** 2 + 1e-4 for k in range(count))
    return float(ebb.BetaTable(table).alpha(torch.ones(1, dtype=torch.float64)) ** 2)


def told_apart(dtype: torch.dtype) -> float:
    """How many of the timesteps 1 … 1000 are different numbers in a type."""
    return float(len(torch.arange(1, 1001, dtype=torch.float64).to(dtype).unique()))


def clocked_apart() -> float:
    """How many of 1,000 times the network's clock tells apart, float32 as it is told."""
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    return float(len(CLOCKS["fraction"](DDPM, t).float().unique()))


def lost_near_the_data() -> float:
    """The relative error of 1 − ᾱ₁ from products in float32."""
    table = betas.linear()[:1]
    naive = 1 - torch.cumprod(1 - table.float(), 0)
    return abs(float(naive[0].double() / table[0]) - 1)


def bound_weights() -> Tensor:
    """β²/(2σ²(1 − β)(1 − ᾱ)) with σ² = β, the weights of the bound on (ε̂ − ε)² (Ho et al. 2020, eq. 12), [1000]."""
    beta, t = betas.linear(), torch.arange(1, 1001, dtype=torch.float64) / 1000
    return beta / (2 * (1 - beta) * DDPM.sigma(t) ** 2)


def share(first: int) -> float:
    """What the first timesteps hold of all weights of the bound."""
    weights = bound_weights()
    return float(weights[:first].sum() / weights.sum())


def gradients() -> float:
    """The variance of d(z²)/d(mean) through z = mean + deviation·ε, at mean 1 and deviation 1."""
    mean = torch.ones(200_000, dtype=torch.float64, requires_grad=True)
    z = draw(mean, torch.zeros_like(mean), torch.Generator().manual_seed(0))
    return float(torch.autograd.grad((z**2).sum(), mean)[0].var())


@dataclass(frozen=True)
class Constant:
    """A denoiser that answers with its condition."""

    path: Path = ebb.Linear()

    def __call__(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """The number said, in the shape of x."""
        return cond["said"].expand_as(x)


def guided(scale: float) -> float:
    """x̂0 under guidance where the condition asks for 1 and its absence for 0."""
    one, none = torch.ones(1, 1), torch.zeros(1, 1)
    return float(cfg(scale, {"said": none})(Constant())(torch.zeros(1, 1), step(500), {"said": one}))


def tempered(tau: float) -> float:
    """The deviation of N(0, 1) sampled at a temperature: where the flow takes one deviation of noise."""
    unit = ebb.Gaussian(ebb.Cosine(), torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64))
    times = ebb.GRIDS["uniform"](unit.path, 64)
    one = torch.ones(1, 1, dtype=torch.float64)
    *_, last = ebb.trajectory(temperature(tau)(unit), ebb.Heun(), times, one, {}, ebb.Noise.of(0, 1))
    return float(last.x)


def first_of_fifty(grid: str) -> float:
    """The timestep at which 50 steps begin."""
    return 1000 * float(ebb.GRIDS[grid](DDPM, 50)[0])


def apart(shift: float, spread: float) -> float:
    """The Fréchet distance of N(0, 1) and N(shift, spread²), by rows with these moments exactly."""
    rows = torch.tensor([[-1.0], [1.0]], dtype=torch.float64) / math.sqrt(2)
    return frechet(rows, shift + spread * rows)


def kl(mean: float, deviation: float) -> float:
    """D(N(mean, deviation²) ‖ N(0, 1)) in nats."""
    return float(divergence(torch.tensor([[mean]]), torch.tensor([[2 * math.log(deviation)]])))


def evenness(*weights: float) -> float:
    """The entropy of some weights, as a share of the largest that so many can have."""
    return float(entropy(torch.tensor(weights)))


def smaller(side: int, latent: int) -> float:
    """How many times fewer numbers the latents of a colour picture have, three halvings of its sides."""
    factor = Pyramid(multipliers=(1, 2, 4, 4)).factor
    return 3 * side**2 / (latent * (side // factor) ** 2)


@dataclass(frozen=True)
class Worked:
    """One number: what texts say it is, what it is, and what to teach."""

    what: str
    says: str
    right: Callable[[], float]
    by: str
    why: str


WORKED = [
    Worked("ᾱ₅₀₀, linear β", "0.30", lambda: signal(DDPM, 500), "DDPMLinear.alpha", "0.30 is reached far earlier"),
    Worked("n at which ᾱ = 0.30, linear β", "500", lambda: reached(DDPM, 0.3), "DDPMLinear.time", "ᾱ falls fast"),
    Worked("n at which ᾱ = 0.30, cosine", "500", lambda: reached(COSINE, 0.3), "Cosine.time", "and here later"),
    Worked("ᾱ₅₀₀, cosine", "f(½)", lambda: signal(COSINE, 500), "Cosine.alpha", "ᾱ = f(t)/f(0), so that ᾱ₀ = 1"),
    Worked("σ₉₉₉, linear β", "0.998", lambda: float(DDPM.sigma(step(999))), "DDPMLinear.sigma", "an amplitude"),
    Worked("α₁₀₀₀, linear β", "0", lambda: float(DDPM.alpha(step(1000))), "DDPMLinear.alpha", "almost noise"),
    Worked("ᾱ₁₀₀₀, scaled-linear", "0", lambda: signal(LATENT, 1000), "BetaTable.alpha", "not pure noise: it leaks"),
    Worked("signal where ᾱ = 0.30, amplitude", "55 %", lambda: math.sqrt(signal(DDPM, reached(DDPM, 0.3))),
           "DDPMLinear.alpha", "of amplitudes; in power it is 30 %"),
    Worked("ᾱ after 10 steps, β = cos²(…)/2", "cosine", lambda: misread_cosine(10), "BetaTable.alpha",
           "β is no cosine: ᾱ is"),
    Worked("ᾱ after 20 steps, β = cos²(…)/2", "cosine", lambda: misread_cosine(20), "BetaTable.alpha",
           "the cosine schedule has 0.9994 there"),
    Worked("largest 1/√(1 − β)", "over 10³", lambda: float((1 - betas.linear()).rsqrt().max()), "betas.linear",
           "and L_simple on ε has no such factor"),
    Worked("largest 1/√(1 − ᾱ)", "", lambda: float(1 / DDPM.sigma(step(1))), "DDPMLinear.sigma", "at n = 1"),
    Worked("SNR at n = 1", "very low", lambda: float(DDPM.log_snr(step(1)).exp()), "Path.log_snr", "very high"),
    Worked("1/(1 + SNR) at n = 1", "cures", lambda: on_noise("inverse_snr", 1), "weights.inverse_snr",
           "it starves low noise"),
    Worked("1/(1 + SNR) at n = 500", "", lambda: on_noise("inverse_snr", 500), "weights.inverse_snr", ""),
    Worked("√(1 − ᾱ₅₀₀), of DDPM's mean", "√(1 − α) = 0.100", lambda: float(DDPM.sigma(step(500))),
           "DDPMLinear.sigma", "the denominator has ᾱ"),
    Worked("1 − ᾱ₁ by products in float32, error", "ᾱ_T underflows", lost_near_the_data, "betas.linear",
           "what is lost is near the data; DDPMLinear.sigma loses nothing"),
    Worked("timesteps that bf16 tells apart", "1000", lambda: told_apart(torch.bfloat16), "torch",
           "times stay float64"),
    Worked("times that ebb's clock tells apart", "1000", clocked_apart, "CLOCKS", "told in float32"),
    Worked("first of 50 steps, index 980", "999", lambda: first_of_fifty("leading"), "Leading",
           "index i is n = i + 1; it begins below the end"),
    Worked("first of 50 steps, trailing", "999", lambda: first_of_fifty("trailing"), "Trailing", "the end itself"),
    Worked("weight of the bound at n = 1000", "", lambda: float(bound_weights()[-1]), "betas, DDPMLinear", "σ² = β"),
    Worked("share of the bound in 1 % of steps", "almost all", lambda: share(10), "betas, DDPMLinear", "much"),
    Worked("share of the bound in 10 % of steps", "almost all", lambda: share(100), "betas, DDPMLinear", "a third"),
    Worked("guidance 7.5 between 0 and 1", "interpolates", lambda: guided(7.5), "cfg", "it extrapolates"),
    Worked("deviation of N(0, 1) at τ = 1.5", "noise × τ", lambda: tempered(1.5), "temperature",
           "p^(1/τ): √τ"),
    Worked("variance of d(z²)/dμ, reparameterised", "", gradients, "autoencoder.draw",
           "4σ²; by the score function μ⁴/σ² + 14μ² + 15σ² = 30"),
    Worked("KL of N(1, ½²) from N(0, 1)", "", lambda: kl(1.0, 0.5), "autoencoder.divergence", "in nats"),
    Worked("numbers of 512² that latents spare", "4 to 64 times", lambda: smaller(512, 4), "Pyramid.factor",
           "8 a side, 64 in places, 48 in numbers: 4 channels for 3"),
    Worked("entropy of attention 28, 26, 24, 22 %", "attends", lambda: evenness(0.28, 0.26, 0.24, 0.22),
           "probe.entropy", "even, and says nothing; say over which axis"),
    Worked("Fréchet distance of N(0, 1), N(3, 2²)", "", lambda: apart(3.0, 2.0), "distances.frechet",
           "squared: 3² + (2 − 1)²"),
]  # fmt: skip


if __name__ == "__main__":
    print(f"{'':40}{'texts':>18}{'right':>12}  by")
    for one in WORKED:
        print(f"{one.what:40}{one.says:>18}{one.right():>12.5g}  {one.by:24}{one.why}")
