"""A picture that samples are to be like, as a condition: a prompt that is seen and not read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ebb.encode.picture import Picture
from ebb.networks.ports import Port, VectorPort
from ebb.shapes import Float


@dataclass(frozen=True)
class ReferencePicture:
    """Pictures of `shape` [c, h, w], asked for by a file, or as a tensor in [−1, 1]; NaN where there is none.

    Other than a `Picture` it is not beside x: no place of it belongs to a place of x.
    """

    shape: tuple[int, int, int]

    turns = ()

    @property
    def picture(self) -> Picture:
        """How it is read."""
        return Picture(self.shape)

    @property
    def port(self) -> Port:
        """All its numbers."""
        channels, height, width = self.shape
        return VectorPort(channels * height * width)

    def __str__(self) -> str:
        return f"{self.picture} as a reference"

    def given(self, asked: Any, count: int) -> Any:
        """Files, or tensors; raises as `Picture.given`."""
        return self.picture.given(asked, count)

    def __call__(self, given: Any) -> Float[Tensor, "b c h w"]:
        """The pictures; files are scaled to cover [h, w] and cropped at the centre. Raises DataError for no picture."""
        return self.picture(given)

    def examples(self) -> Tensor:
        """Black and white."""
        return self.picture.examples()

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes it again."""
        return {"shape": list(self.shape)}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> ReferencePicture:
        """The pictures of a contract. Raises KeyError, TypeError, ValueError where it holds none."""
        channels, height, width = map(int, found["shape"])
        return cls((channels, height, width))
