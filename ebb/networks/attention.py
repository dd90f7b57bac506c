"""Attention: among places, from places to the rows of a text, over both together; places are told by rotation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from ebb.errors import UsageError
from ebb.networks.blocks import zeroed
from ebb.shapes import Float

SMALL = 96
"""Keys up to which a CPU attends faster in plain products than in torch's flash kernel: 2.6 times at 27, 2 at 64."""


def heads_of(width: int, head: int) -> int:
    """How many heads of about `head` numbers a width has; raises UsageError where it does not split evenly."""
    heads = max(1, width // head)
    if width % heads:
        raise UsageError(f"attention of width {width} does not split into {heads} heads")
    return heads


Change = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(score, sample, head, query, key) → another score; the last four are indices."""

CHANGE: Change | None = None
"""Of every attention in this process (see `rescored`); a plain name, which a compiler can guard."""


@contextmanager
def rescored(change: Change) -> Iterator[None]:
    """While it lasts attention in ebb's networks is softmax(change(QKᵀ/√d))V, by FlexAttention (Dong et al. 2024).

    A key may so be turned up or down, or seen from near only, in a network that knows nothing of it; keys that are not
    seen stay unseen. On a CPU torch computes it forwards only. `ebb.attention_maps` does not see it.
    """
    global CHANGE
    before, CHANGE = CHANGE, change
    try:
        yield
    finally:
        CHANGE = before


def flexible(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, change: Change) -> Tensor:
    """softmax(change(QKᵀ/√d))V [b, heads, n, d] over the keys `seen`. Raises UsageError for gradients on a CPU."""
    if q.device.type == "cpu" and torch.is_grad_enabled() and any(part.requires_grad for part in (q, k, v)):
        raise UsageError("FlexAttention has no gradients on a CPU", "sample inside torch.no_grad(), or train on a GPU")
    heard = torch.ones_like(k[:, 0, :, 0], dtype=torch.bool) if seen is None else seen
    out: Tensor = flex_attention(
        q, k, v, lambda score, b, h, i, j: torch.where(heard[b, j], change(score, b, h, i, j), -torch.inf)
    )
    return out


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Float[Tensor, "b n w"]:
    """softmax(QKᵀ/√d)V of every head, q [b, heads, n, d], k and v [b, heads, m, d], the heads side by side.

    Keys that are not `seen` (bool [b, m], at least one in every row) count for nothing. `rescored` changes the scores.
    """
    if CHANGE is not None:
        return flexible(q.to(v.dtype), k.to(v.dtype), v, seen, CHANGE).transpose(1, 2).flatten(2)
    mask = None if seen is None else seen[:, None, None]
    small = k.shape[2] <= SMALL and q.device.type == "cpu" and not torch.compiler.is_compiling()
    with sdpa_kernel(SDPBackend.MATH) if small else nullcontext():
        return F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, mask).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head self-attention over rows [b, n, width], queries and keys normalised (Dehghani et al. 2023, §3)."""

    def __init__(self, width: int, head: int = 64) -> None:
        super().__init__()
        self.heads = heads_of(width, head)
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q, self.norm_k = nn.RMSNorm(width // self.heads), nn.RMSNorm(width // self.heads)
        self.out = zeroed(nn.Linear(width, width))

    def split(self, x: Float[Tensor, "b n w"], rotation: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [b, heads, n, d]; `rotation` turns queries and keys by place (see `rotate`)."""
        q, k, v = torch.unflatten(self.qkv(x), -1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = normalised(q, self.norm_q), normalised(k, self.norm_k)
        if rotation is not None:
            q, k = rotate(q, rotation).to(v.dtype), rotate(k, rotation).to(v.dtype)
        return q, k, v

    def forward(
        self, x: Float[Tensor, "b n w"], rotation: Tensor | None = None, seen: Tensor | None = None
    ) -> Float[Tensor, "b n w"]:
        """softmax(QKᵀ/√d)V over the rows that are `seen` (bool [b, n]), or over all."""
        out: Tensor = self.out(attend(*self.split(x, rotation), seen))
        return out


class Keys(nn.Module):
    """Rows [b, m, inside] as keys and values [b, heads, m, width/heads], for those who only listen to them."""

    def __init__(self, inside: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.kv = nn.Linear(inside, 2 * width)
        self.norm_k = nn.RMSNorm(width // heads)

    def forward(self, rows: Float[Tensor, "b m u"]) -> tuple[Tensor, Tensor]:
        """Normalised keys, and values."""
        k, v = torch.unflatten(self.kv(rows), -1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return normalised(k, self.norm_k), v


class CrossAttention(nn.Module):
    """Places [b, n, width] ask rows [b, m, inside]; queries and keys normalised. The output starts at 0."""

    def __init__(self, width: int, inside: int, head: int = 64) -> None:
        super().__init__()
        self.heads = heads_of(width, head)
        self.q = nn.Linear(width, width)
        self.norm_q = nn.RMSNorm(width // self.heads)
        self.rows = Keys(inside, width, self.heads)
        self.out = zeroed(nn.Linear(width, width))

    def forward(
        self, x: Float[Tensor, "b n w"], rows: Float[Tensor, "b m u"], seen: Tensor, rotation: Tensor | None = None
    ) -> Float[Tensor, "b n w"]:
        """softmax(QKᵀ/√d)V with Q of the places, K and V of the rows that are `seen` (bool [b, m]).

        `rotation` turns the queries by place and not the keys, so that a row can be looked at from some places only.
        """
        q = normalised(torch.unflatten(self.q(x), -1, (self.heads, -1)).transpose(1, 2), self.norm_q)
        k, v = self.rows(rows)
        out: Tensor = self.out(attend(q if rotation is None else rotate(q, rotation), k, v, seen))
        return out


class JointAttention(nn.Module):
    """Attention over the rows of a text and the places of the data together, each with weights of its own
    (Esser et al. 2024, fig. 2b). With `last` the text is listened to and asks no more."""

    def __init__(self, width: int, head: int = 64, last: bool = False) -> None:
        super().__init__()
        self.data = Attention(width, head)
        self.text: Attention | Keys = Keys(width, width, self.data.heads) if last else Attention(width, head)

    def forward(
        self, text: Float[Tensor, "b m w"], data: Float[Tensor, "b n w"], seen: Tensor, rotation: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """What the text (None if it does not ask) and the data gather from all that is `seen` (bool [b, m + n])."""
        q, k, v = self.data.split(data, rotation)
        *asked, of_text, said = self.text.split(text) if isinstance(self.text, Attention) else self.text(text)
        k, v = torch.cat([of_text, k], 2), torch.cat([said, v], 2)
        mixed = attend(torch.cat([*asked, q], 2), k, v, seen)
        if not isinstance(self.text, Attention):
            return None, self.data.out(mixed)
        return self.text.out(mixed[:, : text.shape[1]]), self.data.out(mixed[:, text.shape[1] :])


def normalised(x: Float[Tensor, "*b d"], norm: nn.RMSNorm) -> Float[Tensor, "*b d"]:
    """`norm` of x with its weight in the type of x: torch has a fused kernel for one type only."""
    weight = norm.weight.to(x.dtype)
    return F.rms_norm(x, weight.shape, weight, norm.eps)


def rotation(grid: Sequence[int], head: int, device: torch.device) -> Tensor:
    """Rotary positions of tokens on a grid of any dimension: (cos, sin) [n, head/2, 2] (Su et al. 2021, axial).

    Each axis turns an equal share of the pairs, with periods from 2π to 2π·100 tokens; pairs left over stay still.
    """
    share = head // (2 * len(grid))
    speed = 100.0 ** -torch.linspace(0, 1, share, device=device)
    places = torch.cartesian_prod(*(torch.arange(size, device=device) for size in grid)).reshape(-1, len(grid))
    angles = (places[..., None] * speed).flatten(1)
    angles = F.pad(angles, (0, head // 2 - angles.shape[1]))
    return torch.stack([torch.cos(angles), torch.sin(angles)], -1)


def rotate(x: Tensor, by: Tensor) -> Tensor:
    """Neighbouring pairs (a, b) of the last axis, turned: (a·cos − b·sin, a·sin + b·cos), (cos, sin) in `by`; float32.

    That is a product of complex numbers, for which torch has one vectorised pass on a CPU, ten times as fast as the
    sums. Compilers fuse the sums, and what a network is exported to has no complex numbers.
    """
    pairs = torch.unflatten(x.float(), -1, (-1, 2))
    if not torch.compiler.is_compiling():
        return torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(by)).flatten(-2)
    (a, b), (cos, sin) = pairs.unbind(-1), by.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
