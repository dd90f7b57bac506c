"""Every check that there is, whatever it looks at: counted and described where the pages say so."""

import re
from pathlib import Path

from ebb.doctor.adapter_checks import ADAPTER_CHECKS
from ebb.doctor.data_checks import DATA_CHECKS
from ebb.doctor.finding import called
from ebb.doctor.model_checks import MODEL_CHECKS
from ebb.doctor.run_adapter import OF_ADAPTERS
from ebb.doctor.run_autoencoder import AUTOENCODER_CHECKS
from ebb.doctor.run_checks import RUN_CHECKS
from ebb.doctor.run_few_steps import FEW_STEP_CHECKS
from ebb.doctor.table_checks import TABLE_CHECKS

DOCS = Path(__file__).parents[2] / "docs"

OF_RUNS = {*RUN_CHECKS, *AUTOENCODER_CHECKS, *FEW_STEP_CHECKS, *OF_ADAPTERS}
EVERY = {*MODEL_CHECKS, *DATA_CHECKS, *TABLE_CHECKS, *ADAPTER_CHECKS, *OF_RUNS}
"""A check of two subjects, as one of classes is of pictures and of tables, is one."""


def test_the_handbook_counts_the_checks():
    [counted] = re.findall(r"`ebb doctor`: (\d+) checks", (DOCS / "README.md").read_text(encoding="utf8"))
    assert int(counted) == len(EVERY) == len({called(check) for check in EVERY})


def test_every_check_has_its_row():
    page = (DOCS / "diagnose.md").read_text(encoding="utf8")
    cells = re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE)
    named = {name.strip() for cell in cells for name in cell.split(",")}
    assert {called(check) for check in EVERY} - named == set()
