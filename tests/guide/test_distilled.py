"""A teacher's guidance, told by sample."""

from dataclasses import dataclass, field

import torch

from ebb.guide.distilled import GUIDANCE, TeachingGuidance, share_of
from ebb.process.path import Linear, Path


@dataclass
class Labelled:
    """x̂0 = x·label, and how many rows it was asked."""

    path: Path = Linear()
    asked: list[int] = field(default_factory=list)

    def __call__(self, x, t, cond):
        self.asked.append(len(x))
        return x * cond["label"][:, None] + t[:, None].to(x)


def test_each_sample_has_its_own_scale_and_only_the_guided_ones_are_asked_twice():
    denoiser, scales = Labelled(), torch.tensor([1.0, 2.0, 1.0, 3.5])
    x, t = torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    label = torch.tensor([5.0, 6.0, 7.0, 8.0])
    teacher = TeachingGuidance(denoiser, {"label": torch.tensor([0.5])})
    made = teacher(x, t, {"label": label, GUIDANCE: share_of(scales)})
    null, asked = x * 0.5 + t[:, None], x * label[:, None] + t[:, None]
    torch.testing.assert_close(made, (null + scales[:, None] * (asked - null)).float())
    assert denoiser.asked == [4 + 2]
