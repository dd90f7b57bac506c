"""The parts of a page that say what the doctor found, and what was noticed while data was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from ebb.doctor.finding import by_reason
from ebb.report.page import fold, number, table

Facts = Mapping[str, Any]


def nothing(finding: Facts) -> str:
    """No pictures of a finding."""
    return ""


def findings(facts: Facts, exhibit: Callable[[Facts], str] = nothing) -> str:
    """Every finding: symptom, evidence, cause, and what helps, with its commands and what `exhibit` shows of it."""
    if not facts:
        return ""
    parts = [
        f'<div class="finding {escape(str(f["severity"]))}"><p><b>{escape(str(f["symptom"]))}</b></p>'
        f'<p>{escape(str(f["evidence"]))}</p><p class="soft">Because {escape(str(f["cause"]))}</p>'
        + (f"<p>{escape(str(f['advice']))}</p>" if "advice" in f else "")
        + "".join(f"<pre>{escape(str(line))}</pre>" for line in f.get("commands") or [f.get("command")] if line)
        + exhibit(f)
        + "</div>\n"
        for f in facts["findings"]
    ]
    unsure = "".join(
        f'<p class="soft">{what} {escape(text)}</p>\n'
        for name, what in (("unchecked", "Could not check"), ("inapplicable", "Nothing to check for"))
        for text in by_reason(facts.get(name, []))
    )
    calm = f"<p>Nothing found in {len(facts['checked'])} checks.</p>\n"
    return "".join(parts or [calm]) + unsure


def noticed(data: Facts) -> str:
    """What was found and done while data was read, and what was chosen."""
    rows = [
        (f["kind"], number(f["count"]), f["action"], ", ".join(map(str, f.get("examples", ()))))
        for f in data.get("findings", ())
    ]
    return table(("found", "count", "what was done", "examples"), rows) + fold(
        "Chosen while reading", table(("what", "because"), list((data.get("chosen") or {}).items()))
    )
