"""A transformer of two streams, text and data, that attend to each other (Esser et al. 2024, MM-DiT, §4 and fig. 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.networks.attention import Attention, JointAttention, heads_of, rotation
from ebb.networks.blocks import answering, cut, zeroed
from ebb.networks.dit import Transformer, mlp, modulated, whole_texts
from ebb.networks.embedder import Embedder
from ebb.networks.halves import Opened, Residuals
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

    def ending(self) -> JointBlock:
        """This as a last block, which gives the data the same; itself where it is one."""
        if self.text_mlp is None:
            return self
        own, width = self.state_dict(), self.text.in_features
        made = JointBlock(width, width // self.attention.data.heads, last=True).to(self.text.weight)
        own |= {name: own[name][: 2 * width] for name in ("text.weight", "text.bias")}
        own |= {f"attention.text.kv.{of}": own[f"attention.text.qkv.{of}"][width:] for of in ("weight", "bias")}
        made.load_state_dict({name: own[name] for name in made.state_dict()})
        return made


def gated(x: Float[Tensor, "b n w"], mixed: Tensor, by: Sequence[Tensor], mlp: nn.Module) -> Float[Tensor, "b n w"]:
    """x + gate·mixed, then that plus gate·mlp(modulated), by (gate, shift, scale, gate)."""
    gate1, shift, scale, gate2 = by
    x = x + gate1[:, None] * mixed
    out: Tensor = x + gate2[:, None] * mlp(modulated(x, shift, scale))
    return out


class MMDiT(Transformer):
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

    def opened(self, x: Float[Tensor, "b c *size"], time: Float[Tensor, "b"], cond: Mapping[str, Tensor], /) -> Opened:
        """What enters."""
        heard, (rows, grid) = self.embedding(time, cond), cut(self.embedding.join(x, cond), self.patch)
        return Opened(rows, heard, tuple(x.shape[2:]), grid, rotation(grid, self.turned, x.device))

    def copied(self) -> tuple[nn.Module, ...]:
        """A copy of the first half, of which the last block leaves the text behind."""
        *before, last = deepcopy(self.encoder)
        return (*before, last.ending() if isinstance(last, JointBlock) else last)

    def encoded(self, encoder: Sequence[nn.Module], h: Tensor, opened: Opened, residuals: Residuals, /) -> Tensor:
        """The patches' rows after some blocks; the text goes through them beside."""
        vector, text, seen = opened.heard
        seen = F.pad(seen, (0, h.shape[1]), value=True)
        for number, block in enumerate(encoder):
            text, h = block(text, h, vector, seen, opened.turn)
            h = residuals.across(number, residuals.onward(number, h))
        return h
