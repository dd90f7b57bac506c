"""A denoiser that knows the answer."""

import torch

from ebb.process.path import Linear


class Fixed(torch.nn.Module):
    """It gives one x̂0, whatever it is asked."""

    takes_moments = False
    path = Linear()

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, t, cond):
        return self.answer
