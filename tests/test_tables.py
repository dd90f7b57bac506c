"""The tables in the pages are of the code as it is: nothing missing, nothing stale, and measured again here and there."""

import inspect
import re
import sys
from pathlib import Path

import pytest

import ebb

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text(encoding="utf8") for name in ("sample", "guide")}
AGAIN = "run: python docs/tables.py"


@pytest.fixture(scope="module")
def tables():
    """The script, as a module."""
    sys.path.insert(0, str(DOCS))
    try:
        import tables

        yield tables
    finally:
        sys.path.remove(str(DOCS))


def rows(page, name):
    """The cells of a table by head, the first cell's code being its name."""
    block = re.search(rf"<!-- {name}: .* -->\n(.*?)\n<!-- end of {name} -->", PAGES[page], re.DOTALL)[1]
    head, _, *body = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines())
    return {cells[0].strip("`"): dict(zip(head, cells, strict=True)) for cells in body}


DETERMINISTIC, STOCHASTIC = rows("sample", "deterministic"), rows("sample", "stochastic")
SOLVERS, GUIDES = DETERMINISTIC | STOCHASTIC, rows("guide", "guides")


def test_every_solver_has_one_row():
    assert not DETERMINISTIC.keys() & STOCHASTIC.keys()
    assert set(SOLVERS) == set(ebb.SOLVERS), AGAIN


@pytest.mark.parametrize("name", ebb.SOLVERS)
def test_what_is_stated_is_what_the_solver_says(name, tables):
    solver, row = ebb.SOLVERS[name], SOLVERS[name]
    assert row["class"] == f"`{type(solver).__name__}`", AGAIN
    assert row["order"] == f"{solver.order}", AGAIN
    assert row["what it is"] == tables.first_sentence(solver), AGAIN
    assert row["calls a step"] == tables.calls(solver), AGAIN


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_measured_orders_are_the_stated_ones(name):
    least, most = map(float, DETERMINISTIC[name]["measured"].split(" – "))
    assert least <= most
    assert max(abs(order - ebb.SOLVERS[name].order) for order in (least, most)) <= 0.3


@pytest.mark.parametrize(("name", "path"), [("ddim", "edm"), ("dpmpp_2m", "cosine")])
def test_orders_measured_again(name, path, tables):
    least, most = map(float, DETERMINISTIC[name]["measured"].split(" – "))
    for flow in tables.flows(ebb.PATHS[path]):
        assert least - 0.02 <= tables.order(ebb.SOLVERS[name], *flow) <= most + 0.02, AGAIN


def test_moments_are_near_get_nearer_and_are_measured_again(tables):
    for row in STOCHASTIC.values():
        mean, covariance = float(row["mean, 50 steps"]), float(row["covariance"])
        assert max(mean, covariance) < 0.1
        assert float(row["at 200 steps"].split()[0]) > 1
    mean, covariance = tables.moments(ebb.SOLVERS["ddpm"], ebb.PATHS["linear"], 50)
    assert mean <= float(STOCHASTIC["ddpm"]["mean, 50 steps"]) + 1e-4
    assert 0.5 < covariance / float(STOCHASTIC["ddpm"]["covariance"]) < 1.01, AGAIN


def guide_functions():
    """What ebb exports that makes a guide."""
    for name in ebb.__all__:
        member = getattr(ebb, name)
        if inspect.isfunction(member) and inspect.signature(member).return_annotation == "Guide":
            yield name


def test_every_guide_has_a_row(tables):
    called = {re.match(r"\w+", call)[0] for call in GUIDES}
    assert len(list(guide_functions())) > 10
    assert called == set(guide_functions()), AGAIN
    assert set(GUIDES) == {row.call for row in tables.GUIDES}, AGAIN


def test_every_exported_part_of_guides_is_spoken_of():
    """Also what those parts are made with, which is imported from its room."""
    exported = {name for name in ebb.__all__ if getattr(getattr(ebb, name), "__module__", "").startswith("ebb.guide")}
    operators = {"Operator", "blur", "downsample", "mask", "sensing"}
    for name in exported | operators | {"NetworkClassifier", "Ball", "Box", "HalfSpace", "Intersection"}:
        assert re.search(rf"\b{name}\b", PAGES["guide"]), name


def test_every_guide_is_as_near_as_float64_allows():
    assert all(float(row["worst difference"]) < 1e-8 for row in GUIDES.values())


@pytest.mark.parametrize("call", ["cfg(scale, null)", "classifier(model, scale)", "mmps(y, operator, noise)"])
def test_guides_measured_again(call, tables):
    (row,) = (row for row in tables.GUIDES if row.call == call)
    assert GUIDES[call]["what it computes"].replace("\\|", "|") == tables.first_sentence(row.formula), AGAIN
    assert max(row.difference(ebb.PATHS[path]) for path in ("linear", "edm")) < 1e-10


def test_first_sentences_end_where_they_end(tables):
    def of():
        """A jump (Song et al. 2021, eq. 3), 0.5 long. And more."""

    assert tables.first_sentence(of) == "A jump (Song et al. 2021, eq. 3), 0.5 long"


def test_a_page_without_a_place_is_an_error(tables):
    page = "a\n<!-- it: by tables.py -->\nold\n<!-- end of it -->\nb"
    assert tables.written(page, "it", "new") == page.replace("old", "new")
    assert tables.written(page.replace("old\n", ""), "it", "new") == page.replace("old", "new")
    with pytest.raises(RuntimeError, match="no place"):
        tables.written(page, "other", "new")
