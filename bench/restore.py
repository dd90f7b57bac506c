"""Held-out pictures made small and large again by a model, against bicubic interpolation; and what inpainting keeps.

ebb train mnist/ --budget 10m
python bench/restore.py runs/mnist --n 40
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import ebb
from ebb.data.images import to_pixels
from ebb.data.of_run import data_of
from ebb.data.pictures import to_unit
from ebb.edit.editor import Editor
from ebb.understand.reconstruction import psnr, ssim


def bicubic(small: Tensor, side: int) -> Tensor:
    """Pictures [b, c, h, w] in [−1, 1] enlarged by Pillow's bicubic filter, in floats."""
    planes = [[Image.fromarray(p.numpy()).resize((side, side), Image.Resampling.BICUBIC) for p in x] for x in small]
    return torch.from_numpy(np.stack([[np.asarray(p) for p in row] for row in planes])).clamp(-1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--n", type=int, default=40)
    parser.add_argument("--factor", type=int, default=4)
    given = parser.parse_args()
    system, dataset = ebb.load(given.run), data_of(given.run)
    aside = dataset.held_out
    if aside is None:
        raise SystemExit(f"the data of {given.run} has no held-out images")
    some = np.random.default_rng(0).permutation(len(aside.rows))[: given.n]
    x = to_unit(torch.from_numpy(aside.rows[some]))
    small, editor = torch.nn.functional.avg_pool2d(x, given.factor), Editor.of(system)
    began = time.perf_counter()
    made = [editor.upscale(small, seed=1000 * seed) for seed in range(3)]
    seconds = (time.perf_counter() - began) / (3 * len(x))
    rows = {
        "bicubic": bicubic(small, x.shape[-1]),
        "one sample": made[0],
        "the mean of three samples": torch.stack(made).mean(0),
    }
    print(f"{given.factor}× super-resolution of {len(x)} held-out pictures, {seconds:.2f} s a sample")
    print("| | PSNR, dB | SSIM |\n| --- | --- | --- |")
    for name, found in rows.items():
        print(f"| {name} | {psnr(found, x).mean():.2f} | {ssim(found, x).mean():.3f} |")
    new = torch.zeros(x.shape[2:], dtype=torch.bool)
    new[x.shape[2] // 4 : -x.shape[2] // 4, x.shape[3] // 2 :] = True
    filled = to_pixels(editor.inpaint(x, new))
    known = ~new.numpy()
    wrong = int((filled[..., known] != aside.rows[some][..., known]).sum())
    print(f"inpainting: {wrong} of {filled[..., known].size:,} known values differ")


if __name__ == "__main__":
    main()
