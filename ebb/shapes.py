"""Shape annotations: jaxtyping's where it is installed (tests enforce them), plain tensors elsewhere; sizes in words.

`Float[Tensor, "b *d"]` reads: a floating-point tensor with a batch axis `b` and any axes `d` after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

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

__all__ = ["Float", "Int", "sides"]


def sides(size: Iterable[int]) -> str:
    """The size [height, width] of a picture as users know it, the width first: 900×600."""
    return "×".join(map(str, reversed(list(size))))
