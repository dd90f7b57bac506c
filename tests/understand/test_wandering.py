"""What a bad step does to a Gaussian in closed form, where strays are planted, and where noise equals signal."""

import math
from itertools import pairwise

import pytest
import torch

from ebb.process.moment import at, where
from ebb.process.path import PATHS
from ebb.process.times import GRIDS, LogSNR
from ebb.sample.ddim import DDPM
from ebb.sample.heun import Heun
from ebb.sample.noise import Noise
from ebb.sample.restart import Restart
from ebb.sample.scheme import Scheme
from ebb.sample.trajectory import Point
from ebb.understand.wandering import OFF, Pushed, bad_steps, crossing, first_strays, rms

from ..sample.test_louder import SPREAD, Centred, gain

LIKE, NOISE = torch.empty(400, 4, dtype=torch.float64), Noise.of(0, 400)


def off(path, solver, times, steps):
    """By what factor an error after so many steps is larger at the end: what is reported, without its units."""
    scheme = Scheme(Centred(path), solver, times)
    [found] = bad_steps({"it": scheme}, [steps], LIKE, {}, NOISE, SPREAD)
    now, end = at(path, float(times[steps])), scheme.fresh(LIKE, {}, NOISE)
    assert found.log_snr == 2 * now.lam
    return found.ends["it"] * rms(end - end.roll(1, 0)) / (OFF * math.hypot(now.alpha * SPREAD, now.sigma))


def size(t):
    """√(α²s² + σ²), as which the flow of a Gaussian shrinks."""
    return math.hypot(t.alpha * SPREAD, t.sigma)


@pytest.mark.parametrize("path", ["linear", "cosine", "edm"])
def test_the_flow_of_a_gaussian_carries_an_error_to_the_end(path):
    path = PATHS[path]
    times = LogSNR()(path, 60)
    for steps in (20, 40):
        now = at(path, float(times[steps]))
        assert off(path, Heun(), times, steps) == pytest.approx(SPREAD / size(now), rel=0.02)


def forgotten(path, times, steps):
    """What ancestral steps leave of an error: the product of x_s = m·x + …."""
    left = 1.0
    for t, s in pairwise(at(path, time) for time in times[steps:].tolist()):
        keep = s.sigma**2 * t.alpha / (s.alpha * t.sigma**2) if s.sigma else 0.0
        left *= keep + (s.alpha - keep * t.alpha) * gain(t)
    return left


def test_the_reverse_sde_forgets_what_noise_makes_anew():
    path = PATHS["cosine"]
    times = GRIDS["uniform"](path, 40)
    now = at(path, float(times[24]))
    exact = forgotten(path, times, 24)
    assert off(path, DDPM(), times, 24) == pytest.approx(exact, rel=1e-6)
    limit = now.alpha * SPREAD**2 / size(now) ** 2
    assert forgotten(path, GRIDS["uniform"](path, 4000), 2400) == pytest.approx(limit, rel=1e-2)
    assert exact < 0.75 * SPREAD / size(now), "an ODE's answer would pass"


def test_restart_forgets_once_for_each_way_down():
    """Up from ν to ν' an error is multiplied by α'/α, and down again by the flow."""
    path, solver = PATHS["linear"], Restart(nsr_min=0.2, nsr_max=0.8, repeats=2, steps=40)
    times = LogSNR()(path, 60)
    steps = next(k for k, time in enumerate(times.tolist()) if at(path, time).nsr < 2)
    now, low, high = at(path, float(times[steps])), where(path, -math.log(0.2)), where(path, -math.log(0.8))
    once = high.alpha / low.alpha * size(low) / size(high)
    assert off(path, solver, times, steps) == pytest.approx(once**2 * SPREAD / size(now), rel=0.02)
    after = next(k for k, time in enumerate(times.tolist()) if at(path, time).nsr < 0.1)
    assert off(path, solver, times, after) == pytest.approx(SPREAD / size(at(path, float(times[after]))), rel=0.02)


def test_a_push_is_made_once_and_where_it_is_due(monkeypatch):
    path = PATHS["linear"]
    times = GRIDS["uniform"](path, 6)
    plain = [point.x for point in Scheme(Centred(path), Heun(), times)(torch.ones(2, 3), {}, NOISE)]
    pushed = Pushed(Heun(), 4, torch.full((2, 3), 0.5))
    got = [point.x for point in Scheme(Centred(path), pushed, times)(torch.ones(2, 3), {}, NOISE)]
    assert all(torch.equal(a, b) for a, b in zip(plain[:3], got[:3], strict=True))
    torch.testing.assert_close(got[3], plain[3] + 0.5)
    assert pushed.order == 2
    monkeypatch.setattr(Pushed, "step", everywhere)
    with pytest.raises(AssertionError):  # a mutant that pushes after every step
        test_the_flow_of_a_gaussian_carries_an_error_to_the_end("linear")


def everywhere(self, denoise, x, t, s, cond, state, draw):
    stepped = self.solver.step(denoise, x, t, s, cond, state[1], draw)
    return stepped._replace(x=stepped.x + self.push, state=(0, stepped.state))


def test_planted_strays_are_counted_where_they_begin():
    """Four samples of two values; the third strays in step 2, the first in step 4, and both stay out."""
    times = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])
    answers = torch.zeros(4, 4, 2)
    answers[1:, 2, 0] = 2.0
    answers[3, 0, 1] = -3.0
    points = [Point(float(t), torch.zeros(4, 2), x0) for t, x0 in zip(times[:4], answers, strict=True)]
    assert first_strays(points, times, 1.25, 0.4) == {2: 1, 4: 1}
    assert first_strays(points, times, 1.25, 0.6) == {}
    again = [p for point in points for p in (point, Point(point.t - 0.05, point.x, point.x0))]
    assert first_strays(again, times, 1.25, 0.4) == {2: 1, 4: 1}, "a solver that asks twice a step has no other steps"


@pytest.mark.parametrize(("name", "time"), [("linear", 0.5), ("cosine", 0.5), ("edm", 1.0)])
def test_noise_equals_signal_where_both_are_as_large(name, time):
    path = PATHS[name]
    for steps in (1, 5, 16):
        times = GRIDS["log_snr"](path, steps)
        found = crossing(path, times)
        assert found.time == pytest.approx(time)
        assert found.of == steps
        assert float(times[found.step - 1]) >= found.time >= float(times[found.step])
