"""A codebook: vectors replaced by the nearest of a few that are learnt as running means."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.shapes import Float, Int

DEAD = 0.03
"""A code is dead when it stands for less than this share of what it would if all were used alike."""


def perplexity(counts: Float[Tensor, "codes"]) -> Float[Tensor, ""]:
    """exp of the entropy of the shares counts/Σ counts: as many codes, used alike, would be as hard to guess.

    1 where nothing was counted.
    """
    share = counts / counts.sum().clamp(min=torch.finfo(counts.dtype).tiny)
    even: Tensor = torch.special.entr(share).sum().exp()
    return even


class Codebook(nn.Module):
    """`codes` vectors e_k = m_k/N_k of `width` numbers, each the running mean of the vectors that were nearest to it.

    With n_k of the current vectors z nearest to e_k (van den Oord et al. 2017, appendix A.1, γ = `decay`):

        N_k ← γ·N_k + (1 − γ)·n_k,    m_k ← γ·m_k + (1 − γ)·Σ z nearest to e_k.

    Nearest in plain Euclidean distance: then each step is one of k-means, whose fixed point is the mean of what a code
    stands for. No gradient reaches the codes, and they are all 0 until the first `learn`.
    """

    counts: Tensor
    sums: Tensor

    def __init__(self, codes: int, width: int, decay: float = 0.99) -> None:
        super().__init__()
        if codes < 2 or not 0 < decay < 1:
            raise UsageError(f"a codebook has 2 or more codes and 0 < decay < 1, got {codes} and {decay:g}")
        self.codes, self.width, self.decay = codes, width, decay
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, width))

    @property
    def vectors(self) -> Float[Tensor, "codes width"]:
        """The codes."""
        return self.sums / self.counts.clamp(min=torch.finfo(self.counts.dtype).tiny)[:, None]

    def nearest(self, rows: Float[Tensor, "n width"]) -> Int[Tensor, "n"]:
        """argmin_k |z − e_k|² = argmin_k (|e_k|² − 2·z·e_k) of each row, float32 also under autocast."""
        vectors = self.vectors
        with torch.autocast(rows.device.type, enabled=False):
            return torch.addmm(vectors.square().sum(1), rows.detach().float(), vectors.T, alpha=-2).argmin(1)

    def forward(
        self, z: Float[Tensor, "b width *size"]
    ) -> tuple[Float[Tensor, "b width *size"], Int[Tensor, "b *size"]]:
        """(z with each vector replaced by its code, the code's number).

        Backwards the replacement is the identity: z gets the gradient of its code (van den Oord et al. 2017, §3.2).
        """
        places = z.movedim(1, -1)
        index = self.nearest(places.reshape(-1, self.width)).reshape(places.shape[:-1])
        q = self.vectors[index].movedim(-1, 1)
        return z + (q - z).detach(), index

    @torch.no_grad()
    def learn(self, z: Float[Tensor, "b width *size"], generator: torch.Generator) -> None:
        """One update from the vectors of z, after dead codes have been moved onto some of them, drawn by `generator`.

        At first all are dead, so the codes begin as vectors of the first batch. A z whose squares
        do not add up to a finite number changes nothing.
        """
        rows = z.movedim(1, -1).reshape(-1, self.width).float()
        sound, fair = rows.square().sum().isfinite(), len(rows) / self.codes  # then so are all products below
        drawn = torch.randperm(len(rows), generator=generator, device=generator.device).to(rows.device)
        picked = rows[drawn[torch.arange(self.codes, device=rows.device) % len(rows)]]
        self.move(sound & (self.counts <= DEAD * fair), torch.full_like(self.counts, fair), picked * fair)
        chosen = (self.nearest(rows)[:, None] == torch.arange(self.codes, device=rows.device)).float()
        with torch.autocast(rows.device.type, enabled=False):
            sums = chosen.T @ rows  # a product, not a scatter: the same bits every time, on a GPU too
        keep = self.decay
        self.move(sound, keep * self.counts + (1 - keep) * chosen.sum(0), keep * self.sums + (1 - keep) * sums)

    def move(self, where: Tensor, counts: Float[Tensor, "codes"], sums: Float[Tensor, "codes width"]) -> None:
        """Set the counts and sums of the codes `where` is True, [] or [codes]; nothing waits for it."""
        self.counts.copy_(torch.where(where, counts, self.counts))
        self.sums.copy_(torch.where(where[..., None], sums, self.sums))
