"""What every page of ebb is made of: its style, tables, numbers and the ticks of its charts. No script, no request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

STYLE = """
:root{color-scheme:light dark;--ink:#1d1f23;--soft:#666b74;--line:#e2e3e6;--page:#fcfcfb;--card:#f4f4f2;--mark:#2f6690;
--two:#c8553d;--three:#4f9d69;--warn:#a15c07;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e4e5e7;--soft:#9a9fa8;--line:#33363b;--page:#16181b;--card:#1f2226;
--mark:#7fb2d9;--two:#e5866f;--three:#7fc497;--warn:#e0a458;--bad:#f2857c}}
*{box-sizing:border-box}body{margin:0 auto;max-width:62rem;padding:2.5rem 1.25rem 4rem;background:var(--page);
color:var(--ink);font:16px/1.55 system-ui,sans-serif}
h1{font-size:1.6rem;font-weight:600;margin:0;overflow-wrap:anywhere}
h2{font-size:1.05rem;font-weight:600;margin:2.75rem 0 .75rem;padding-top:1rem;border-top:1px solid var(--line)}
h3{font-size:.95rem;font-weight:600;margin:1.5rem 0 .4rem}
p{margin:.4rem 0}.soft,figcaption,small{color:var(--soft)}figcaption,small{font-size:.85rem}.warn{color:var(--warn)}
pre,code{font:.85rem/1.5 ui-monospace,monospace}pre{background:var(--card);padding:.75rem 1rem;border-radius:6px;
overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%}
th,td{text-align:left;padding:.35rem 1.25rem .35rem 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:500;color:var(--soft);font-size:.85rem}
figure{margin:0}.pair,.grid{display:grid;gap:1.5rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr))}
.pair{align-items:start}.grid{margin-top:1rem}
.strip{display:grid;gap:.75rem;grid-template-columns:repeat(6,1fr);margin-top:1rem}
img{width:100%;display:block;border-radius:4px;image-rendering:pixelated}svg{width:100%;height:auto;display:block}
svg text{font-size:11px;fill:var(--soft)}svg .title{fill:var(--ink)}svg.beside{width:8.75rem;margin:.2rem 0}
.bars{display:grid;grid-template-columns:minmax(3rem,max-content) 1fr auto;
gap:.2rem .75rem;align-items:center;font-size:.9rem}.bars span{overflow-wrap:anywhere}
.bars i{height:.6rem;background:var(--mark);border-radius:2px;min-width:1px}
.bars b{font-weight:400;color:var(--soft);font-variant-numeric:tabular-nums;text-align:right}
.key{display:flex;flex-wrap:wrap;gap:.1rem 1rem;margin-top:.2rem}.key i{display:inline-block;width:.9rem;height:.2rem;
border-radius:1px;margin-right:.4rem;vertical-align:middle}
.tiles{display:grid;gap:.75rem;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));margin-top:1.25rem}
.tiles div{background:var(--card);border-radius:8px;padding:.7rem .9rem}.tiles small,.tiles b{display:block}
.tiles b{font-size:1.3rem;font-weight:600;font-variant-numeric:tabular-nums;line-height:1.4}
.finding{border-left:3px solid var(--warn);padding:.1rem 0 .1rem 1rem;margin:1rem 0}
.finding.error{border-color:var(--bad)}
.finding b{font-weight:600}.finding pre{margin:.4rem 0 0;padding:.4rem .75rem}
.verdict{font-size:1.15rem;margin:.9rem 0 .6rem}.verdict b{font-weight:600}
.suspects{display:grid;gap:.75rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,8.5rem),1fr));margin:.75rem 0}
.suspects figcaption,.classes span{overflow-wrap:anywhere}.suspects figure{min-width:0}
.classes{display:grid;gap:.4rem .9rem;grid-template-columns:minmax(3rem,max-content) 1fr;align-items:center}
.classes span{max-width:9rem;font-size:.9rem}.classes figcaption{display:none}
.values figure{max-width:32rem}.smooth img{image-rendering:auto}
details{margin:.5rem 0}summary{cursor:pointer;color:var(--soft)}
"""


MADE = '<meta name="generator" content="ebb">'
"""What stands at the head of every page, so that one can be told from a user's own."""


def page(title: str, body: str) -> str:
    """A whole document; `title` is escaped, `body` is not."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"{MADE}"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n{body}</body></html>\n"
    )


def section(title: str, body: str) -> str:
    """A part of the page with its title; an empty string without a body."""
    return f"<section><h2>{title}</h2>\n{body}</section>\n" if body else ""


class Markup(str):
    """Text that is HTML already; everything else is escaped."""


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table with every cell escaped but `Markup`; an empty string without rows."""
    if not rows:
        return ""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{shown(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>\n'


def shown(cell: object) -> str:
    """A cell as HTML."""
    return cell if isinstance(cell, Markup) else escape(str(cell))


def fold(title: str, body: str) -> str:
    """A part that is closed until it is asked for; an empty string without a body."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>\n" if body else ""


def number(value: object) -> str:
    """A number for reading, 12,500 or 0.0312; of a list each; anything else as text."""
    if isinstance(value, list | tuple):
        return ", ".join(map(number, value)) or "none"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def ticks(low: float, high: float) -> list[float]:
    """Round numbers within the range, about five of them, 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m for m in (1, 2, 5, 10) if m * power >= rough * 0.999) * power
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within the exponents, and 2 and 5 times them below three decades."""
    factors = (1, 2, 5) if high - low < 3 else (1,)
    every = [m * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for m in factors]
    return [tick for tick in every if low <= math.log10(tick) <= high]


def short(value: float) -> str:
    """A tick: 20k, 1.5M, 0.02, 1e-05."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.3g}"
