"""The parts of a run's page that show learning: the loss at each noise level, and the curves of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ebb.report.plot import Line, Points, curve, plot, smooth
from ebb.train.gradients import SPANS, LevelGradients, span

Facts = Mapping[str, Any]

CURVES = {  # key in log.jsonl → title, unit
    "grad_norm": ("Gradient norm", ""),
    "lr": ("Learning rate", ""),
    "images_per_second": ("Speed", "images/s"),
    "memory_mb": ("Memory", "MB"),
    "hint_use": ("How much higher the loss is with another example's hint", "share"),
}

ACROSS = "log-SNR: noise on the left, data on the right"
DOTTED = 'stroke-width="1.6" stroke-dasharray="5 3"'
FAINT = 'stroke-opacity=".3"'
THIN = 'stroke-width="1.3"'

REFERENCES = ("trivial", "ideal")
BEYOND = 10
"""A reference is drawn up to so many times the model's largest loss: towards the data a velocity or noise guessed from
a wrong image is out of all proportion."""

EVERY = 100
"""Points of a line in the plot of all noise levels."""


def noise_levels(facts: Facts) -> str:
    """Loss, gradient norm and output scale by noise level, with what the trivial and the ideal denoiser would lose."""
    if not facts:
        return ""

    losses = [y for _, y in paired(facts["log_snr"], facts["loss"])] or [0.0]
    low, high = min(losses) / BEYOND, max(losses) * BEYOND

    def line(name: str, called: str, colour: str = "var(--mark)", style: str = 'stroke-width="2"') -> Line:
        points = paired(facts["log_snr"], facts[name])
        return Line(
            called, points if name not in REFERENCES else [p for p in points if low <= p[1] <= high], colour, style
        )

    drawn = [
        plot(
            [
                line("trivial", "says the mean image", "var(--two)", DOTTED),
                line("ideal", "knows every training image", "var(--three)", DOTTED),
                line("loss", "this model"),
            ],
            "Loss",
            across=ACROSS,
            log_scale=True,
        ),
        plot([line("grad_norm", "")], "Gradient norm", across=ACROSS, log_scale=True),
        plot([line("output_scale", "")], "Output of the network, root mean square", across=ACROSS),
    ]
    return (
        "<p>A loss means something beside two others on the same training images: of a denoiser that always answers "
        "with the mean of the data, and of one that knows the images by heart. Where this model meets the "
        "first it has learned nothing yet. At much noise the second is as good as any model can be; at little noise it "
        "remembers, and a model that comes near it there does so too (the lines end beyond "
        f"{BEYOND} times the model's largest and smallest loss).</p>\n"
        f'<div class="grid">{"".join(drawn)}</div>\n'
        if any(drawn)
        else ""
    )


def paired(xs: Sequence[float], ys: Sequence[float | None]) -> Points:
    """The places that have a value."""
    return [(float(x), float(y)) for x, y in zip(xs, ys, strict=True) if y is not None]


def training(log: Sequence[Facts], guard: Sequence[Facts]) -> str:
    """The curves of the log, and what the guard did."""
    drawn = [losses(log), by_level(log), *gradients(log)]
    drawn += [curve(of(log, name), title, unit) for name, (title, unit) in CURVES.items()]
    return (f'<div class="grid">{"".join(drawn)}</div>\n' if any(drawn) else "") + guarded(log, guard)


def of(log: Sequence[Facts], name: str) -> Points:
    """A value of the log by step, where it was measured."""
    return [(float(e["step"]), float(e[name])) for e in log if isinstance(e.get(name), int | float)]


def losses(log: Sequence[Facts]) -> str:
    """Training and validation loss in one plot, with an upright line at each stretch that had skipped steps."""
    raw = of(log, "loss")
    checked = [
        ("validation", "validation, raw", "var(--two)"),
        ("validation_ema", "validation, averaged", "var(--three)"),
    ]
    lines = [Line("", raw, style=FAINT), Line("training", smooth([p for p in raw if p[1] == p[1]], True))]
    lines += [Line(called, of(log, name), colour) for name, called, colour in checked]
    if not any(line.points for line in lines[2:]):
        lines[1] = Line("", lines[1].points)
    skipped = [float(e["step"]) for e in log if e.get("skipped")]
    return plot(lines, "Loss", log_scale=True, marks=skipped)


def by_level(log: Sequence[Facts]) -> str:
    """The training loss of each noise level, from the noisiest (red) to the cleanest (blue)."""
    rows = [(float(e["step"]), e["levels"]) for e in log if isinstance(e.get("levels"), list)]
    if not rows:
        return ""
    count = max(len(values) for _, values in rows)
    lines = []
    for k, (called, colour) in enumerate(coloured(count)):
        points = [(x, float(v[k])) for x, v in rows if k < len(v) and isinstance(v[k], int | float)]
        thin = smooth(points, True)
        thin = thin[:: max(1, len(thin) // EVERY)]
        lines.append(Line(called, thin, colour, THIN))
    return plot(lines, f"Loss of each of {count} noise levels", log_scale=True)


def gradients(log: Sequence[Facts]) -> list[str]:
    """The gradient at each noise level when it was measured last, and how the share of each has changed."""
    rows = [
        (float(e["step"]), LevelGradients.read(e["gradients"])) for e in log if isinstance(e.get("gradients"), dict)
    ]
    if not rows:
        return []
    (step, last), places = rows[-1], [sum(span(level)) / 2 for level in range(SPANS)]
    lines = [
        Line("norm of the mean", [p for p in paired(places, last.norm) if p[1] > 0]),
        Line("scatter of one example", [p for p in paired(places, last.spread) if p[1] > 0], "var(--two)"),
    ]
    title = f"Gradient at each noise level, step {step:,.0f}"
    shares = [
        Line(name, [(at, found.drive[level]) for at, found in rows], colour, THIN)
        for level, (name, colour) in enumerate(coloured(SPANS))
    ]
    return [
        plot(lines, title, across=ACROSS, log_scale=True),
        plot(shares, "Share of each noise level in the squared gradient"),
    ]


def coloured(count: int) -> list[tuple[str, str]]:
    """A name and a colour for each noise level, from the noisiest (red) to the cleanest (blue)."""
    ends = {0: "most noise", count - 1: "least noise"}
    return [(ends.get(k, ""), f"hsl({10 + 200 * k / max(1, count - 1):.0f} 60% 52%)") for k in range(count)]


def guarded(log: Sequence[Facts], guard: Sequence[Facts]) -> str:
    """What the guard did, a line for each roll-back or stop, and how many steps it skipped."""
    skipped = sum(int(e["skipped"]) for e in log if e.get("skipped"))
    told = [e for e in guard if e.get("what") in ("rolled back", "stopped")]
    lines = [f"step {e.get('step')}: {e['what']}" + (f", {e['cause']}" if e.get("cause") else "") for e in told]
    if skipped:
        lines.insert(0, f"{skipped} steps were skipped: their loss or gradient was not finite, or far from the others")
    return "".join(f'<p class="warn">{escape(line)}</p>\n' for line in lines)
