import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebb.errors import UsageError
from ebb.networks.kinds import NETWORKS
from ebb.process.path import EDM, PATHS
from ebb.process.predict import PREDICTIONS, v
from ebb.process.times import GRIDS, Karras
from ebb.recipe.names import parse, spell
from ebb.sample.solvers import SOLVERS

TABLES = {"path": PATHS, "prediction": PREDICTIONS, "grid": GRIDS, "solver": SOLVERS}


@pytest.mark.parametrize(("idea", "name"), [(idea, name) for idea, table in TABLES.items() for name in table])
def test_every_name_reads_back(idea, name):
    made = parse(name, TABLES[idea], idea)
    assert parse(spell(made, TABLES[idea]), TABLES[idea], idea) == made


def test_fields():
    assert parse("karras(rho=5)", GRIDS, "grid") == parse("karras(5)", GRIDS, "grid") == Karras(rho=5.0)
    assert parse(" edm(sigma_max=20.0) ", PATHS, "path") == EDM(20.0)
    assert parse("v", PREDICTIONS, "prediction") is v
    assert parse(spell(NETWORKS["unet"](1, width=8), NETWORKS), NETWORKS, "network").settings["width"] == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("karas", "did you mean 'karras'"),
        ("karras(roh=5)", r"(?s)no field 'roh'.*did you mean 'rho'"),
        ("karras(rho='x')", "valid number"),
        ("uniform(a=1)", "it has none"),
        ("karras(5, 6, 7, 8)", r"(?s)more values than fields.*fields of karras:.* rho"),
        ("karras(5, rho=5)", "more values than fields"),
        ("uniform(5)", r"(?s)more values than fields.*none"),
        ("__import__('os').system('true')", "not of the form"),
        ("karras(rho=open('x'))", "not of the form"),
        ("", "not of the form"),
    ],
)
def test_mistakes_are_explained(text, message):
    with pytest.raises(UsageError, match=message):
        parse(text, GRIDS, "grid")


@given(st.text(max_size=40))
def test_no_text_does_anything_but_name_or_fail(text):
    with contextlib.suppress(UsageError):
        parse(text, GRIDS, "grid")


def test_a_part_of_ones_own_cannot_be_spelled():
    with pytest.raises(UsageError, match="is not one of"):
        spell(object(), PATHS)
