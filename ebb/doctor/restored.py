"""Pictures before and after an autoencoder, and what its decoder hears of each channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ebb.encode.autoencoder import Autoencoder
from ebb.networks.evaluating import evaluating
from ebb.shapes import Float
from ebb.understand.reconstruction import Reconstruction

RESTORED = 1024
"""Training pictures that go through the latents and back, at most."""

AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Restored:
    """Pictures [n, c, h, w] in [−1, 1], what comes back of them, and how the latents are used.

    `moved` says of each channel of the latents by how much of the pictures' deviation the answer moves when the channel
    alone is exchanged with another picture's.
    """

    x: Float[torch.Tensor, "n c h w"]
    back: Float[torch.Tensor, "n c h w"]
    moved: tuple[float, ...]
    reconstruction: Reconstruction

    @classmethod
    def of(cls, codec: Autoencoder, x: Float[torch.Tensor, "n c h w"]) -> Restored:
        """Pictures through an autoencoder and back."""
        device = next(codec.parameters()).device
        parts = x.to(device).split(AT_ONCE)  # type: ignore[no-untyped-call]
        with torch.no_grad(), evaluating(codec):
            back = torch.cat([codec.decode(codec.encode(part)).float() for part in parts])
            z = torch.cat([codec.encode(part) for part in parts[:1]])
            answer, deviation = codec.decode(z).float(), max(float(x.std()), 1e-6)
            moved = []
            for channel in range(codec.latent):
                other = z.clone()
                other[:, channel] = z.roll(1, 0)[:, channel]
                moved.append(float((codec.decode(other).float() - answer).square().mean().sqrt()) / deviation)
        return cls(x, back.cpu(), tuple(moved), Reconstruction.of(codec, parts))
