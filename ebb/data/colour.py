"""Colours in sRGB, in which values without a profile are taken to be: what an ICC profile says its numbers mean."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from typing import cast

import numpy as np
from PIL import Image, ImageCms

Convert = Callable[[Image.Image], Image.Image]

SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""The colour space that a profile names (ICC.1:2022, table 19) as a mode of Pillow."""

NEAR = 1
"""Levels of 255 by which a profile may differ from sRGB everywhere and count as it: there are many sRGB profiles."""


class ProfileError(Exception):
    """A profile that cannot be read, or is of another kind of picture."""


def into_srgb(profile: bytes, mode: str) -> Convert | None:
    """What makes a picture of `mode` (L, RGB or CMYK) that has this ICC profile one in sRGB, L or RGB; None where it is
    in sRGB already.

    Colours are kept relative to white, black becomes black (relative colorimetric, with black point compensation), and
    those that sRGB does not have become the nearest. Grey stays grey. Raises ProfileError.
    """
    try:
        return _into_srgb(profile, mode)
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError) as error:
        raise ProfileError(str(error)) from error


@lru_cache(maxsize=64)
def _into_srgb(profile: bytes, mode: str) -> Convert | None:
    opened = ImageCms.ImageCmsProfile(BytesIO(profile))
    said = SPACES.get(opened.profile.xcolor_space)
    if said != mode and not (mode == "L" and said == "RGB"):  # greys are colours too
        raise ProfileError(f"a profile of {opened.profile.xcolor_space} on a picture of {mode}")
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    if mode == "L":  # 256 levels are soon worked out, and a coarse table would bend their curve
        flags |= ImageCms.Flags.NOOPTIMIZE
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    to = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), said, "RGB", intent, flags)

    def convert(image: Image.Image) -> Image.Image:
        return cast(Image.Image, ImageCms.applyTransform(image, to))  # None is for work in place

    if mode == "L":
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        levels = np.asarray(convert(ramp.convert(said)).convert("L"))[0]
        return None if _near(levels, np.arange(256)) else lambda image: image.point(levels.tolist())
    if mode == "RGB" and _near(np.asarray(convert(LATTICE)), np.asarray(LATTICE)):
        return None
    return convert


def _near(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a.astype(int) - b.astype(int)).max() <= NEAR)


LATTICE = Image.fromarray(
    np.stack(np.meshgrid(*[np.arange(0, 256, 15, dtype=np.uint8)] * 3), -1).reshape(18, 324, 3)
)  # fmt: skip
"""Colours of the whole RGB cube, 18 levels of each channel."""
