import math

import pytest
import torch

from ebb import testing
from ebb.edit import between as home
from ebb.edit.between import Between, blend, frames, slerp
from ebb.guide.cfg import cfg
from ebb.process.moment import at
from ebb.process.path import Linear
from ebb.sample.noise import START, Noise

SHARES = torch.linspace(0, 1, 5, dtype=torch.float64)


def check_arc(between):
    """Between two unit vectors at the angle θ, the unit vector at the angle s·θ from the first."""
    for theta in (0.3, math.pi / 2, 3.0):
        a, b = torch.tensor([1.0, 0.0]), torch.tensor([math.cos(theta), math.sin(theta)])
        angles = theta * SHARES
        expected = torch.stack([torch.cos(angles), torch.sin(angles)], 1)
        testing.close("the arc", between(a.expand(5, 2), b.expand(5, 2), SHARES).double(), expected, 1e-6)


def test_slerp_goes_along_the_circle_at_an_even_pace():
    check_arc(slerp)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a, b, s: torch.lerp(a, b, s[:, None].float()),
        lambda a, b, s: slerp(b, a, s),
        lambda a, b, s: slerp(a, b, s**2),
    ],
)
def test_another_way_is_caught(wrong):
    with pytest.raises(AssertionError, match="the arc: off by"):
        check_arc(wrong)


def test_the_ends_are_the_ends_bit_for_bit(generator):
    a, b = torch.randn(2, 3, 1, 4, 4, generator=generator)
    assert torch.equal(slerp(a, b, torch.zeros(3).double()), a)
    assert torch.equal(slerp(a, b, torch.ones(3).double()), b)


def test_where_there_is_no_arc_it_is_the_line():
    a = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0]])
    b = torch.tensor([[2.0, 4.0], [-1.0, -2.0], [3.0, 1.0]])
    middle = slerp(a, b, torch.full((3,), 0.5).double())
    testing.close("the line", middle[:2], torch.tensor([[1.5, 3.0], [0.0, 0.0]]), 1e-6)
    assert torch.isfinite(middle).all()


def test_noise_between_two_seeds_is_noise_and_theirs_at_the_ends():
    like, shares = torch.empty(3, 20, 50), (0.0, 0.4, 1.0)
    noise = Between((3, 11), shares)
    for step, part in ((START, 0), (2, 1)):
        drawn = noise(step, like, part)
        for row, seed in ((0, 3), (2, 11)):
            assert torch.equal(drawn[row], Noise((seed,))(step, like[:1], part)[0])
        assert float(drawn[1].mean()) == pytest.approx(0, abs=4 / math.sqrt(1000))
        assert float(drawn[1].std()) == pytest.approx(1, abs=4 / math.sqrt(2 * 1000))
        alone = Between((3, 11), (0.4,))(step, like[:1], part)
        torch.testing.assert_close(alone[0], drawn[1], rtol=0, atol=1e-6)


def test_noise_along_a_line_is_too_quiet(monkeypatch):
    monkeypatch.setattr(home, "slerp", lambda a, b, s: torch.lerp(a, b, s.reshape(-1, 1, 1).float()))
    with pytest.raises(AssertionError):
        test_noise_between_two_seeds_is_noise_and_theirs_at_the_ends()


def test_a_blend_is_one_condition_at_each_end_and_their_mean_in_the_middle():
    path, null = Linear(), {"label": torch.tensor([2])}
    first, second = {"label": torch.tensor([0])}, {"label": torch.tensor([1])}
    plain, x, t = testing.TwoLabels(path), torch.linspace(-1, 1, 6).double()[:, None], at(path, 0.6).shared(6)
    one, other, nothing = (plain(x, t, {"label": torch.full((6,), k)}) for k in (0, 1, 2))
    for scale in (1.0, 2.5):
        ends = [blend(first, second, share, null, scale)(plain)(x, t, {}) for share in (0.0, 0.25, 1.0)]
        for end, label in ((ends[0], 0), (ends[2], 1)):
            torch.testing.assert_close(end, cfg(scale, null)(plain)(x, t, {"label": torch.full((6,), label)}))
        torch.testing.assert_close(ends[1], nothing + scale * (0.75 * one + 0.25 * other - nothing))
        assert not torch.allclose(ends[1], nothing + scale * (0.25 * one + 0.75 * other - nothing))


def test_frames_go_evenly_from_0_to_1():
    assert frames(2) == (0.0, 1.0)
    assert frames(5) == (0.0, 0.25, 0.5, 0.75, 1.0)
