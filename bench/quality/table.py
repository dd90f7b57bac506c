"""What the lines of results/DATA.jsonl come to, as markdown: each contender at its end, and ebb against the best peers.

    python bench/quality/table.py > bench/quality/results/table.md

All figures are medians over seeds, with their range. The two-sample test decided nothing while the recipes were made.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from run import HERE, MARKS, lines_of, machine_of

DISTANCE = "Fréchet distance"
FIGURES = (DISTANCE, "kernel distance", "precision", "recall", "two-sample test")
Line = dict[str, Any]


@dataclass(frozen=True)
class Spread:
    """A median over seeds, with the least and the most of them and their number."""

    value: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of one value for each seed."""
        values = sorted(values)
        return cls(statistics.median(values), values[0], values[-1], len(values))

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.value:.3g}"
        return f"{self.value:.3g} ({self.low:.3g} – {self.high:.3g})"


@dataclass(frozen=True)
class Point:
    """All seeds of a contender at one mark: wall-clock seconds, distance and its floor at this number of samples."""

    seconds: float
    distance: Spread
    floor: float
    n: int


def by_machine(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """machine → its lines; first the one on which most contenders and seeds were measured, of several the latest."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(machine_of(line), []).append(line)
    runs = {name: {(a["contender"], a["seed"]) for a in own} for name, own in found.items()}
    fullness = {name: (len(runs[name]), max(a["date"] for a in own)) for name, own in found.items()}
    return {name: found[name] for name in sorted(found, key=fullness.__getitem__, reverse=True)}


def at_marks(lines: Iterable[Line], name: str) -> dict[float, list[Line]]:
    """mark → the lines of all seeds there, of the smallest number of samples that was drawn there."""
    found: dict[float, list[Line]] = {}
    for line in (a for a in lines if a["contender"] == name):
        found.setdefault(line["asked"], []).append(line)
    return {mark: [a for a in there if a["n"] == min(b["n"] for b in there)] for mark, there in sorted(found.items())}


def at_end(lines: Iterable[Line], name: str) -> list[Line]:
    """All lines of a contender at its last mark, of every number of samples."""
    own = [a for a in lines if a["contender"] == name]
    return [a for a in own if a["asked"] == max(b["asked"] for b in own)]


def figure(lines: Sequence[Line], what: str, real: str, of: str = "value") -> Spread | None:
    """A figure over seeds, against `real` images; None where a line lacks it."""
    if not all(what in line.get(real, {}).get("distances", {}) for line in lines):
        return None
    return Spread.of(line[real]["distances"][what][of] for line in lines)


def curve(lines: Sequence[Line], name: str, real: str = "training") -> list[Point]:
    """A contender's distance over time."""
    found = []
    for there in at_marks(lines, name).values():
        distance, floor = figure(there, DISTANCE, real), figure(there, DISTANCE, real, "floor")
        if distance is not None and floor is not None:
            seconds = statistics.median(a["seconds"] for a in there)
            found.append(Point(seconds, distance, floor.value, there[0]["n"]))
    return found


def seconds_to(points: Sequence[tuple[float, float]], target: float) -> tuple[str, float]:
    """When a curve of (seconds, distance) first is at `target` or below: ("=", seconds) between two points, linear in
    the logarithms of both; ("<", the first point's) where it begins there; (">", the last's) where it never comes."""
    for at, (seconds, distance) in enumerate(points):
        if distance <= target:
            if at == 0:
                return "<", seconds
            before, above = points[at - 1]
            share = math.log(above / target) / math.log(above / distance)
            return "=", before * (seconds / before) ** share
    return ">", points[-1][0]


def times_to(lines: Sequence[Line], name: str, target: float, real: str) -> list[tuple[str, float]]:
    """`seconds_to` of a contender's seeds, each on its own curve, the soonest first."""
    seeds = sorted({a["seed"] for a in lines if a["contender"] == name})
    curves = [curve([a for a in lines if a["seed"] == seed], name, real) for seed in seeds]
    found = [seconds_to([(p.seconds, p.distance.value) for p in each], target) for each in curves if each]
    return sorted(found, key=lambda when: (when[0] == ">", when[1]))


def best(curves: dict[str, list[Point]], names: Iterable[str]) -> str | None:
    """The contender among `names` with the smallest distance at its end."""
    there = [name for name in names if curves.get(name)]
    return min(there, key=lambda name: curves[name][-1].distance.value, default=None)


def at_equal_counts(lines: Sequence[Line], peer: str, real: str) -> list[tuple[str, str]]:
    """The row (what, figure) of the distances at the end, at the most samples that both have there, where they have
    more than the fewest, since few samples add the same to both."""
    ends = [at_end(lines, name) for name in ("ebb", peer)]
    counts = [{a["n"] for a in own} for own in ends]
    n = max(counts[0] & counts[1], default=0)
    if n <= min(counts[0] | counts[1]):
        return []
    ours, theirs = (figure([a for a in own if a["n"] == n], DISTANCE, real) for own in ends)
    if ours is None or theirs is None:
        return []
    return [(f"the same at N = {n:,}", f"{ours} against {theirs}: {ours.value / theirs.value:.3g}×")]


SIGNS = {"=": "", "<": "< ", ">": "> "}
BOUNDS = {"=": "", "<": "≥ ", ">": "≤ "}


def against(lines: Sequence[Line], curves: dict[str, list[Point]], peer: str, real: str) -> list[tuple[str, str]]:
    """Rows (what, figure) of ebb against one peer; the time is the median over ebb's seeds, with its range."""
    mine, theirs = curves["ebb"], curves[peer][-1]
    ratio = mine[-1].distance.value / theirs.distance.value
    when = times_to(lines, "ebb", theirs.distance.value, real)
    how, seconds = when[(len(when) - 1) // 2]
    first, last = (SIGNS[sign] + clock(spent) for sign, spent in (when[0], when[-1]))
    spread = f" ({first} – {last})" if first != last else ""
    return [
        (
            f"distance after {clock(mine[-1].seconds)}, against {peer} after {clock(theirs.seconds)}",
            f"{mine[-1].distance} (N = {mine[-1].n:,}) against {theirs.distance} (N = {theirs.n:,}): {ratio:.3g}×",
        ),
        (
            f"time to its distance, {theirs.distance.value:.3g}",
            f"{SIGNS[how]}{clock(seconds)}{spread}: {BOUNDS[how]}{theirs.seconds / seconds:.3g}× sooner",
        ),
    ]


def clock(seconds: float) -> str:
    """Seconds below two minutes, else minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.3g} min"


def goals(lines: Sequence[Line], real: str) -> list[tuple[str, str]]:
    """Rows (what, figure): ebb against the best peer of each row, and against real images."""
    names = dict.fromkeys(a["contender"] for a in lines)
    curves = {name: curve(lines, name, real) for name in names}
    if not curves.get("ebb"):
        return []
    rows = []
    for row in ("default", "tuned"):
        peers = {a["contender"] for a in lines if a["settings"]["row"] == row} - {"ebb"}
        peer = best(curves, sorted(peers))
        if peer:
            rows += [*against(lines, curves, peer, real), *at_equal_counts(lines, peer, real)]
    ours = at_end(lines, "ebb")
    for n in sorted({a["n"] for a in ours}):
        there = [a for a in ours if a["n"] == n]
        value, floor = figure(there, DISTANCE, real), figure(there, DISTANCE, real, "floor")
        if value is not None and floor is not None:
            share = f"{value} against {floor.value:.3g}: {value.value / floor.value:.3g}×"
            rows.append((f"distance at N = {n:,}, against real images", share))
    return rows


def contenders(lines: Sequence[Line], real: str) -> list[list[str]]:
    """A row of cells for each contender at its last mark; runs of several recipes show in their parameters."""
    rows = []
    for name in dict.fromkeys(a["contender"] for a in lines):
        there = list(at_marks(lines, name).values())[-1]
        one = there[0]
        told = [a.get(real, {}).get("label_accuracy") for a in there]
        accuracy = [share for share in told if share is not None]
        rate = statistics.median(a["images_per_second"] for a in there)
        rows.append(
            [
                name,
                " / ".join(dict.fromkeys(f"{a['parameters'] / 1e6:.3g} M" for a in there)),
                " / ".join(dict.fromkeys(f"{a['gflop']:.3g}" for a in there)),
                one["precision"],
                clock(statistics.median(a["seconds"] for a in there)),
                f"{rate:.3g}",
                f"{statistics.median(3 * a['images_per_second'] * a['gflop'] for a in there):.3g}",
                f"{statistics.median(a['peak_mb'] for a in there):,.0f}",
                f"{one['n']:,}",
                str(figure(there, DISTANCE, real, "floor") or "–"),
                *(str(figure(there, what, real) or "–") for what in FIGURES),
                f"{100 * statistics.median(accuracy):.3g} %" if accuracy else "–",
                str(len(there)),
            ]
        )
    return rows


HEAD = [
    "contender", "parameters", "GFLOP an image", "precision", "time", "images/s", "GFLOP/s", "peak MB", "N",
    f"{DISTANCE} of real images", *FIGURES, "label accuracy", "seeds",
]  # fmt: skip


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--real", default="training", choices=("training", "held out"), help="the images compared with")
    given = parser.parse_args()
    for data in MARKS:
        for name, lines in by_machine(lines_of(given.results, data)).items():
            on, dates = lines[-1]["machine"], [a["date"] for a in lines]
            where = f"{name}, {on['threads']} threads, torch {on['torch']}"
            print(f"## {data}: {where}, {min(dates)} to {max(dates)}\n")
            print(markdown(["", "ebb"], goals(lines, given.real)), end="\n\n")
            print(markdown(HEAD, contenders(lines, given.real)), end="\n\n")


if __name__ == "__main__":
    main()
