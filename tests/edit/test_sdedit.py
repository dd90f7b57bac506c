import math

import pytest
import torch

from ebb import testing
from ebb.edit import sdedit as home
from ebb.edit.sdedit import sdedit, steps_for
from ebb.errors import UsageError
from ebb.process.exact import Mixture
from ebb.process.moment import Moment, at, combine
from ebb.process.path import PATHS, Cosine, Linear
from ebb.process.times import LogSNR, uniform_grid
from ebb.sample.ddim import DDIM
from ebb.sample.dpm_sde import DPMpp2MSDE
from ebb.sample.heun import Heun
from ebb.sample.noise import Noise
from ebb.sample.scheme import Scheme

from .known import Given, axes

X0 = torch.tensor([[1.2, -0.9]], dtype=torch.float64)


def check_law(path, strength, steps=30):
    """Mean m + α·G·(x0 − m) and covariance σ²·G·Gᵀ, G = S^½·(α²S + σ²I)^−½, of the edits of a Gaussian's sample."""
    gauss, times = testing.normal(path), testing.graded(path, steps)
    ends = sdedit(Scheme(gauss, Heun(), times), X0.expand(3, 2), {}, Given(axes(2)), strength)
    mean, root = ends[0], (ends[1:] - ends[0]).T
    now = at(path, float(times[steps - round(strength * steps)]))
    values, vectors = torch.linalg.eigh(gauss.covariance)
    gain = vectors @ torch.diag(torch.sqrt(values / (now.alpha**2 * values + now.sigma**2))) @ vectors.T
    testing.close("the mean", mean, gauss.mean + now.alpha * gain @ (X0[0] - gauss.mean), 5e-3)
    testing.close("the covariance", root @ root.T, now.sigma**2 * gain @ gain.T, 5e-3)


@pytest.mark.parametrize(("path", "strength"), [*((path, 0.3) for path in PATHS), ("cosine", 0.8), ("edm", 0.6)])
def test_the_edits_of_a_gaussian_have_their_closed_form(path, strength):
    check_law(PATHS[path], strength)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("mix", lambda self, x0, eps: combine((1.0, x0), (self.sigma, eps))),
        ("mix", lambda self, x0, eps: combine((self.alpha, x0), (1.1 * self.sigma, eps))),
        ("jump", lambda self, x, x0, s: combine((s.sigma / self.sigma, x), (s.alpha, x0))),
    ],
)
def test_noise_put_on_wrongly_is_caught(name, wrong, monkeypatch):
    monkeypatch.setattr(Moment, name, wrong)
    with pytest.raises(AssertionError, match="off by"):
        check_law(Cosine(), 0.3)


def test_a_start_at_another_time_is_caught(monkeypatch):
    monkeypatch.setattr(home, "steps_for", lambda strength, steps: math.floor(strength**2 * steps))
    with pytest.raises(AssertionError, match="off by"):
        check_law(Cosine(), 0.7)


def test_strength_is_the_share_of_the_steps():
    assert [steps_for(share, 10) for share in (0, 0.04, 0.05, 0.24, 0.25, 0.7, 0.96, 1)] == [0, 0, 1, 2, 3, 7, 10, 10]
    asked = []

    class Counted:
        path = Linear()

        def __call__(self, x, t, cond):
            asked.append(float(t[0]))
            return x

    times = uniform_grid(Linear(), 10)
    sdedit(Scheme(Counted(), DDIM(), times), X0, {}, Given(X0), 0.3)
    assert asked == pytest.approx([0.3, 0.2, 0.1])


@pytest.mark.parametrize("path", ["cosine", "edm", "ddpm_linear"])
def test_strength_0_is_the_picture_and_1_a_fresh_sample(path):
    gauss, noise = testing.normal(PATHS[path]), Noise.of(3, 1)
    scheme = Scheme(gauss, Heun(), LogSNR()(PATHS[path], 8))
    assert torch.equal(sdedit(scheme, X0, {}, noise, 0.0), X0)
    whole = scheme.fresh(torch.empty_like(X0), {}, noise)
    assert torch.equal(sdedit(scheme, X0, {}, noise, 1.0), whole)
    assert not torch.equal(sdedit(scheme, X0, {}, noise, 0.9), whole)


@pytest.mark.parametrize("strength", [-0.1, 1.01, math.nan])
def test_a_strength_that_is_no_share_is_refused(strength):
    with pytest.raises(UsageError, match=r"from 0 \(the picture itself\) to 1"):
        sdedit(Scheme(testing.normal(Linear()), DDIM(), uniform_grid(Linear(), 4)), X0, {}, Noise.of(0, 1), strength)


def test_an_edit_is_the_same_in_any_batch_and_shape():
    path, means = Cosine(), torch.randn(3, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    data = Mixture(path, means, torch.full((3,), 0.3), torch.full((3,), 1 / 3))

    def edited(indices):
        x0, noise = torch.stack([means[i % 3] for i in indices]), Noise(tuple(7 + i for i in indices))
        return sdedit(Scheme(data, DPMpp2MSDE(), LogSNR()(path, 6)), x0, {}, noise, 0.5)

    testing.same_by_batch(edited, 6, 1e-5)
