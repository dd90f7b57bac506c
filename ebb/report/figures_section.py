"""The parts of a run's page that are numbers: distances, comparisons, likelihood and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ebb.judge.distances import wilson
from ebb.report.page import Markup, fold, number, table
from ebb.report.plot import bars, beside, columns
from ebb.report.verdict import following, verdict

Facts = Mapping[str, Any]

AIM = {"low": "smaller is better", "high": "larger is better", "half": "one half is best"}


def glance(evaluation: Facts, run: Path) -> str:
    """The verdict with the next command, and the few figures one looks at first, as tiles."""
    said = verdict(evaluation)
    after = f"; next: <code>{escape(following(evaluation, run))}</code>"
    first = f'<p class="verdict"><b>{escape(said)}</b>{after}</p>\n' if said else ""
    distances, cost = evaluation.get("distances", {}), evaluation.get("cost", {})
    tiles = []
    for name in ("Fréchet distance", "precision", "recall"):
        if name in distances:
            d = distances[name]
            beneath = f"real images score {number(d['floor'])}"
            if name == "Fréchet distance" and "latent_floor" in evaluation:
                beneath += f"; through the latents: {number(evaluation['latent_floor']['reached'])}"
            tiles.append((name, number(d["value"]), beneath))
    if evaluation.get("label_accuracy") is not None:
        ceiling = evaluation.get("classifier_accuracy")
        beneath = "" if ceiling is None else f"real images score {ceiling:.1%}"
        tiles.append(("label accuracy", f"{evaluation['label_accuracy']:.1%}", beneath))
    if evaluation.get("likelihood"):
        bits = evaluation["likelihood"]
        tiles.append(("likelihood", f"{bits['value']:.2f}", str(bits["unit"])))
    if cost:
        tiles.append(("a sample", f"{1000 * cost['seconds']:.3g} ms", f"{number(cost['evaluations'])} evaluations"))
    drawn = "".join(
        f"<div><small>{escape(name)}</small><b>{escape(value)}</b><small>{escape(beneath)}</small></div>"
        for name, value, beneath in tiles
    )
    return first + (f'<div class="tiles">{drawn}</div>\n' if drawn else "")


def figures(evaluation: Facts, comparisons: Sequence[Facts]) -> str:
    """The distances with their floors, label accuracy, warnings, and how to read them."""
    if not evaluation:
        return "".join(compared(c) for c in comparisons)
    count = evaluation.get("n_samples", 0)
    rows = [distance(name, d, count) for name, d in evaluation.get("distances", {}).items()]
    accuracy, ceiling = evaluation.get("label_accuracy"), evaluation.get("classifier_accuracy")
    if accuracy is not None and count:
        low, high = wilson(accuracy, count)
        rows.append(
            (
                "label accuracy",
                f"{accuracy:.1%}",
                f"{low:.1%} … {high:.1%}",
                "" if ceiling is None else f"{ceiling:.1%}",
                "",
                AIM["high"],
            )
        )
    counts = f"{number(count)} samples against {number(evaluation.get('n_reference'))} real images"
    settings = [(name, number(value)) for name, value in evaluation.get("settings", {}).items()]
    return (
        table(("", "samples", "95 % interval", "real images", "", ""), rows)
        + "<p>The column of real images has the same figure for as many real images that the model is not compared "
        "with: a model that cannot be told from the data would reach it. In the drawings, each on its own scale, the "
        "dot is the samples, the band their interval and the upright line the real images.</p>\n"
        + through_latents(evaluation.get("latent_floor"))
        + f'<p class="soft">{escape(counts)}; {escape(seen_by(evaluation))}.</p>\n'
        + "".join(f'<p class="warn">{escape(str(text))}</p>\n' for text in evaluation.get("warnings", []))
        + by_class(evaluation)
        + "".join(compared(c) for c in comparisons)
        + fold("Settings of the samples", table(("setting", "value"), settings))
    )


def seen_by(evaluation: Facts) -> str:
    """The features, and how good the classifiers are that judged, beside what is possible."""
    says = (evaluation.get("judge") or {}).get("says")
    return f"features: {evaluation.get('features')}" + (f"; {says}" if says else "")


def through_latents(floor: Facts | None) -> str:
    """The Fréchet distance that a latent run cannot fall below; "" of a run without latents."""
    if floor is None:
        return ""
    return (
        "<p>Real images that went through the latents and back are at a Fréchet distance of "
        f"{number(floor['reached'])} (as they are: {number(floor['real'])}): no sampler of these latents does better. "
        f"From themselves they have moved by {number(floor['moved'])}.</p>\n"
    )


def distance(name: str, d: Facts, count: int) -> tuple[object, ...]:
    """A row of the table; a figure that needs more images than there were says so."""
    needs = d.get("needs")
    few = f'<br><small class="warn">needs {needs:,} images</small>' if needs is not None and needs > count else ""
    return (
        Markup(escape(name) + few),
        number(d["value"]),
        f"{number(d['low'])} … {number(d['high'])}",
        number(d["floor"]),
        Markup(beside(d["value"], d["low"], d["high"], d["floor"])),
        AIM.get(d.get("better", "low"), ""),
    )


def by_class(evaluation: Facts) -> str:
    """Label accuracy and Fréchet distance of each class, as bars."""
    shares = {name: (share, f"{share:.1%}") for name, share in evaluation.get("per_class", {}).items()}
    parts = {name: (value, number(value)) for name, value in (evaluation.get("frechet_by_class") or {}).items()}
    drawn = [
        f"<div><h3>{title}</h3>{bars(values)}</div>"
        for title, values in (("Label accuracy by class", shares), ("Fréchet distance by class", parts))
        if values
    ]
    return f'<div class="grid">{"".join(drawn)}</div>\n' if drawn else ""


def compared(comparison: Facts) -> str:
    """One comparison with another run."""
    one, other = str(comparison["run"]), str(comparison["other"])
    rows = [
        (name, number(d["value"]), number(d["other"]), difference(d), d["says"])
        for name, d in comparison["differences"].items()
    ]
    settings = comparison["settings"], comparison["other_settings"]
    differ = [
        (name, number(settings[0].get(name)), number(settings[1].get(name)))
        for name in settings[0]
        if settings[0][name] != settings[1].get(name)
    ]
    return (
        f"<h3>Against {escape(other)}</h3>\n"
        + table(("", one, other, "difference, 95 % interval", "that is"), rows)
        + f'<p class="soft">{number(comparison["count"])} samples of each, the same seeds and labels; '
        f"{escape(seen_by(comparison))}.</p>\n" + fold("Settings that differ", table(("setting", one, other), differ))
    )


def difference(d: Facts) -> str:
    """A difference with its interval."""
    return f"{number(d['difference'])} [{number(d['low'])}, {number(d['high'])}]"


def likelihood(bits: Facts, bound: Facts) -> str:
    """Bits per dimension by the flow and by the bound, and where the bound's bits come from."""
    rows = [
        (name, number(found["value"]), f"{number(found['low'])} … {number(found['high'])}", number(found["count"]))
        for name, found in (("probability flow", bits), ("variational bound, from above", bound))
        if found
    ]
    if not rows:
        return ""
    unit = str((bits or bound).get("unit", "bits per dimension"))
    drawn = ""
    if bound:
        terms = [(float(t["log_snr"]), float(t["bits"])) for t in bound["terms"]]
        shares = {
            "the last bit of noise (reconstruction)": bound["reconstruction"],
            "all steps between": sum(bits for _, bits in terms),
            "the end of the noise (prior)": bound["prior"],
        }
        parts = bars({name: (float(value), number(float(value))) for name, value in shares.items()})
        across = "log-SNR: noise on the left, data on the right"
        drawn = (
            f'<div class="grid">{columns(terms, "Bits of the bound by noise level", across)}'
            f"<div><h3>Where the bound comes from</h3>{parts}</div></div>\n"
        )
    return (
        table(("", unit, "95 % interval", "images"), rows)
        + '<p class="soft">Smaller is better: the bits that an ideal code based on this model would need for each '
        f"value of an image it has not seen. {coded(bits)}The bound is of the 8-bit values themselves{read_off(bound)}."
        "</p>\n" + drawn
    )


