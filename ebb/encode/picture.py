"""A picture beside the one that is made, as a condition: a mask, a drawing, a depth map of the same scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ebb.data.extractors import extracted
from ebb.data.pictures import opened, to_unit
from ebb.encode.condition import each
from ebb.errors import DataError, UsageError
from ebb.networks.ports import MapPort, Port
from ebb.shapes import Float, sides

MAP = "map:"
"""Before the name of a file that shows what an extractor would find."""


@dataclass(frozen=True)
class Picture:
    """Pictures of `shape` [c, h, w], folded by `factor` to the size of what is denoised.

    One is asked for by its file, or as a tensor in [−1, 1]. With an `extractor` (`ebb.data.extractors`) it is what that
    finds in the picture of the file, of `of` channels, such as its edges; one that is this already is named map:FILE.
    One that is `whole` is neither cropped nor enlarged: another is refused.
    """

    shape: tuple[int, int, int]
    factor: int = 1
    extractor: str | None = None
    of: int = 3
    whole: bool = False

    turns = ()

    @property
    def port(self) -> Port:
        """c·factor² channels beside x."""
        return MapPort(self.shape[0] * self.factor**2)

    def __str__(self) -> str:
        if self.extractor:
            return f"a picture of {sides(self.shape[1:])} or more, of which {self.extractor} are found"
        return f"a picture of {sides(self.shape[1:])} in {'grey' if self.shape[0] == 1 else 'colour'}"

    def given(self, asked: Any, count: int) -> Any:
        """Files, or tensors. Raises DataError for a file that is not there, UsageError for another tensor."""
        if isinstance(asked, Tensor):
            return self.checked(asked[None] if asked.ndim == 3 else asked, count)
        every = each(asked, count, "picture", str | Path | Tensor)
        for file in {str(one).removeprefix(self.as_map) for one in every if isinstance(one, str | Path)}:
            if not Path(file).is_file():
                raise DataError(f"there is no picture {file}", "name a file")
        return [self.checked(one[None], 1)[0] if isinstance(one, Tensor) else one and str(one) for one in every]

    def checked(self, pictures: Tensor, count: int) -> Float[Tensor, "b c h w"]:
        """Pictures in [−1, 1] for `count` samples: one, or one for each. Raises UsageError for what is not."""
        if pictures.shape[1:] != self.shape or len(pictures) not in (1, count) or not pictures.is_floating_point():
            raise UsageError(
                f"expected one picture for each of {count} images, floating {[count, *self.shape]}, or one for all;"
                f" got {str(pictures.dtype).removeprefix('torch.')} {list(pictures.shape)}"
            )
        if not bool((pictures.abs() <= 1).all()):  # NaN is neither
            raise UsageError("a picture has values from -1 to 1", "divide 8-bit values by 127.5 and subtract 1")
        return pictures.expand(count, *self.shape)

    def __call__(self, given: Any) -> Float[Tensor, "b d h2 w2"]:
        """Places of factor × factor values become channels, and nothing is lost; NaN where there is no picture.

        Files are scaled to cover [h, w] and cropped at the centre. Raises DataError for what is no picture.
        """
        every = given[:]  # pictures of data are read here
        if isinstance(every, Tensor):
            return F.pixel_unshuffle(every, self.factor)
        files = list(dict.fromkeys(one for one in every if isinstance(one, str)))
        read: dict[str | None, Tensor] = {file: self.read(file) for file in files}
        read[None] = torch.full(self.shape, torch.nan)
        return self(torch.stack([one if isinstance(one, Tensor) else read[one] for one in every]))

    @property
    def as_map(self) -> str:
        """What stands before the name of a file that is not to be extracted from."""
        return MAP if self.extractor else ""

    def read(self, file: str) -> Float[Tensor, "c h w"]:
        """The picture of a file, or what the extractor finds in it."""
        if not self.extractor or file.startswith(MAP):
            return opened([file.removeprefix(self.as_map)], self.shape, whole=self.whole)[0]
        seen = opened([file], (self.of, *self.shape[1:]), whole=self.whole)
        pixels = ((seen + 1) * 127.5).round().byte().numpy()
        return to_unit(torch.from_numpy(extracted(self.extractor, pixels)))[0]

    def examples(self) -> Tensor:
        """Black and white."""
        shades = torch.tensor([-1.0, 1.0])[:, None, None, None]
        return self(shades.expand(2, *self.shape))

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes it again."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name == "factor" or value != getattr(Picture, name, None)
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Picture:
        """The pictures of a contract. Raises KeyError, TypeError, ValueError where it holds none."""
        channels, height, width = map(int, found["shape"])
        rest = {name: found[name] for name in ("extractor", "of", "whole") if name in found}
        return cls((channels, height, width), int(found.get("factor", 1)), **rest)
