"""Do low times need a higher learning rate? A network has one: tested as a weight on them, or more of them.

    python bench/low_times.py

A perceptron learns handwritten digits (8×8) on the linear path. Adam does not see the size of a loss, only the shares
of its parts: ten times the rate at low times is ten times the weight there, or more of them. Each is tried, and the
same towards the noise. Figures are of the average: the unit loss on unseen digits in three stretches of the
log-SNR, and the Fréchet distance of 1,000 samples to unseen digits, in their values. About two minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from ebb.data.loader import Batch, Order
from ebb.judge.distances import frechet
from ebb.networks.mlp import MLP
from ebb.process.denoiser import NetworkDenoiser, target_error
from ebb.process.path import Linear, Path
from ebb.process.predict import velocity
from ebb.process.times import LogitNormal, LogSNR, uniform
from ebb.sample.multistep import DPMpp2M
from ebb.sample.noise import Noise
from ebb.sample.scheme import Scheme
from ebb.train.ema import EMA
from ebb.train.loop import Descent, Training, updates
from ebb.train.objectives.denoising import Denoising
from ebb.train.optimiser import WarmupDecay, adamw

STRETCHES = ((-12.0, -3.0), (-3.0, 3.0), (3.0, 12.0))
"""Much noise, as much as data, little."""

BATCH, UNSEEN = 64, 500


@dataclass(frozen=True)
class Louder:
    """`factor` on the errors where the log-SNR is above `above` (below it where the factor is to be at the noise)."""

    factor: float
    noise: bool = False
    above: float = 3.0

    def __call__(self, path: Path, t: Tensor, det: Tensor) -> Tensor:
        """The weight at each time."""
        there = path.log_snr(t) < -self.above if self.noise else path.log_snr(t) > self.above
        return torch.where(there, self.factor, 1.0).to(t)


VARIANTS: dict[str, Denoising] = {
    "even times, weight 1": Denoising(uniform),
    "weight 10 at little noise": Denoising(uniform, Louder(10)),
    "weight 1/10 at little noise": Denoising(uniform, Louder(0.1)),
    "weight 10 at much noise": Denoising(uniform, Louder(10, noise=True)),
    "times in the middle": Denoising(LogitNormal()),
    "times towards little noise": Denoising(LogitNormal(-1.0)),
    "times towards much noise": Denoising(LogitNormal(1.0)),
}


def trained(objective: Denoising, x0: Tensor, steps: int, seed: int, rate: float) -> NetworkDenoiser:
    """The averaged network after so many updates."""
    torch.manual_seed(seed)
    model = NetworkDenoiser(MLP(x0.shape[1], width=128), Linear(), velocity)
    training = Training(model, adamw(model, rate), EMA(model))
    order, course = Order(len(x0), BATCH, seed), WarmupDecay(rate, steps, 100, 0.25)
    batches: Callable[[int], Batch] = lambda number: Batch(x0[order.indices(number)], {})  # noqa: E731
    for _ in updates(training, objective, batches, Descent(seed), steps=steps, rate=course):
        pass
    averaged: NetworkDenoiser = training.ema.model.eval()  # type: ignore[assignment]
    return averaged


@torch.no_grad()
def figures(model: NetworkDenoiser, unseen: Tensor) -> list[float]:
    """The unit loss in each stretch, and the distance of samples."""
    found = []
    for low, high in STRETCHES:
        middle = torch.linspace(low, high, 18, dtype=torch.float64)[1:-1]
        losses = []
        for number, log_snr in enumerate(middle):
            t = model.path.time(torch.exp(-log_snr / 2).expand(len(unseen)))
            losses.append(
                float(target_error(model, unseen, Noise.of(number, len(unseen))(0, unseen), t, {}).square().mean())
            )
        found.append(float(np.mean(losses)))
    times = LogSNR()(model.path, 16)
    samples = Scheme(model, DPMpp2M(), times).fresh(torch.empty(1000, unseen.shape[1]), {}, Noise.of(0, 1000))
    return [*found, frechet(samples.double().numpy(), unseen.double().numpy())]


def main() -> None:
    """Print a line for each variant: the mean of the seeds, and each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3])
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    every = torch.from_numpy(load_digits().data / 8 - 1).float()[np.random.default_rng(0).permutation(1797)]
    unseen, known = every[:UNSEEN], every[UNSEEN:]
    print("| | loss at much noise | as much as data | little | distance of 1,000 samples |\n" + "|---" * 5 + "|")
    for rate in given.rates:
        for name, objective in VARIANTS.items():
            made = (trained(objective, known, given.steps, seed, rate) for seed in range(given.seeds))
            rows = np.array([figures(model, unseen) for model in made])
            cells = [f"{np.mean(c):.4f} ({', '.join(f'{each:.4f}' for each in c)})" for c in rows.T]
            print(f"| {name}{f', rate {rate:g}' if len(given.rates) > 1 else ''} | {' | '.join(cells)} |", flush=True)
    print(f"\nother digits: distance {frechet(known.double().numpy(), unseen.double().numpy()):.4f}")


if __name__ == "__main__":
    main()
