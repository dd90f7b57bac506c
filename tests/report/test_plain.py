"""A page as text: every sentence and figure of it, once, and nothing of how it looks."""

import re

from ebb.report.page import Markup, fold, page, section, table
from ebb.report.plain import plain
from ebb.report.plot import Line, bars, beside, plot


def test_headings_tables_and_code_are_laid_out():
    body = section("Figures", table(("", "samples"), [("recall", 0.7), ("a < b", Markup(beside(1, 0, 2, 1)))]))
    text = plain(page("T", f"<header><h1>digits</h1><pre>ebb train a &amp; b\n  --x</pre></header>\n{body}"))
    assert text == (
        "digits\n======\n    ebb train a & b\n      --x\n\nFigures\n-------\n        samples\nrecall  0.7\na < b\n"
    )


def test_drawings_and_pictures_are_named_once_and_bars_are_figures():
    drawn = plot([Line("a", [(0, 1), (1, 2)])], "Loss") + bars({"seven": (1.0, "97.0%"), "two": (0.5, "90.0%")})
    tiles = '<div class="tiles"><div><small>recall</small><b>0.7</b><small>real images score 0.8</small></div></div>'
    shown = '<figure><img alt="samples" src="data:,"><figcaption>samples</figcaption></figure>'
    text = plain(page("T", drawn + tiles + shown + fold("Settings", table(("a",), [("b",)]))))
    for line in (
        "    [drawing: Loss]",
        "seven: 97.0%",
        "two: 90.0%",
        "recall: 0.7, real images score 0.8",
        "    [picture: samples]",
        "Settings",
        "b",
    ):
        assert line in text.splitlines(), line
    assert text.count("Loss") == text.count("[picture") == 1
    assert not re.search(r"[<>{}]", text)


def test_long_sentences_are_wrapped_and_tables_are_not():
    text = plain(page("T", f"<p>{'word ' * 60}</p>" + table(("a",), [("x" * 150,)])))
    assert max(len(line) for line in text.splitlines() if "word" in line) <= 100
    assert "x" * 150 in text
