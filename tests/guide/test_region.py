import pytest
import torch

from ebb import testing
from ebb.errors import UsageError
from ebb.guide.cfg import cfg
from ebb.guide.compose import compose
from ebb.guide.region import regions
from ebb.process.exact import Gaussian
from ebb.process.path import PATHS, Linear

NULL = {"label": torch.tensor([2])}
ONE, OTHER = {"label": torch.tensor([0])}, {"label": torch.tensor([1])}

MEANS = torch.tensor([[0.7, -0.2, 0.1, 0.3], [0.5, 0.4, -0.8, 0.2], [0.1, 0.2, 0.0, -0.1]], dtype=torch.float64)
"""Of two conditions and of none, in four places of which the first two and the last two are independent."""


def covariance(shift):
    block = torch.tensor([[0.6, 0.2], [0.2, 0.5]], dtype=torch.float64) + shift * torch.eye(2, dtype=torch.float64)
    return torch.block_diag(block, 1.5 * block)


class Gaussians:
    def __init__(self, path):
        self.path, self.calls = path, 0

    def __call__(self, x, t, cond):
        self.calls += 1
        answers = [Gaussian(self.path, MEANS[i], covariance(0.1 * i))(x, t, {}) for i in range(3)]
        return torch.stack(answers)[cond["label"], torch.arange(len(x))]


LEFT = torch.tensor([1.0, 1.0, 0.0, 0.0])


def places(path):
    t = testing.inside(path, 5)
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x * path.norm(t)[:, None], t


def apart(path):
    """The density whose left half is that of the first condition and whose right half that of the second."""
    mean = torch.cat([MEANS[0, :2], MEANS[1, 2:]])
    whole = torch.block_diag(covariance(0.0)[:2, :2], covariance(0.1)[2:, 2:])
    return Gaussian(path, mean, whole)


def check_regions(guide, path):
    x, t = places(path)
    torch.testing.assert_close(guide(Gaussians(path))(x, t, {}), apart(path)(x, t, {}), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", PATHS)
def test_conditions_in_independent_halves_are_exact(path):
    check_regions(regions([(1.0, LEFT, ONE), (1.0, 1 - LEFT, OTHER)], NULL), PATHS[path])


@pytest.mark.parametrize(
    "wrong",
    [[(1.0, 1 - LEFT, ONE), (1.0, LEFT, OTHER)], [(1.0, LEFT, ONE)], [(1.1, LEFT, ONE), (1.0, 1 - LEFT, OTHER)]],
)
def test_the_oracle_rejects_swapped_missing_and_scaled_regions(wrong):
    with pytest.raises(AssertionError):
        check_regions(regions(wrong, NULL), Linear())


def test_masks_of_one_throughout_are_composition_and_one_term_is_guidance():
    path, whole = Linear(), torch.ones(1)
    x, t = places(path)
    both = regions([(1.5, whole, ONE), (-0.5, whole, OTHER)], NULL)(Gaussians(path))(x, t, {})
    torch.testing.assert_close(both, compose([(1.5, ONE), (-0.5, OTHER)], NULL)(Gaussians(path))(x, t, {}))
    one = regions([(2.5, whole, ONE)], NULL)(Gaussians(path))(x, t, {})
    label = {"label": torch.zeros(5).long()}
    torch.testing.assert_close(one, cfg(2.5, NULL)(Gaussians(path))(x, t, label))


def test_all_conditions_cost_one_call():
    path, plain = Linear(), Gaussians(Linear())
    regions([(1.0, LEFT, ONE), (2.0, 1 - LEFT, OTHER)], NULL)(plain)(*places(path), {})
    assert plain.calls == 1


def test_a_mask_of_another_shape_and_an_unknown_condition_are_refused():
    x, t = places(Linear())
    for mask in (torch.ones(3), torch.ones(2, 4), torch.ones(1, 5, 4)):
        with pytest.raises(UsageError, match="mask"):
            regions([(1.0, mask, ONE)], NULL)(Gaussians(Linear()))(x, t, {})
    with pytest.raises(UsageError, match="null"):
        regions([(1.0, LEFT, {"hue": torch.tensor([0])})], NULL)


def test_every_sample_can_have_a_mask_of_its_own():
    path = Linear()
    x, t = places(path)
    masks = torch.stack([LEFT, LEFT, 1 - LEFT, 1 - LEFT, LEFT])
    made = regions([(1.0, masks, ONE), (1.0, 1 - masks, OTHER)], NULL)(Gaussians(path))(x, t, {})
    left, right = (
        regions([(1.0, m, ONE), (1.0, 1 - m, OTHER)], NULL)(Gaussians(path))(x, t, {}) for m in (LEFT, 1 - LEFT)
    )
    torch.testing.assert_close(made, torch.where(torch.tensor([1, 1, 0, 0, 1])[:, None] > 0, left, right))
