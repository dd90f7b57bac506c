import importlib.util
import runpy
from pathlib import Path

import pytest
import torch

import ebb
from ebb.data.loader import Batch

EXAMPLES = Path(__file__).parents[1] / "examples"


def minimal():
    spec = importlib.util.spec_from_file_location("minimal", EXAMPLES / "minimal.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_minimal_is_one_short_file_of_its_own():
    text = (EXAMPLES / "minimal.py").read_text()
    assert len(text.splitlines()) <= 150
    assert "import ebb" not in text


def test_minimal_states_the_same_mathematics():
    """Same weights, same noise: the loss, the denoiser and the samples are ebb's numbers."""
    m = minimal()
    torch.manual_seed(0)
    network = m.Network()
    model = ebb.NetworkDenoiser(network, ebb.Linear(), ebb.velocity)
    network.forward = lambda x, t, cond=None: m.Network.forward(network, x, t)
    x0 = m.moons(64, torch.Generator().manual_seed(1))
    mine = m.loss_of(network, x0, torch.Generator().manual_seed(2))
    ours = ebb.Denoising()(model, Batch(x0, {}), torch.Generator().manual_seed(2)).value
    torch.testing.assert_close(mine, ours, rtol=1e-5, atol=1e-6)
    x, t = torch.randn(5, 2), torch.linspace(0.1, 1, 5)
    torch.testing.assert_close(m.recover(x, network(x, t), t), model(x, t.double(), {}), rtol=1e-5, atol=1e-6)
    noise = ebb.Noise.of(0, 8)
    start, times = noise.start((2,)), ebb.GRIDS["uniform"](model.path, 16)
    *_, last = ebb.trajectory(model, ebb.Heun(), times, start, {}, noise)
    made = m.heun(lambda x, t: m.recover(x, network(x, t), t), start)
    torch.testing.assert_close(made, last.x, rtol=1e-4, atol=1e-4)


@pytest.mark.full
def test_own_tensors_in_few_lines(capsys):
    lines = [
        line for line in (EXAMPLES / "own_tensors.py").read_text().splitlines() if line and not line.startswith('"""')
    ]
    training = lines[: next(i for i, line in enumerate(lines) if line.startswith("noise"))]
    assert len(training) <= 15
    torch.manual_seed(0)
    made = runpy.run_path(str(EXAMPLES / "own_tensors.py"))
    assert made["x"].T.cov().flatten().tolist() == pytest.approx(made["data"].T.cov().flatten().tolist(), abs=0.25)
    assert capsys.readouterr().out.count("\n") == 5
