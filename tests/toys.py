"""Small runs on small pictures with captions, for tests of several kinds of model, and a count of what a run waits for."""

from __future__ import annotations

import io
import json

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode

from ebb.cli.output import Reader, shown
from ebb.edit.samples import Prompt, sample_to
from ebb.recipe.recipe import Recipe
from ebb.run.train import train

SMALL = {
    "network": {"width": 16, "depth": 1},
    "batch": 8,
    "precision": "fp32",
    "sheets": 1,
    "steps": 3,
    "sample": {"steps": 2},
    "autoencoding": {"factor": 2, "latent": 3, "width": 16},
}
CAPTIONS = ("a bright sky", "a bright ground")


def write(folder, count=32, side=8, missing=0):
    """Pictures bright above or below, each with its caption, the first `missing` without."""
    folder.mkdir(parents=True)
    rng, lines = np.random.default_rng(0), []
    for i in range(count):
        pixels = rng.integers(0, 60, (side, side), dtype=np.uint8)
        pixels[side // 2 * (i % 2) : side // 2 * (1 + i % 2)] += 180
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
        lines.append({"file_name": f"{i:02d}.png"} | ({} if i < missing else {"text": CAPTIONS[i % 2]}))
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


ASKING = {
    getattr(torch.ops.aten, name)
    for name in ("_local_scalar_dense", "is_nonzero", "nonzero", "_unique2", "masked_select")
}


class Reads(TorchDispatchMode):
    """Counts what the host asks a device for, numbers or sizes, each of which it has to wait for.

    What is asked for without an operation is not seen on a CPU: `tolist`, `numpy`, copies to and from the device.
    """

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        kind = function.overloadpacket
        masks = kind is torch.ops.aten.index and any(i is not None and i.dtype == torch.bool for i in arguments[1])
        self.count += masks or kind in ASKING
        return function(*arguments, **options or {})


def trained(data, run, fresh=False, **asked):
    said, all_of = io.StringIO(), SMALL | asked
    for name in ("network", "sample") if asked.get("kind") == "autoencoder" else ("autoencoding",):
        all_of.pop(name)
    shown(train(str(data), Recipe(**all_of), run=run, fresh=fresh), Console(file=said))
    return said.getvalue()


def sampled(run, out, *asked, together=False, regions=(), **options):
    said, prompt = io.StringIO(), Prompt(4, text=asked, together=together, regions=regions)
    with Reader(Console(file=said, width=200)) as reader:
        sample_to(run, out, prompt, progress=reader.show, **options)
    return said.getvalue()
