"""A page as plain text: its headings, sentences and tables, and of each picture and drawing what it shows."""

from __future__ import annotations

from html.parser import HTMLParser
from textwrap import wrap

BLOCKS = {"p", "h1", "h2", "h3", "div", "header", "section", "summary", "figure", "pre"}
"""Elements that begin and end a line."""

RULES = {"h1": "=", "h2": "-", "h3": "", "summary": ""}
"""Headings, and what they are underlined with."""

SILENT = {"style", "title", "svg", "figcaption"}
"""Elements whose text is left out: what a drawing or a picture shows is said once, by its label."""

PARTS = {"small": ", ", "b": ": "}
"""What stands before the parts of a line of figures: "recall: 0.7, real images score 0.8"."""

INDENT = " " * 4


def plain(page: str, columns: int = 100) -> str:
    """The text of a page of `ebb.report.page.page`, wrapped to so many columns but for tables and code."""
    reader = PlainText(columns)
    reader.feed(page)
    reader.close()
    return "\n".join(reader.lines).strip("\n") + "\n"


class PlainText(HTMLParser):
    """Writes `lines` while it reads a page."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.lines: list[str] = []
        self.words, self.silent = "", 0
        self.rows: list[list[str]] = []
        self.divs: list[str] = []

    @property
    def figures(self) -> bool:
        """Whether it is among tiles or bars, which are lines of figures."""
        return bool({"tiles", "bars"} & {*self.divs})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a line, a row, or a part of a line of figures."""
        given = {name: value or "" for name, value in attrs}
        if tag in BLOCKS and not self.rows:
            self.end_line()
        if tag == "div":
            self.divs.append(given.get("class", ""))
        elif tag == "tr":
            self.rows.append([])
        elif tag == "br":
            self.words += " "
        elif tag in PARTS and self.figures and self.words:
            self.words += PARTS[tag]
        elif tag == "img":
            self.lines.append(f"{INDENT}[picture: {given.get('alt', '')}]")
        elif tag == "svg" and "aria-label" in given and self.rows:
            self.words += given["aria-label"]
        elif tag == "svg" and "aria-label" in given:
            self.lines.append(f"{INDENT}[drawing: {given['aria-label']}]")
        self.silent += tag in SILENT

    def handle_endtag(self, tag: str) -> None:
        """End a line, a cell or a table."""
        self.silent -= tag in SILENT
        if tag in ("td", "th"):
            self.rows[-1].append(" ".join(self.words.split()))
            self.words = ""
        elif tag == "table":
            self.end_table()
        elif (tag in BLOCKS and not self.rows) or (tag == "b" and "bars" in self.divs):
            self.end_line(tag)
        if tag == "div":
            self.divs.pop()

    def handle_data(self, data: str) -> None:
        """Text, unless a label stands for it."""
        if not self.silent:
            self.words += data

    def end_line(self, tag: str = "") -> None:
        """Write what was read since the last line, as that element is shown."""
        text, self.words = self.words, ""
        if tag == "pre":
            self.lines += [INDENT + line for line in text.splitlines()]
            return
        text = " ".join(text.split())
        if text and tag in RULES:
            self.lines += ["", text, *([RULES[tag] * len(text)] if RULES[tag] else [])]
        elif text:
            self.lines += wrap(text, self.columns, break_long_words=False, break_on_hyphens=False)

    def end_table(self) -> None:
        """Write the rows, each column as wide as its widest cell; what was drawn in cells leaves no column."""
        rows, self.rows = self.rows, []
        count = max(map(len, rows), default=0)
        padded = [row + [""] * (count - len(row)) for row in rows if any(row)]
        used = [at for at in range(count) if any(row[at] for row in padded)]
        wide = {at: max(len(row[at]) for row in padded) for at in used}
        self.lines += ["  ".join(row[at].ljust(wide[at]) for at in used).rstrip() for row in padded]
