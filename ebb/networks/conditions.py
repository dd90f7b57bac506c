"""What a network is told besides x: the time, a label, numbers, a text, an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ebb.errors import UsageError
from ebb.networks.blocks import Fourier
from ebb.networks.text_encoder import TextEncoder, TextRows, TextStates
from ebb.shapes import Float


class Heard(NamedTuple):
    """What every layer may use: one `vector` [b, w], and the text's `rows` [b, m, w] with the mask of those `seen`.

    The vector has passed SiLU, ready to be mapped to shifts and scales. With concepts, rows are [b, k, m, w] and seen
    is [b, k, m]; without text there are no rows (m = 0).
    """

    vector: Tensor
    rows: Tensor
    seen: Tensor


class NumbersEmbedding(nn.Module):
    """Numbers [b, k] of about unit size → [b, width] by an MLP; a row with NaN in it has a learned vector instead."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(count, width), nn.SiLU(), nn.Linear(width, width))
        self.null = nn.Parameter(torch.zeros(width))

    def forward(self, values: Float[Tensor, "b k"]) -> Float[Tensor, "b w"]:
        """The vector. NaN never enters the MLP, since a gradient of 0 times NaN would be NaN."""
        said = ~values.isnan().any(-1, keepdim=True)
        vector = self.mlp(torch.where(said, values, 0.0).to(self.null.dtype))
        return torch.where(said, vector, self.null.to(vector.dtype))


class Conditions(nn.Module):
    """(time, cond) → `Heard`: SiLU(MLP(Fourier(time)) + table[label] + MLP(numbers) + linear(pooled text)), and rows.

    `cond` holds exactly the conditions it was built for, batch first:

    - "label" (`classes` > 0): int64 [b], numbered from 0; number `classes` says nothing.
    - "text" (`vocabulary` > 0): int64 [b, n ≤ length], ids of pieces; or (`states` > 0) float [b, n ≤ length, states].
      Rows of 0 are padding, and a text of nothing else says nothing. With `concepts` there is an axis of up to that
      many texts after the batch, and the pooled text is the mean of those that say something.
    - "numbers" (`numbers` > 0): float [b, numbers], of about unit size; a row of NaN says nothing.
    - "image" (`image` > 0): float [b, image, *size] beside x, NaN where it says nothing; `join` puts it there.

    What is said by saying nothing is learned: it is what dropout trains for guidance.
    """

    def __init__(
        self,
        width: int,
        classes: int = 0,
        vocabulary: int = 0,
        states: int = 0,
        length: int = 0,
        numbers: int = 0,
        image: int = 0,
        concepts: int = 0,
    ) -> None:
        super().__init__()
        if width % 2:
            raise UsageError(f"an embedding of sines and cosines has an even width, got {width}")
        if vocabulary and states:
            raise UsageError("a text is either pieces or ready states", "give vocabulary or states, not both")
        if bool(vocabulary or states) != bool(length) or (concepts and not length):
            raise UsageError(
                f"a text has a vocabulary or states, and a length; got vocabulary={vocabulary}, states={states},"
                f" length={length}, concepts={concepts}",
                "length is the most pieces that a text has",
            )
        self.settings = {
            "classes": classes,
            "vocabulary": vocabulary,
            "states": states,
            "length": length,
            "numbers": numbers,
            "image": image,
        }
        given = {"image": image, "label": classes, "numbers": numbers, "text": length}
        self.expected = [name for name, size in given.items() if size]
        self.concepts = concepts
        self.time = nn.Sequential(Fourier(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width) if classes else None
        self.numbers = NumbersEmbedding(numbers, width) if numbers else None
        self.text: TextEncoder | TextStates | None = TextStates(states, width) if states else None
        if vocabulary:
            self.text = TextEncoder(vocabulary, length, width)
        self.pooled = nn.Linear(width, width) if length else None
        self.blank = nn.Parameter(torch.zeros(image)) if image else None

    def forward(self, time: Float[Tensor, "b"], cond: Mapping[str, Tensor]) -> Heard:
        """What is heard. Raises UsageError unless `cond` is exactly what the network was built for (image: `join`)."""
        if sorted(cond) != self.expected:
            built = ", ".join(f"{name}={size}" for name, size in self.settings.items() if size)
            raise UsageError(
                f"this network takes the conditions {self.expected}, got {sorted(cond)}",
                f"it was built with {built}" if built else "it was built without conditions",
            )
        vector, batch = self.time(time), time.shape[0]
        rows, seen = vector.new_zeros(batch, 0, vector.shape[1]), vector.new_zeros(batch, 0, dtype=torch.bool)
        if self.label is not None:
            vector = vector + self.label(fitting("label", cond["label"], False, batch))
        if self.numbers is not None:
            vector = vector + self.numbers(fitting("numbers", cond["numbers"], True, batch, self.settings["numbers"]))
        if self.text is not None and self.pooled is not None:
            rows, seen, pooled = self.read(self.text, cond["text"], batch)
            vector = vector + self.pooled(pooled)
        return Heard(F.silu(vector), rows, seen)

    def read(self, encoder: nn.Module, text: Tensor, batch: int) -> TextRows:
        """A text; or concepts, each read alone: rows [b, k, m, w], seen [b, k, m], pooled as said above."""
        states, length = self.settings["states"], -self.settings["length"]
        sizes = (*([-self.concepts] if self.concepts else []), length, *([states] if states else []))
        text = fitting("text", text, states > 0, batch, *sizes)
        if not self.concepts:
            read: TextRows = encoder(text)
            return read
        rows, seen, pooled = (torch.unflatten(part, 0, text.shape[:2]) for part in encoder(text.flatten(0, 1)))
        speaks = seen[..., 1:].any(-1)[..., None].to(pooled.dtype)
        return TextRows(rows, seen, (speaks * pooled).sum(1) / speaks.sum(1).clamp(min=1))

    def join(self, x: Float[Tensor, "b c *size"], cond: Mapping[str, Tensor]) -> Float[Tensor, "b d *size"]:
        """x and the image as further channels, a learned value where it is NaN; x itself where there is no image.

        Raises UsageError unless the image is floating, with the batch and the size of x.
        """
        if self.blank is None:
            return x
        image = fitting("image", cond["image"], True, x.shape[0], len(self.blank), *x.shape[2:])
        blank = self.blank.reshape(1, -1, *(1,) * (x.ndim - 2))
        return torch.cat([x, torch.where(image.isnan(), blank, image).to(x.dtype)], 1)


def fitting(name: str, value: Tensor, floating: bool, batch: int, *sizes: int) -> Tensor:
    """`value`, where it is [batch, *sizes] of that kind; a size of −n is any up to n. Raises UsageError else."""
    fits = value.is_floating_point() == floating and value.ndim == 1 + len(sizes) and value.shape[0] == batch
    if not fits or any(got > -n if n < 0 else got != n for got, n in zip(value.shape[1:], sizes, strict=True)):
        expected = ", ".join([str(batch), *(str(n) if n >= 0 else f"≤ {-n}" for n in sizes)])
        raise UsageError(
            f"the condition {name!r} is {'floating' if floating else 'integer'} [{expected}],"
            f" got {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        )
    return value
