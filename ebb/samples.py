"""Samples to files: a grid, single pictures or arrays, each with the settings that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from ebb.encode.images import grid, picture, save_png, to_pixels
from ebb.errors import UsageError
from ebb.system import load, locate
from ebb.terminal import tell


def sample_to(
    run: Path,
    out: Path,
    count: int,
    *,
    label: str | None,
    seed: int,
    console: Console,
    compile: bool = False,
    **asked: Any,
) -> None:
    """Sample `count` images from `run` into `out`: a .png grid, a .npz, or a folder of single .png files.

    Every PNG carries its settings (run, checkpoint, label, seed and sampling) in its text chunk `ebb`.
    """
    if out.suffix not in (".png", ".npz", ""):
        raise UsageError(f"cannot write {out}", "end --out in .png for a grid, .npz for arrays, or name a folder")
    if out.is_dir() and out.suffix:
        raise UsageError(f"{out} is a folder", "name a file that ends in .png or .npz, or a folder without a suffix")
    (out.parent if out.suffix else out).mkdir(parents=True, exist_ok=True)
    system, checkpoint = load(run), locate(run)
    wanted = system.wanted(count, label, seed)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("sampling", total=count)
        x = system.sample(
            count, label=label, seed=seed, compile=compile, progress=lambda n: bar.advance(task, n), **asked
        )
    pixels, names = to_pixels(x), system.labels.names
    settings = {"run": run.name, "checkpoint": checkpoint.name, **system.settled(**asked).model_dump()}
    labels = [names[i] for i in wanted] if names else []
    if out.suffix == ".npz":
        np.savez_compressed(out, images=pixels, labels=np.array(wanted if names else []), seeds=np.arange(count) + seed)
    elif out.suffix == ".png":
        save_png(grid(pixels), out, settings | {"seed": seed, "count": count, "label": label})
    else:
        for i, image in enumerate(pixels):
            own = settings | {"seed": seed + i, "label": labels[i] if labels else None}
            save_png(picture(image), out / f"{seed + i:06d}.png", own)
    tell(console, f"{count} images in {out}")