def coded(bits: Facts) -> str:
    """What the flow's bits are of; former evaluations have no values read off."""
    if bits.get("read_at"):
        return "The flow, too, ends at the noise at which values are read off. "
    return "The flow is of values with even noise of their own width. " if bits else ""


def read_off(bound: Facts) -> str:
    """How values are read at the end of the chain, where that was fitted; former evaluations have it fixed."""
    if not bound.get("fitted"):
        return ""
    return (
        f", read off at a noise of {number(bound['faintest'])} by what was fitted to {number(bound['fitted'])} images"
        " that the model was trained on"
    )


def cost(spent: Facts) -> str:
    """What a sample costs."""
    if not spent:
        return ""
    one = spent.get("latency")  # former evaluations have none
    alone = one and f"for a sample alone; 99 % within {1000 * one['p99']:.3g} ms, {number(one['count'])} requests"
    rows = [
        ("evaluations of the network", number(spent["evaluations"]), "for each sample; a guided step is two"),
        (
            "time",
            f"{1000 * spent['seconds']:.3g} ms",
            f"{number(spent['images_per_second'])} images a second, many at once",
        ),
        *([("latency", f"{1000 * one['p50']:.3g} ms", alone)] if one else []),
        ("arithmetic", f"{number(spent['gflop'])} GFLOP", "for each sample"),
        ("memory", f"{spent['peak_mb']:,.0f} MB", f"at most, for {spent['batch']} samples at once"),
    ]
    return (
        table(("", "", ""), rows) + f'<p class="soft">{escape(str(spent["device"]))}, {spent["threads"]} threads.</p>\n'
    )
