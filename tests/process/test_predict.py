import pytest
import torch

from ebb import testing
from ebb.errors import UsageError
from ebb.process import predict
from ebb.process.path import EDM, PATHS, Cosine, Linear
from ebb.process.predict import PREDICTIONS, Preconditioned, recover

MADE = PREDICTIONS


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MADE)
def test_recover_gives_x0_back(name, path):
    testing.check_prediction(MADE[name], PATHS[path])


def test_edm_is_karras_preconditioning():
    sigma_data, t = 0.5, torch.tensor([0.002, 1.0, 80.0], dtype=torch.float64)
    c_skip = sigma_data**2 / (t**2 + sigma_data**2)
    c_out = t * sigma_data / torch.sqrt(t**2 + sigma_data**2)
    x0, eps = torch.randn(2, 3, dtype=torch.float64)
    a, b = Preconditioned(sigma_data)(EDM(), t)
    torch.testing.assert_close(a * x0 + b * eps, (x0 - c_skip * (x0 + t * eps)) / c_out, rtol=1e-9, atol=1e-9)


def test_velocity_of_the_linear_path_is_noise_minus_data():
    a, b = predict.velocity(Linear(), torch.tensor([0.3], dtype=torch.float64))
    assert (a.item(), b.item()) == (-1, 1)


def test_velocity_and_v_are_proportional_on_the_cosine_path():
    t = torch.tensor([0.1, 0.6], dtype=torch.float64)
    for mine, theirs in zip(predict.velocity(Cosine(), t), predict.v(Cosine(), t), strict=True):
        torch.testing.assert_close(mine, torch.pi / 2 * theirs)


def test_noise_prediction_at_pure_noise_says_why_it_cannot():
    x, end = torch.zeros(2, 3), torch.ones(2, dtype=torch.float64)
    with pytest.raises(UsageError, match="noise prediction says nothing about x0 at t = 1"):
        recover(Linear(), predict.noise, x, x, end)


def test_the_other_targets_start_at_pure_noise():
    end, x0, eps = torch.ones(1, dtype=torch.float64), torch.full((1, 2), 0.5), torch.ones(1, 2)
    for prediction in (predict.data, predict.velocity, predict.v, Preconditioned(0.5)):
        a, b = prediction(Linear(), end)
        F = (a * x0 + b * eps).float()
        torch.testing.assert_close(recover(Linear(), prediction, eps, F, end), x0)


def test_a_mutant_target_is_caught():
    def wrong(path, t):  # the sign of a flipped
        a, b = predict.v(path, t)
        return -a, b

    x0, eps = torch.randn(2, 4, 3, dtype=torch.float64)
    t = testing.inside(Cosine(), 4)
    a, b = (c[:, None] for c in predict.v(Cosine(), t))
    with pytest.raises(AssertionError):
        testing.close("x0", recover(Cosine(), wrong, Cosine().mix(x0, eps, t), a * x0 + b * eps, t), x0, 1e-8)
