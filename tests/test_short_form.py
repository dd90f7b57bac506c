"""The short form of the tests leaves out cases of large products, and no value of any list."""

from itertools import product
from types import SimpleNamespace

import pytest


@pytest.fixture
def left(request):
    """left(lists) has the cases (i, j, …) of their product that the short form leaves out."""
    thinned = next(one.thinned for one in request.config.pluginmanager.get_plugins() if hasattr(one, "thinned"))

    def left(*lengths):
        cases = [
            SimpleNamespace(
                nodeid=f"test_it.py::test_it[{'-'.join(map(str, at))}]",
                callspec=SimpleNamespace(params=dict(zip("abc", at, strict=False))),
            )
            for at in product(*map(range, lengths))
        ]
        return {tuple(case.callspec.params.values()) for case in thinned(cases)}

    return left


@pytest.mark.parametrize("lengths", [(6, 20), (20, 6), (6, 5, 4), (2, 30)])
def test_every_value_stays_and_most_cases_of_a_product_go(left, lengths):
    gone = left(*lengths)
    stay = [at for at in product(*map(range, lengths)) if at not in gone]
    for axis, length in enumerate(lengths):
        assert {at[axis] for at in stay} == set(range(length))
    assert len(stay) <= sum(lengths)
    assert gone == left(*lengths), "the same ones everywhere"


@pytest.mark.parametrize("lengths", [(3, 4), (50,)])
def test_small_products_and_lists_stay_whole(left, lengths):
    assert left(*lengths) == set()
