import pytest
import torch
from torch import nn

from ebb.errors import UsageError
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


class Quantised(nn.Module):
    """Weights in int8 and their scales; it remembers the x it was given."""

    def __init__(self, scales):
        super().__init__()
        self.weight = nn.Parameter(torch.randint(-9, 9, (4, 4), dtype=torch.int8), requires_grad=False)
        self.scales = nn.Parameter(torch.ones(4, 1, dtype=scales))

    def forward(self, x, time, cond):
        self.x = x
        return x @ (self.weight.to(x.dtype) * self.scales.to(x.dtype)).mT


class LowRank(nn.Module):
    """A layer in bf16 and, before it in memory, a low-rank part in float32; it remembers the x it was given."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(4, 1, bias=False), nn.Linear(1, 4, bias=False)
        self.base = nn.Linear(4, 4).bfloat16()

    def forward(self, x, time, cond):
        self.x = x
        return self.base(x) + self.up(self.down(x.float())).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_x_is_never_made_whole_numbers(dtype, generator):
    network, x = Quantised(dtype), torch.rand(2, 4, generator=generator)
    answer = NetworkDenoiser(network, Linear(), data)(x, torch.full((2,), 0.3).double(), {})
    assert network.x.dtype == dtype
    torch.testing.assert_close(network.x, x.to(dtype), rtol=0, atol=0)
    assert answer.dtype == torch.float32
    assert answer.abs().max() > 0.1


def test_a_network_of_several_types_states_which_it_computes_in(generator):
    network, x = LowRank(), torch.rand(2, 4, generator=generator)
    with pytest.raises(UsageError, match="bfloat16 and float32") as error:
        NetworkDenoiser(network, Linear(), data)
    assert "network.compute_dtype = torch.bfloat16" in str(error.value.hint)
    network.compute_dtype = torch.bfloat16
    answer = NetworkDenoiser(network, Linear(), data)(x, torch.full((2,), 0.3).double(), {})
    assert network.x.dtype == torch.bfloat16
    assert answer.dtype == torch.float32
    network.compute_dtype = None
    assert network.down.weight.dtype == torch.float32, "the mutant: the first parameter's type is another"


def test_a_network_that_is_converted_gets_its_new_type(generator):
    network, x, t = nn.Linear(2, 2), torch.rand(2, 2, generator=generator), torch.full((2,), 0.3).double()
    network.forward = lambda x, time, cond: nn.functional.linear(x, network.weight, network.bias)
    denoiser = NetworkDenoiser(network, Linear(), data)
    answers = [denoiser(x, t, {})]
    for dtype in (torch.float64, torch.bfloat16):
        denoiser.to(dtype)
        answers.append(denoiser(x, t, {}))
    assert {answer.dtype for answer in answers} == {torch.float32}
    torch.testing.assert_close(answers[1], answers[0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(answers[2], answers[0], atol=0.02, rtol=0.02)


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
