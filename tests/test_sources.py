"""Where the formulas come from: docs/sources.md has every citation of the code, in the file and at the place it names."""

import functools
import re
import textwrap
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "sources.md"

NAME = r"[A-Z][\w’'-]+"
CITATION = re.compile(rf"((?:{NAME}, )*{NAME}(?: & {NAME}| et al\.)?),? ((?:19|20)\d\d[a-z]?)\b")
"""As "Ho et al. 2020", "Lu & Song 2025", "Brown, Cai & DasGupta 2001" or "Wilson 1927"."""

KIND = r"(?:eqs?\. ?|§ ?|algorithms? |appendix |tables? |figs?\. ?|theorem |definition |ch\. |method )"
PLACE = re.compile(rf"{KIND}[\dA-Z][\w.]*\w|{KIND}[\dA-Z]")
MORE = re.compile(rf"(?:, | and | to |–)(?:{KIND})?(?:[\dA-Z][\w.]*\w|[\dA-Z])(?![\w])")
"""An equation, section, algorithm …; and what goes on from it: "eq. 12 and 16"."""

ACRONYM = re.compile(r"^\w*[A-Z]{2}\w*, ")
"""The name of a method before its authors, as in "(APG, Sadat et al. 2024)"."""

NO_SOURCES = {"JPEG 2000"}
"""What looks like a citation and is none."""


def flat(source):
    """The text of a module in one line, so that a citation may go over the end of one."""
    return re.sub(r"\s*\n\s*(?:# ?)?", " ", source)


def place_after(text):
    """The equation, section … that stands right after a citation, up to the end of its parenthesis; "" for none."""
    near = re.split(r"[);:]|\"\"\"|[A-Z]\w+ et al\.", text[:60])[0]
    first = PLACE.search(near)
    if first is None:
        return ""
    end = first.end()
    while more := MORE.match(near, end):
        end = more.end()
    return near[first.start() : end]


def citations_in(source):
    """(work, place in it) of every citation of a module; prefixes such as "APG," are no authors."""
    text = flat(source)
    for found in CITATION.finditer(text):
        work = f"{ACRONYM.sub('', found[1])} {found[2]}"
        if work not in NO_SOURCES:
            yield work, place_after(text[found.end() :])


@functools.cache
def cited():
    """{(work, file): places} over the whole package."""
    every = {}
    for path in sorted((ROOT / "ebb").rglob("*.py")):
        for work, place in citations_in(path.read_text()):
            every.setdefault((work, path.relative_to(ROOT / "ebb").as_posix()), set()).update({place} - {""})
    return every


def listed(page):
    """{(work, file): the places that the page has there}."""
    found = {}
    for row in re.findall(r"^\| ([^|]*\d{4}[a-z]?) \|(?:[^|]*\|)*? ([^|]*) \|$", page, re.MULTILINE):
        for file, places in re.findall(r"`([\w/]+\.py)`([^`]*)", row[1]):
            each = {place.strip(" ,") for place in places.split(";")} - {""}
            found[row[0], file] = found.get((row[0], file), set()) | each
    return found


def check(page, every):
    """The page has every citation with its places, and names no file that does not cite."""
    on_page = listed(page)
    missing = [f"{work}: `{file}` {'; '.join(sorted(places))}" for (work, file), places in every.items()
               if (work, file) not in on_page or not places <= on_page[work, file]]  # fmt: skip
    assert not missing, "add to docs/sources.md\n" + "\n".join(missing)
    strange = [f"{work}: {file}" for work, file in on_page if (work, file) not in every]
    assert not strange, "the code does not cite, or the file is gone:\n" + "\n".join(strange)


def test_every_citation_of_the_code_stands_in_the_page():
    assert len(cited()) > 150
    check(PAGE.read_text(), cited())


def test_a_citation_that_is_not_in_the_page_is_caught():
    page = PAGE.read_text()
    for place in ("eq. 3", ""):
        with pytest.raises(AssertionError, match=f"Nobody & Noone 2031: `sample/ddim.py` {place}"):
            check(page, cited() | {("Nobody & Noone 2031", "sample/ddim.py"): {place} - {""}})
    gone = "Ho et al. 2020", "sample/ddim.py"
    with pytest.raises(AssertionError, match=r"the file is gone:\n +Ho et al. 2020: sample/ddim.py"):
        check(page, {citation: places for citation, places in cited().items() if citation != gone})


def test_citations_are_read_as_they_are_written():
    source = '''
    """A step (Song et al. 2021, eq. 12 and 16; Lu &
    Song 2025, §4.1), as Brown, Cai & DasGupta 2001, ch. 3 to 5: JPEG 2000 is none (APG, Sadat et al. 2024,
    algorithm 1)."""
    '''
    assert list(citations_in(textwrap.dedent(source))) == [
        ("Song et al. 2021", "eq. 12 and 16"),
        ("Lu & Song 2025", "§4.1"),
        ("Brown, Cai & DasGupta 2001", "ch. 3 to 5"),
        ("Sadat et al. 2024", "algorithm 1"),
    ]


def test_a_row_has_authors_a_title_and_a_number_of_its_own():
    numbers = re.findall(r"\[(\d{4}\.\d{4,5})\]\(https://arxiv\.org/abs/(\d{4}\.\d{4,5})\)", PAGE.read_text())
    assert len(numbers) > 80
    assert all(shown == linked for shown, linked in numbers)
    assert len({shown for shown, _ in numbers}) == len(numbers), "one paper twice, or a wrong number"
    for line in PAGE.read_text().splitlines():
        if row := re.match(r"\| (?:[^|]*?)((?:19|20)\d\d)[a-z]? \| ([^|]+) \| ([^|]+) \| ([^|]*) \| ([^|]+) \|$", line):
            number = re.match(r"\[(\d\d)", row[4])
            assert number is None or 2000 + int(number[1]) <= int(row[1]) + 1, line


REQUIRED = {"cff-version", "message", "title", "authors"}
"""Of the Citation File Format, 1.2.0."""


def check_citation(text):
    found = yaml.safe_load(text)
    assert found.keys() >= REQUIRED
    assert found["cff-version"] == "1.2.0"
    assert found["type"] == "software"
    assert all(author.keys() & {"name", "family-names"} for author in found["authors"])
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{found["version"]}"' in project
    assert f'license = "{found["license"]}"' in project
    return found


def test_ebb_itself_can_be_cited():
    text = (ROOT / "CITATION.cff").read_text()
    assert check_citation(text)["title"].startswith("ebb")
    mutants = {"authors:": "writers:", "1.2.0": "1.1.0", "Apache-2.0": "MIT", "message:": "massage:"}
    for right, wrong in mutants.items():
        with pytest.raises((AssertionError, KeyError)):
            check_citation(text.replace(right, wrong))
