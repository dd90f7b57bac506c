import math
from dataclasses import dataclass, field

import pytest
import torch

from ebb.guide.cfg import cfg
from ebb.guide.energy import energy
from ebb.guide.interval import within
from ebb.guide.temperature import temperature
from ebb.process import moment as module
from ebb.process.denoiser import NetworkDenoiser, retime
from ebb.process.flow_map import Straight
from ebb.process.moment import Moment, at, combine, each, repeated, where
from ebb.process.path import PATHS, Cosine, Linear, Path
from ebb.process.predict import PREDICTIONS
from ebb.process.times import GRIDS
from ebb.sample.noise import Noise
from ebb.sample.solvers import SOLVERS
from ebb.sample.trajectory import trajectory


@pytest.mark.parametrize("name", PATHS)
def test_a_moment_says_what_its_path_says(name):
    """Mix, noise, score and jump of a shared time are those of the path at the same time, in float64."""
    path = PATHS[name]
    t, s = (at(path, share * path.end) for share in (0.7, 0.2))
    times, later = t.shared(5), s.shared(5)
    x0, eps = torch.randn(2, 5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = t.mix(x0, eps)
    same = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(x, path.mix(x0, eps, times), **same)
    torch.testing.assert_close(t.noise(x, x0), path.noise(x, x0, times), **same)
    torch.testing.assert_close(t.score(x, x0), path.score(x, x0, times), **same)
    torch.testing.assert_close(t.jump(x, x0, s), path.jump(x, x0, times, later), **same)
    assert t.nsr == pytest.approx(float(path.nsr(times)[0]), rel=1e-12)
    assert 2 * t.lam == pytest.approx(float(path.log_snr(times)[0]), rel=1e-12)
    assert where(path, t.lam).time == pytest.approx(t.time, rel=1e-7)


def test_the_ends_of_a_path_are_infinite_in_lambda_and_exact_in_a_jump():
    path = Cosine()
    end, start = at(path, 1.0), at(path, 0.0)
    assert (end.alpha, end.nsr, end.lam) == (0.0, math.inf, -math.inf)
    assert (start.sigma, start.nsr, start.lam) == (0.0, 0.0, math.inf)
    x, x0 = torch.randn(2, 3, 4)
    assert torch.equal(end.jump(x, x0, start), x0)


@pytest.mark.parametrize(
    "factors", [(0.3, 0.9), (0.4, 0.6), (1.0, -0.5), (1.0, 0.0), (0.0, 2.0), (0.0, 0.0), (0.2, 0.8, 0.5), (1, 2, 3, 4)]
)
def test_combine_is_the_sum_and_writes_to_nothing(factors):
    tensors = torch.randn(len(factors), 3, 5, dtype=torch.float64)
    before = tensors.clone()
    total = combine(*zip(factors, tensors, strict=True))
    expected = sum(f * t for f, t in zip(factors, before, strict=True))
    torch.testing.assert_close(total, expected, rtol=1e-14, atol=1e-14)
    assert torch.equal(tensors, before)
    total.add_(1)  # a result is new memory, whatever the factors
    assert torch.equal(tensors, before)


def test_a_factor_of_zero_hides_what_is_not_finite():
    assert torch.equal(combine((0.0, torch.full((2,), torch.nan)), (1.0, torch.ones(2))), torch.ones(2))


def test_a_moment_is_that_of_any_batch_and_times_are_those_of_its_samples():
    now, times = at(Linear(), 0.25), torch.tensor([0.1, 0.2], dtype=torch.float64)
    assert repeated(now, 3) is now
    assert each(now, 3).tolist() == [0.25, 0.25, 0.25]
    assert each(now, 3).dtype == torch.float64
    assert repeated(times, 2).tolist() == [0.1, 0.2, 0.1, 0.2]
    assert each(times, 2) is times


@dataclass(frozen=True)
class Tensors:
    """A denoiser of somebody else's, who knows times [b] only; it remembers them."""

    path: Path = Linear()
    asked: list = field(default_factory=list)

    def __call__(self, x, t, cond):
        self.asked.append(t)
        return x * (1 - t[:, None]).to(x.dtype)


class Moments(Tensors):
    takes_moments = True

    def __call__(self, x, t, cond):
        self.asked.append(t)
        return x * (1 - t.time)


GUIDES = {
    "none": lambda denoiser: denoiser,
    "temperature": temperature(0.8),
    "energy": energy(lambda x0: x0.flatten(1).sum(1)),
    "within": within(temperature(0.8), 0.1, 2.0),
    "retimed": lambda denoiser: retime(denoiser, Cosine()),
    "cfg": lambda denoiser: cfg(2.0, {"label": torch.tensor([0])})(denoiser),
    "towards": lambda denoiser: Straight(denoiser).toward(0.0),
}


@pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
def test_a_denoiser_that_knows_tensors_only_is_asked_with_tensors_through_every_wrapper(guide):
    """And one that takes moments is told nothing else, so that no wrapper falls back to times for each sample."""
    x, cond = torch.linspace(-1, 1, 6).double()[:, None], {"label": torch.ones(6, dtype=torch.long)}
    samples = []
    for plain in (Tensors(), Moments()):
        guided = guide(plain)
        times = GRIDS["uniform"](guided.path, 3)
        *_, point = trajectory(guided, SOLVERS["heun"], times, x, cond, Noise.of(0, 6))
        samples.append(point.x)
        wanted = Moment if isinstance(plain, Moments) else torch.Tensor
        assert plain.asked
        assert {type(t) for t in plain.asked} == {wanted}
    torch.testing.assert_close(*samples)


def test_a_jump_with_a_mistake_is_caught(monkeypatch):
    monkeypatch.setattr(module, "jump_factors", lambda a, s, b, r: (r / s, b + r / s * a))
    with pytest.raises(AssertionError):
        test_a_moment_says_what_its_path_says("cosine")


def test_mixed_precisions_are_promoted():
    low, high = torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.float64)
    for terms in (((0.4, low), (0.6, high)), ((1.0, low), (0.5, high)), ((0.2, low), (0.3, low), (1.0, high))):
        assert combine(*terms).dtype == torch.float64


def test_an_answer_can_be_differentiated_in_time_for_one_sample_and_many():
    network = torch.nn.Linear(2, 2).double()

    class Net(torch.nn.Module):
        def forward(self, x, time, cond):
            return network(x.double()) * time[:, None]

    denoiser, x = NetworkDenoiser(Net(), Linear(), PREDICTIONS["velocity"]), torch.ones(2, 2)
    slopes = []
    for count in (1, 2):
        t = torch.full((count,), 0.3, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(denoiser(x[:count], t, {}).sum(), t)
        slopes.append(slope[0])
    torch.testing.assert_close(slopes[0], slopes[1])
    assert abs(float(slopes[0])) > 1e-3
