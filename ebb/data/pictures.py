"""8-bit pictures as values in [−1, 1]: of an array, beside others, or in files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebb.data.decode import Shape, read_picture
from ebb.errors import DataError, UsageError
from ebb.shapes import Float, sides

CPU = torch.device("cpu")


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 values 0…255 as float32 in [−1, 1]."""
    return pixels.to(torch.float32) / 127.5 - 1


def sent(rows: Tensor, device: torch.device) -> Tensor:
    """`rows` on the device. A GPU fetches them itself from locked memory, so that nothing waits for it."""
    if device.type == "cuda" and rows.device.type == "cpu":
        return rows.pin_memory().to(device, non_blocking=True)
    return rows.to(device)


@dataclass(frozen=True, eq=False)
class Pictures:
    """A picture beside each of n others: number `at[i]` of `pixels` uint8 [m, c, h, w], m ≥ 1, or none where at is −1.

    They are read as float32 [b, c, h, w] in [−1, 1], all NaN where there is none.
    """

    pixels: NDArray[np.uint8]
    at: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one, (c, h, w)."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.at)

    def __getitem__(self, index: NDArray[np.int64] | slice) -> Float[Tensor, "b c h w"]:
        """Those beside some of the others."""
        return self.read(index)

    def read(self, index: NDArray[np.int64] | slice, device: torch.device = CPU) -> Float[Tensor, "b c h w"]:
        """Those beside some of the others, on the device."""
        at = self.at[index]
        missing = sent(torch.from_numpy(at < 0), device)[:, None, None, None]
        found = to_unit(sent(torch.from_numpy(self.pixels[np.maximum(at, 0)]), device))
        return found.masked_fill(missing, torch.nan)

    def take(self, rows: NDArray[np.int64]) -> Pictures:
        """Those beside some of the others; nothing is copied."""
        return replace(self, at=self.at[rows])


def opened(paths: Sequence[str | Path], shape: Shape, whole: bool = False) -> Float[Tensor, "b c h w"]:
    """Pictures of files, each scaled to cover [h, w] and cropped at the centre.

    Raises DataError for what is none, and with `whole` for one that would be cropped or enlarged; UsageError where no
    file is named.
    """
    if not paths or not all(isinstance(path, str | Path) for path in paths):
        raise UsageError("expected one or more files of pictures", "tensors are given as one: torch.stack(pictures)")
    for path in paths:
        if not Path(path).is_file():
            raise DataError(f"there is no picture {path}", "name a file")
    read = [read_picture(Path(path), shape) for path in paths]
    for path, (head, _) in zip(paths, read, strict=True) if whole else ():
        if head.cut(shape) > SLIGHT or head.height < shape[1] or head.width < shape[2]:
            raise DataError(
                f"{path} is {sides((head.height, head.width))}, and of pictures of {sides(shape[1:])} another size or"
                " other proportions would not show the same",
                f"crop or scale it first: magick {path} -resize {shape[2]}x{shape[1]}^ -gravity center"
                f" -extent {shape[2]}x{shape[1]} control.png",
            )
    return to_unit(torch.from_numpy(np.stack([pixels for _, pixels in read])))


SLIGHT = 0.02
"""The share of a picture that may be cut off where it is to be whole: a pixel more or less on a side."""


def batches(values: NDArray[Any], size: int = 500) -> Iterator[Float[Tensor, "b *d"]]:
    """Images uint8 [n, c, h, w] as float batches in [−1, 1], in order; other numbers [n, *d] as they are."""
    parts = (torch.from_numpy(values[i : i + size]) for i in range(0, len(values), size))
    return (to_unit(part) if part.dtype == torch.uint8 else part.float() for part in parts)
