"""A transformer of two streams, text and data, that attend to each other (Esser et al. 2024, MM-DiT, §4 and fig. 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.networks.attention import Attention, JointAttention, heads_of, rotation
from ebb.networks.blocks import answering, assembled, cut, zeroed
from ebb.networks.dit import mlp, modulated, whole_texts
from ebb.networks.embedder import Embedder
from ebb.networks.ports import NO_PORTS, Ports
from ebb.shapes import Float


class JointBlock(nn.Module):
    """One attention over both streams; all else, each stream has for itself, gated from 0 on as in DiT (adaLN-Zero).

    The `last` block leaves the text behind: nothing after it would hear what the text has gathered.
    """

    def __init__(self, width: int, head: int, last: bool = False) -> None:
        super().__init__()
        self.attention = JointAttention(width, head, last)
        self.data, self.text = zeroed(nn.Linear(width, 6 * width)), zeroed(nn.Linear(width, (2 if last else 6) * width))
        self.data_mlp, self.text_mlp = mlp(width), None if last else mlp(width)
        for side in (self.attention.data, self.attention.text):
            if isinstance(side, Attention):
                nn.init.xavier_uniform_(side.out.weight)  # the gates are what starts at 0 here

    def forward(
        self, text: Float[Tensor, "b m w"], x: Tensor, vector: Tensor, seen: Tensor, turn: Tensor
    ) -> tuple[Float[Tensor, "b m w"], Float[Tensor, "b n w"]]:
        """Both streams after attention and MLP; `seen` (bool [b, m + n]) and `turn` as in `JointAttention`."""
        of_text, of_x = (part(vector).split(x.shape[-1], -1) for part in (self.text, self.data))
        told, gathered = self.attention(modulated(text, *of_text[:2]), modulated(x, *of_x[:2]), seen, turn)
        if self.text_mlp is not None:
            text = gated(text, told, of_text[2:], self.text_mlp)
        return text, gated(x, gathered, of_x[2:], self.data_mlp)


def gated(x: Float[Tensor, "b n w"], mixed: Tensor, by: Sequence[Tensor], mlp: nn.Module) -> Float[Tensor, "b n w"]:
    """x + gate·mixed, then that plus gate·mlp(modulated), by (gate, shift, scale, gate)."""
    gate1, shift, scale, gate2 = by
    x = x + gate1[:, None] * mixed
    out: Tensor = x + gate2[:, None] * mlp(modulated(x, shift, scale))
    return out


class MMDiT(nn.Module):
    """x [b, channels, *size], time [b], cond → [b, channels, *size]: patches and text attend to each other, in any
    dimension and size.

    The text's rows and the patches are two streams with separate weights and one attention over both; patches are
    turned by their place. What else may be said in `cond` (see `ebb.networks.ports`) modulates both, with the pooled
    text. A port of pieces or states is needed. Outputs start at 0.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 192,
        depth: int = 6,
        patch: int = 4,
        head: int = 64,
        dims: int = 2,
        ports: Ports = NO_PORTS,
        answers: int = 1,
    ) -> None:
        super().__init__()
        self.embedding = whole_texts(Embedder(width, ports), "mmdit")
        if not self.embedding.length:
            raise UsageError("mmdit has a stream for text, and no text was given", "without text: dit")
        self.settings: dict[str, Any] = (
            {
                "channels": channels,
                "width": width,
                "depth": depth,
                "patch": patch,
                "head": head,
                "dims": dims,
            }
            | self.embedding.settings
            | answering(answers)
        )
        self.patch, self.turned = patch, width // heads_of(width, head)
        self.stem = nn.Linear((channels + self.embedding.beside) * patch**dims, width)
        self.blocks = nn.ModuleList(JointBlock(width, head, last=i == depth - 1) for i in range(depth))
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.out = zeroed(nn.Linear(width, answers * channels * patch**dims))

    def forward(
        self, x: Float[Tensor, "b c *size"], time: Float[Tensor, "b"], cond: Mapping[str, Tensor]
    ) -> Float[Tensor, "b k *size"]:
        """The network's output, of the input's size."""
        vector, text, seen = self.embedding(time, cond)
        rows, grid = cut(self.embedding.join(x, cond), self.patch)
        h, turn = self.stem(rows), rotation(grid, self.turned, rows.device)
        seen = F.pad(seen, (0, h.shape[1]), value=True)
        for block in self.blocks:
            text, h = block(text, h, vector, seen, turn)
        shift, scale = self.modulation(vector).chunk(2, -1)
        return assembled(self.out(modulated(h, shift, scale)), grid, self.patch, x.shape[2:])
