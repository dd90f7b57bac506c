import pytest
import torch
from torch import nn

from ebb.process.denoiser import CLOCKS, NetworkDenoiser, fraction, quarter_log_nsr
from ebb.process.path import EDM, PATHS, Cosine, Linear
from ebb.process.predict import PREDICTIONS, Preconditioned, data, velocity


class Recorder(nn.Module):
    """Outputs F such that x0 is 0.25 everywhere, and remembers what it was given."""

    def __init__(self, path, prediction):
        super().__init__()
        self.path, self.prediction = path, prediction

    def forward(self, x, time, cond):
        self.x, self.time = x, time
        return torch.zeros_like(x)


def test_input_scale_gives_unit_variance(generator):
    network = Recorder(Linear(), velocity)
    denoiser = NetworkDenoiser(network, Linear(), velocity, sigma_data=0.3)
    for when in (0.05, 0.5, 0.95):
        t = torch.full((20_000,), when, dtype=torch.float64)
        x = Linear().mix(*(s * torch.randn(20_000, 1, generator=generator) for s in (0.3, 1.0)), t)
        denoiser.raw(x, t, {})
        assert network.x.std().item() == pytest.approx(1, abs=0.02)


def test_edm_denoiser_is_karras_equation_seven():
    """D = c_skip·x + c_out·F(c_in·x, c_noise)."""
    network, t = nn.Identity(), torch.tensor([0.5], dtype=torch.float64)
    network.forward = lambda x, time, cond: 2 * x + time[:, None]
    denoiser = NetworkDenoiser(network, EDM(), Preconditioned(0.5), quarter_log_nsr, sigma_data=0.5)
    x, s, sd = torch.tensor([[0.8]]), 0.5, 0.5
    c_skip, c_out, c_in = sd**2 / (s**2 + sd**2), s * sd / (s**2 + sd**2) ** 0.5, 1 / (s**2 + sd**2) ** 0.5
    expected = c_skip * x + c_out * (2 * c_in * x + torch.log(torch.tensor(s)) / 4)
    torch.testing.assert_close(denoiser(x, t, {}), expected)


def test_a_half_precision_network_still_answers_in_float32():
    network = nn.Linear(4, 4).bfloat16()
    network.forward = lambda x, time, cond: nn.functional.linear(x, network.weight, network.bias)
    answer = NetworkDenoiser(network, Cosine(), data)(torch.randn(2, 4), torch.tensor([0.2, 0.3]).double(), {})
    assert answer.dtype == torch.float32


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("clock", CLOCKS)
def test_clocks_are_finite_and_run_with_the_noise(clock, path):
    told = CLOCKS[clock](PATHS[path], torch.linspace(1, 1e-5, 50, dtype=torch.float64) * PATHS[path].end)
    assert torch.isfinite(told).all()
    assert (told.diff() <= 0).all()
    assert fraction(EDM(), torch.tensor([40.0])).tolist() == [0.5]


@pytest.mark.parametrize("name", ["data", "velocity", "v"])
def test_the_answer_is_recovered_from_f(name):
    prediction, t = PREDICTIONS[name], torch.tensor([0.4], dtype=torch.float64)
    x0, eps = torch.tensor([[0.3, -0.2]]), torch.tensor([[1.0, 0.5]])
    a, b = prediction(Cosine(), t)
    network = nn.Identity()
    network.forward = lambda x, time, cond: (a * x0 + b * eps).float()
    torch.testing.assert_close(NetworkDenoiser(network, Cosine(), prediction)(Cosine().mix(x0, eps, t), t, {}), x0)
