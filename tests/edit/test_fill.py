import pytest
import torch

from ebb import testing
from ebb.edit import fill as home
from ebb.edit.fill import canvas, fill
from ebb.errors import UsageError
from ebb.process.exact import Mixture
from ebb.process.path import Cosine, Linear
from ebb.process.times import LogSNR
from ebb.sample.ddim import DDPM
from ebb.sample.noise import Noise
from ebb.sample.scheme import Scheme
from ebb.sample.solvers import SOLVERS

MEANS = torch.randn(3, 1, 4, 5, generator=torch.Generator().manual_seed(0))
NEW = torch.zeros(4, 5, dtype=torch.bool)
NEW[1:3, 2:] = True


def data(path, std=0.3):
    return Mixture(path, MEANS, torch.full((3,), std), torch.full((3,), 1 / 3))


def check_known(solver, repeats):
    x0 = torch.linspace(-1, 1, 40).reshape(2, 1, 4, 5)
    made = fill(Scheme(data(Cosine()), SOLVERS[solver], LogSNR()(Cosine(), 4)), x0, NEW, {}, Noise.of(0, 2), repeats)
    if not torch.equal(made[..., ~NEW], x0[..., ~NEW]):
        raise AssertionError("what is known has changed")
    if bool((made[..., NEW] == x0[..., NEW]).any()):
        raise AssertionError("what is new has not")


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc"])
@pytest.mark.parametrize("repeats", [1, 3])
def test_what_is_known_is_kept_bit_for_bit(solver, repeats):
    check_known(solver, repeats)


def test_a_mask_the_wrong_way_round_is_caught(monkeypatch):
    right = home.inpaint
    monkeypatch.setattr(home, "inpaint", lambda known, mask: right(known, ~mask))
    with pytest.raises(AssertionError, match="known has changed"):
        check_known("ddim", 1)


def right_halves(repeats, count=200):
    """The share of pictures, all white or all black, whose unknown half is like the half that is known."""
    both = torch.tensor([[1.0], [-1.0]]).expand(2, 6)
    exact = Mixture(Linear(), both, torch.full((2,), 0.1), torch.full((2,), 0.5))
    new, x0 = torch.arange(6) >= 2, both[:1].repeat(count, 1)
    made = fill(Scheme(exact, DDPM(), LogSNR()(Linear(), 10)), x0, new, {}, Noise.of(0, count), repeats)
    return float((made[:, new].mean(1) > 0).float().mean())


def test_repeats_make_the_new_part_go_with_the_known_one():
    once, often = right_halves(1), right_halves(4)
    assert once < 0.85
    assert often > 0.9


def test_the_same_in_any_batch():
    def filled(indices):
        x0, noise = torch.stack([MEANS[i % 3] for i in indices]), Noise(tuple(5 + i for i in indices))
        return fill(Scheme(data(Linear()), DDPM(), LogSNR()(Linear(), 5)), x0, NEW, {}, noise, 2)

    testing.same_by_batch(filled, 6, 1e-5)


@pytest.mark.parametrize("size", [(5,), (3, 4), (2, 3, 4)])
def test_a_canvas_has_the_picture_in_the_middle_and_new_places_around_it(size):
    x0 = torch.randn(2, 3, *size)
    large, new = canvas(x0, 4)
    inside = tuple(slice(4, 4 + length) for length in size)
    assert large.shape[2:] == new.shape == tuple(length + 8 for length in size)
    assert torch.equal(large[(..., *inside)], x0)
    assert not new[inside].any()
    assert int((~new).sum()) == x0[0, 0].numel()


def test_a_border_of_nothing_is_refused():
    with pytest.raises(UsageError, match="border must be between 1 and 4,096, got 0"):
        canvas(torch.zeros(1, 1, 4, 4), 0)
