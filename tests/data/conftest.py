from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def shared():
    """A file of the real data, or a skip where it is absent."""

    def find(name):
        if not (SHARED / name).exists():
            pytest.skip(f"{SHARED / name} is absent")
        return str(SHARED / name)

    return find


@pytest.fixture
def picture():
    """Distinct pictures: `picture(seed)` is uint8 noise, grey [h, w] or colour [h, w, c]."""

    def make(seed=0, height=8, width=8, channels=3):
        shape = (height, width) if channels == 1 else (height, width, channels)
        return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

    return make


@pytest.fixture
def save():
    """Write an array or an image, creating folders."""

    def write(path, image, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
        return path

    return write


@pytest.fixture
def finding():
    """The one finding of a kind, None where there is none."""

    def get(images, kind):
        found = [finding for finding in images.summary.findings if finding.kind == kind]
        assert len(found) <= 1
        return found[0] if found else None

    return get
