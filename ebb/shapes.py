"""Shape annotations: jaxtyping's where it is installed (tests enforce them), plain tensors elsewhere; sizes in words.

`Float[Tensor, "b *d"]` reads: a floating-point tensor with a batch axis `b` and any axes `d` after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ebb.errors import UsageError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
else:
    try:
        from jaxtyping import Float, Int
    except ImportError:  # jaxtyping is a development dependency; without it a shape is documentation

        class Float:
            """Stands in for jaxtyping.Float: `Float[Tensor, "b"]` is `Tensor`."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                """Return the array type, without its shape."""
                return item[0]

        Int = Float

__all__ = ["Float", "Int", "batch_of", "sides"]


def sides(size: Iterable[int]) -> str:
    """The size [height, width] of a picture as users know it, the width first: 900×600."""
    return "×".join(map(str, reversed(list(size))))


def batch_of(what: str, x: Any, shape: Sequence[int], axes: int | None = None) -> None:
    """Raise UsageError unless x is a batch [b ≥ 1, *shape] of floating-point numbers.

    With `axes` more axes of any length follow `shape`, so that a sample has so many.
    """
    sides = [str(length) for length in shape] + ["…"] * ((axes or len(shape)) - len(shape))
    expected = f"expected {what}, a floating tensor [{', '.join(['b', *sides])}]"
    if not isinstance(x, torch.Tensor):
        raise UsageError(f"{expected}, got {type(x).__name__}", "torch.as_tensor makes one of an array or a list")
    if x.ndim != 1 + len(sides) or tuple(x.shape[1 : 1 + len(shape)]) != tuple(shape) or not len(x):
        hint = "add the axis of the batch: x[None]" if x.ndim == len(sides) else ""
        raise UsageError(f"{expected}, got {list(x.shape)}", hint)
    if not x.is_floating_point():
        raise UsageError(f"{expected}, got {x.dtype}", "8-bit pixels are pixels / 127.5 - 1")
