"""Pictures of noise with two labels, for runs that need no more."""

import numpy as np
from PIL import Image


def labelled(folder):
    """16 grey pictures of 8×8 in a folder of each label, above and below."""
    rng = np.random.default_rng(0)
    for name in ("above", "below"):
        (folder / name).mkdir(parents=True)
        for i in range(16):
            Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return str(folder)
