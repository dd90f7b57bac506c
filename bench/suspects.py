"""How often the doctor's checks of data are right: faults planted in draws of your own data, and draws left alone.

    python bench/suspects.py mnist/ --faults "cut off" "near duplicates" corrupt mislabelled
    python bench/suspects.py cifar10-train.zip --faults blurred "near duplicates" corrupt

Each of twenty draws of 1,500 pictures (6,000 where labels are judged) has one fault planted in some, another ten
have none; of the latter every check is asked. Thresholds were looked at on other draws (numbers below 100).
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ebb.data.dataset import Dataset
from ebb.data.images import picture
from ebb.data.scan import read
from ebb.doctor.data_checks import CORRUPT, check_mislabelled, check_near_duplicates
from ebb.doctor.data_looks import check_blurred, check_cut_off
from ebb.doctor.data_subject import DataSubject
from ebb.doctor.finding import Check, Finding
from ebb.errors import EbbError

DRAWN, JUDGED, SHARE = 1500, 6000, 0.03
"""Pictures of a draw, and of one whose labels are judged, and the share of them that a fault is planted in; of labels
and copies twice as many."""

Pixels = NDArray[np.uint8]


def stored(image: Image.Image) -> Pixels:
    """A picture as uint8 [c, h, w]."""
    values = np.asarray(image)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def blurred(one: Pixels, rng: np.random.Generator) -> Pixels:
    """Out of focus by 1.2 to 2 of 32 pixels."""
    return stored(picture(one).filter(ImageFilter.GaussianBlur(rng.uniform(1.2, 2) * one.shape[2] / 32)))


def shifted(one: Pixels, rng: np.random.Generator) -> Pixels:
    """Moved over an edge by a third to a half of the side, what is uncovered as the rim was."""
    rim = np.concatenate([one[:, 0], one[:, -1], one[:, :, 0], one[:, :, -1]], 1)
    made = np.broadcast_to(np.median(rim, 1).astype(np.uint8)[:, None, None], one.shape).copy()
    by, axis = round(rng.uniform(0.33, 0.5) * one.shape[1]), int(rng.integers(2))
    turned = one.swapaxes(1, 2) if axis else one
    target = made.swapaxes(1, 2) if axis else made
    if rng.integers(2):
        target[:, :-by] = turned[:, by:]
    else:
        target[:, by:] = turned[:, :-by]
    return made


def saved_again(one: Pixels, rng: np.random.Generator) -> Pixels:
    """Through a JPEG, a little brighter or darker."""
    file = io.BytesIO()
    picture(one).save(file, "JPEG", quality=int(rng.integers(80, 95)))
    values = stored(Image.open(file)).astype(float) * rng.uniform(0.95, 1.05)
    return values.clip(0, 255).round().astype(np.uint8)


def spoilt(change: Callable[[Pixels, np.random.Generator], Pixels], data: Dataset, seed: int) -> DataSubject:
    """A draw with a change made to SHARE of its pictures."""
    rng, (rows, labels) = np.random.default_rng(seed), drawn(data, seed)
    for at in rng.choice(len(rows), round(SHARE * len(rows)), replace=False):
        rows[at] = change(rows[at], rng)
    return subject(data, rows, labels)


def copied(data: Dataset, seed: int) -> DataSubject:
    """A draw with some pictures saved again beside themselves."""
    rng, (rows, labels) = np.random.default_rng(seed), drawn(data, seed)
    some = rng.choice(len(rows), round(2 * SHARE * len(rows)), replace=False)
    again = np.stack([saved_again(rows[at], rng) for at in some])
    return subject(data, np.concatenate([rows, again]), None if labels is None else np.append(labels, labels[some]))


def relabelled(data: Dataset, seed: int) -> DataSubject:
    """A draw with some labels changed."""
    rng, (rows, labels) = np.random.default_rng(seed), drawn(data, seed, JUDGED)
    wrong = rng.random(len(labels)) < 2 * SHARE
    other = (labels + rng.integers(1, len(data.names), len(labels))) % len(data.names)
    return subject(data, rows, np.where(wrong, other, labels))


def cut_short(data: Dataset, seed: int) -> DataSubject:
    """A folder of files, two of them cut off somewhere."""
    rng, (rows, _) = np.random.default_rng(seed), drawn(data, seed)
    with tempfile.TemporaryDirectory() as folder:
        for at, row in enumerate(rows[:200]):
            picture(row).save(Path(folder) / f"{at:04}.png")
        for at in rng.choice(200, 2, replace=False):
            file = Path(folder) / f"{at:04}.png"
            content = file.read_bytes()
            file.write_bytes(content[: int(rng.uniform(0.05, 0.7) * len(content))])
        return DataSubject(folder, read(folder, hold_back=False))


def drawn(data: Dataset, seed: int, count: int = DRAWN) -> tuple[Pixels, NDArray[np.int64] | None]:
    """So many pictures of the data, at most, and their labels, none of them twice."""
    some = np.random.default_rng(seed).choice(len(data.rows), min(count, len(data.rows)), replace=False)
    return np.array(data.rows[some]), None if data.labels is None else data.labels[some]


def subject(data: Dataset, rows: Pixels, labels: NDArray[np.int64] | None) -> DataSubject:
    """A draw as the doctor reads it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "draw.npz"
        np.savez(file, images=rows, **({} if labels is None else {"labels": labels}))  # type: ignore[arg-type]
        return DataSubject("draw", read(str(file), hold_back=False))


Plant = Callable[[Dataset, int], DataSubject]

FAULTS: dict[str, tuple[Plant, Check[DataSubject]]] = {
    "blurred": (lambda data, seed: spoilt(blurred, data, seed), check_blurred),
    "cut off": (lambda data, seed: spoilt(shifted, data, seed), check_cut_off),
    "near duplicates": (copied, check_near_duplicates),
    "corrupt": (cut_short, CORRUPT),
    "mislabelled": (relabelled, check_mislabelled),
}
"""fault → (what plants it in a draw, the check that should find it)"""


def finding_of(check: Check[DataSubject], data: DataSubject) -> Finding | None:
    """What a check finds; None where it cannot tell."""
    try:
        return check(data)
    except EbbError:
        return None


def main() -> None:
    """Print a line for each fault: how often it was found, and how often where it was not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--first", type=int, default=100, help="the first draw")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = read(given.data)
    print("| planted | found in 20 | accused of 10 |\n|---|---|---|", flush=True)
    for name in given.faults:
        plant, check = FAULTS[name]
        found = sum(finding_of(check, plant(data, given.first + seed)) is not None for seed in range(20))
        count = JUDGED if name == "mislabelled" else DRAWN
        calm = (subject(data, *drawn(data, given.first + 20 + seed, count)) for seed in range(10))
        accused = sum(finding_of(check, one) is not None for one in calm)
        print(f"| {name} | {found} | {accused} |", flush=True)


if __name__ == "__main__":
    main()
