"""The exit codes: each means one thing, and the page has them all."""

import re
from pathlib import Path

from ebb.errors import DamagedError, DataError, EbbError, Exit, ResourceError, UsageError
from ebb.store.lock import BusyError

PAGE = Path(__file__).parents[2] / "docs" / "runs.md"


def test_the_page_has_the_table_of_the_code():
    table = PAGE.read_text(encoding="utf8").partition("## Exit codes")[2]
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)
    assert [(int(code), meaning) for code, meaning in rows] == [(code.value, code.meaning) for code in Exit]


def test_each_kind_of_error_has_a_code_of_its_own():
    kinds = (EbbError, UsageError, DataError, ResourceError, DamagedError, BusyError)
    assert [kind("what").code for kind in kinds] == [1, 2, 3, 4, 5, 6]
