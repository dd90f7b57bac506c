"""The keys of evaluation.json are those of the page for scripts, and stay so."""

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

from ebb.evaluate.evaluate import Evaluated
from ebb.evaluate.figures import Distance
from ebb.evaluate.measure import Evaluation

PAGE = Path(__file__).parents[2] / "docs" / "evaluate.md"


def listed(text):
    """The keys of the page's table: {key: the keys in it}."""
    rows = re.findall(r"^\| (`.*?) \| .*? \| (.*?) ?\|$", text.partition("| key | what | in it |")[2], re.MULTILINE)
    return {key: {*re.findall("`(.*?)`", inside)} for keys, inside in rows for key in re.findall("`(.*?)`", keys)}


def written():
    """What `Evaluated.facts` writes: every part under its name, with its fields."""
    parts = {
        name: next((one for one in (hint, *get_args(hint)) if is_dataclass(one)), None)
        for name, hint in get_type_hints(Evaluated).items()
    }
    own = {field.name: set() for field in fields(Evaluation)} | {"verdict": set()}
    own["distances"] = {field.name for field in fields(Distance)}
    del parts["figures"]
    return own | {name: {field.name for field in fields(part)} for name, part in parts.items()}


def test_the_page_lists_what_is_written():
    assert listed(PAGE.read_text(encoding="utf8")) == written()


def test_a_key_that_is_renamed_shows():
    text = PAGE.read_text(encoding="utf8")
    assert listed(text.replace("`peak_mb`", "`memory`")) != written()
    assert listed(text.replace("| `verdict` | all", "| `said` | all")) != written()
