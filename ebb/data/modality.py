"""What a modality is: all that is known of examples besides their numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ebb.shapes import Float


@runtime_checkable
class Modality(Protocol):
    """Between examples as a data set stores them and what is learnt, x [n, *d] of about unit range, one axis a name.

    The number of axes also says which network suits: of one a perceptron, of two or three a U-Net along the last ones
    (`ebb.recipe.starting`). It is a frozen value, saved with a model by `to_json`.
    """

    @property
    def axes(self) -> tuple[str, ...]:
        """What the axes of x are, such as channel, height, width."""

    @property
    def things(self) -> str:
        """What examples are called, in the plural."""

    def unit(self, stored: Tensor, /) -> Float[Tensor, "n *d"]:
        """Stored values as x, float32 on the same device."""

    def bounded(self, x: Float[Tensor, "n *d"], /) -> Float[Tensor, "n *d"]:
        """x, with what no example can be moved to the nearest that one can."""

    def stored(self, x: Float[Tensor, "n *d"], /) -> NDArray[Any]:
        """x as it would be stored: the inverse of `unit`, rounded to what the data can hold."""

    def sheet(self, stored: NDArray[Any], /, columns: int | None = None, captions: Sequence[str] = ()) -> Image.Image:
        """Some examples to look at, side by side, each with its caption if there are any."""

    @property
    def forms(self) -> tuple[str, ...]:
        """How some may be written (`ebb.data.images.form`): sheet, arrays, table, folder."""

    def arrays(self, stored: NDArray[Any], /) -> dict[str, NDArray[Any]]:
        """Some examples as named arrays, of an .npz that can be read again as data."""

    def table(self, stored: NDArray[Any], /, labels: Sequence[str] = ()) -> str:
        """Some examples as the text of a table, with the names of their labels if there are any."""

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` of its class makes it again."""


def compared(modality: Modality, stored: NDArray[Any]) -> NDArray[Any]:
    """Stored values as examples are compared by: pictures in their 8 bits, all else as x, in float32."""
    return stored if stored.dtype == np.uint8 else modality.unit(torch.from_numpy(np.array(stored))).numpy()


def in_terms(text: str, things: str) -> str:
    """What is written for images, of examples called `things`: "an image" of rows is "a row", "images" are "rows"."""
    one = {"images": "image", "rows": "row"}.get(things, things)
    if things == "images":
        return text
    some = {"an image": f"a {one}", "image": one, "images": things}
    return re.sub(r"\b(an image|images?)\b", lambda match: some[match[1]], text)
