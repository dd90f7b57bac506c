"""A picture beside the one that is made, as a condition: a mask, a drawing, a depth map of the same scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ebb.errors import UsageError
from ebb.shapes import Float, sides


@dataclass(frozen=True)
class Beside:
    """Pictures of `shape` [c, h, w] that the field `name` named, folded by `factor` to the size of what is denoised."""

    name: str
    shape: tuple[int, int, int]
    factor: int = 1

    @property
    def channels(self) -> int:
        """Of what a network hears: c·factor²."""
        return self.shape[0] * self.factor**2

    def __str__(self) -> str:
        return f"{self.name}, a picture of {sides(self.shape[1:])} in {'grey' if self.shape[0] == 1 else 'colour'}"

    def __call__(self, pictures: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """The condition: places of factor × factor values become channels, and nothing is lost."""
        return F.pixel_unshuffle(pictures, self.factor)

    def null(self, count: int) -> Tensor:
        """`count` conditions that say nothing."""
        return self(torch.full((count, *self.shape), torch.nan))

    def given(self, pictures: Tensor, count: int) -> Float[Tensor, "b c h w"]:
        """Pictures in [−1, 1] for `count` samples: one, or one for each. Raises UsageError for what is not."""
        every = pictures[None] if pictures.ndim == 3 else pictures
        if every.shape[1:] != self.shape or len(every) not in (1, count) or not every.is_floating_point():
            raise UsageError(
                f"expected one picture for each of {count} images, floating {[count, *self.shape]}, or one for all;"
                f" got {str(pictures.dtype).removeprefix('torch.')} {list(pictures.shape)}"
            )
        if not bool((every.abs() <= 1).all()):  # NaN is neither
            raise UsageError("a picture has values from -1 to 1", "divide 8-bit values by 127.5 and subtract 1")
        return every.expand(count, *self.shape)

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes it again."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Beside:
        """The pictures of a contract. Raises KeyError, TypeError, ValueError where it holds none."""
        channels, height, width = map(int, found["shape"])
        return cls(str(found["name"]), (channels, height, width), int(found["factor"]))
