"""What a batch of a few-step model asks: shares, scales, and each sample's own target."""

import torch

from ebb.data.loader import Batch
from ebb.guide.distilled import GUIDANCE
from ebb.process.flow_map import Straight
from ebb.process.path import Linear
from ebb.train.objectives.map_matching import MapMatching, Target


class Constant:
    """x̂0 = 3."""

    path = Linear()

    def __call__(self, x, t, cond):
        return torch.full_like(x, 3.0)


class Seven(Target):
    """x̂0 = 7."""

    def __call__(self, flow_map, at, teacher):
        assert (at.s < at.t).all()
        return torch.full_like(at.x, 7.0)


def test_half_of_a_batch_is_told_the_lowest_scale_and_the_rest_any_up_to_the_highest():
    batch = Batch(torch.zeros(1000, 1), {"label": torch.zeros(1000)})
    heard = MapMatching(Seven(), guidance=(1.0, 3.0)).hearing(batch, (torch.arange(1000).double() + 0.5) / 1000)
    scales = 1 / (1 - heard[GUIDANCE])
    assert int((scales == 1).sum()) == 500
    torch.testing.assert_close(scales[500:].mean(), torch.tensor(2.0), atol=1e-3, rtol=0)
    assert 2.99 < float(scales.max()) <= 3
    assert set(MapMatching(Seven()).hearing(batch, torch.rand(1000))) == {"label"}


def test_every_sample_has_its_own_target():
    """A model that says 3 everywhere is right where the teacher is asked, and 4 away elsewhere."""
    model, generator = Straight(Constant()), torch.Generator().manual_seed(0)
    for still in (0.0, 0.25, 1.0):
        matching = MapMatching(Seven(), Constant(), still=still)
        loss = matching(model, Batch(torch.zeros(4000, 2), {}), generator).value
        assert abs(float(loss) / 16 - (1 - still)) < 0.03
