"""Quality over wall-clock as a picture for each data set: results/DATA.png.

    python bench/quality/plot.py

One line a contender through the medians over seeds, with their range; both axes are logarithmic. The dashed line is the
distance of real images from real ones, at the number of samples of ebb's last point. Of several machines the one is
drawn on which most contenders and seeds were measured.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import ImageDraw
from run import HERE, MARKS, NAMES, lines_of
from table import Point, by_machine, clock, curve

sys.path.append(str(HERE.parents[1] / "docs"))
from drawings import COLOURS, FINE, INK, LINE, PALE, dot, font, save, sheet

LEFT, TOP, RIGHT, HIGH = 130, 56, 1090, 700
TIMES = (5, 15, 30, 60, 120, 300, 600, 1200, 3600)


class Frame:
    """Where seconds and distances lie on the sheet."""

    def __init__(self, points: Sequence[Point]) -> None:
        seconds = [p.seconds for p in points]
        values = [v for p in points for v in (p.distance.low, p.distance.high, p.floor)]
        self.first, self.last = min(seconds) / 1.2, max(seconds) * 1.2
        self.low, self.high = min(values) / 1.5, max(values) * 1.5

    def spot(self, seconds: float, distance: float) -> tuple[float, float]:
        """Both axes logarithmic."""
        along = math.log(seconds / self.first) / math.log(self.last / self.first)
        up = math.log(distance / self.low) / math.log(self.high / self.low)
        return (LEFT + along * (RIGHT - LEFT)) * FINE, (HIGH - up * (HIGH - TOP)) * FINE

    def axes(self, draw: ImageDraw.ImageDraw, what: str) -> None:
        """Lines at round times and at 1, 2 and 5 times the powers of ten."""
        for seconds in (t for t in TIMES if self.first <= t <= self.last):
            x, _ = self.spot(seconds, self.low)
            draw.line((x, TOP * FINE, x, HIGH * FINE), PALE, FINE)
            draw.text((x, (HIGH + 12) * FINE), clock(seconds), INK, font(24), "mt")
        for power in range(-4, 4):
            for digit in (1, 2, 5):
                value = digit * 10.0**power
                if self.low <= value <= self.high:
                    _, y = self.spot(self.first, value)
                    draw.line((LEFT * FINE, y, RIGHT * FINE, y), PALE, FINE)
                    draw.text(((LEFT - 12) * FINE, y), f"{value:g}", INK, font(24), "rm")
        draw.text(((LEFT + RIGHT) / 2 * FINE, (HIGH + 50) * FINE), "wall-clock time of training", INK, font(26), "mt")
        draw.text((10 * FINE, 8 * FINE), what, INK, font(26))


def dashed(draw: ImageDraw.ImageDraw, y: float) -> None:
    """A level line from left to right."""
    for x in range(LEFT, RIGHT, 16):
        draw.line((x * FINE, y, (x + 9) * FINE, y), LINE, 2 * FINE)


def draw_quality(curves: dict[str, list[Point]], what: str, file: Path) -> None:
    """One picture; the names stand at the right, in the order of the lines' ends."""
    image, draw = sheet(HIGH + 90)
    frame = Frame([point for points in curves.values() for point in points])
    frame.axes(draw, what)
    floor = next(iter(curves.values()))[-1].floor
    ends = [(frame.spot(frame.first, floor)[1], "real images", LINE)]
    dashed(draw, ends[0][0])
    for name, points in curves.items():
        colour = COLOURS[NAMES.index(name)]
        places = [frame.spot(p.seconds, p.distance.value) for p in points]
        draw.line(places, colour, 3 * FINE, "curve")
        for p, (x, y) in zip(points, places, strict=True):
            dot(draw, x, y, 5, colour)
            upper, lower = frame.spot(p.seconds, p.distance.high)[1], frame.spot(p.seconds, p.distance.low)[1]
            draw.line((x, upper, x, lower), colour, FINE)
        ends.append((places[-1][1], name, colour))
    free = 0.0
    for y, name, colour in sorted(ends):
        free = max(y, free)
        draw.text(((RIGHT + 24) * FINE, free), name, colour, font(26), "lm")
        free += 36 * FINE
    save(image, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    given = parser.parse_args()
    for data in MARKS:
        for machine, lines in list(by_machine(lines_of(given.results, data)).items())[:1]:
            curves = {name: points for name in NAMES if (points := curve(lines, name))}
            if not curves:
                sys.exit(
                    f"no Fréchet distance in {given.results / data}.jsonl: it needs more samples, see run.py --samples"
                )
            file = given.results / f"{data}.png"
            # the font of Pillow has no é
            draw_quality(curves, f"Frechet distance on {data}, log scale ({machine.replace('(R)', '')})", file)
            print(file)


if __name__ == "__main__":
    main()
