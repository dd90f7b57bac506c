"""The doctor on adapters' runs: each fault is found where it is planted, and none in a good one."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ebb.adapt.low_rank import LowRank
from ebb.doctor import run_adapter as checks
from ebb.doctor.diagnose import checks_of
from ebb.doctor.finding import NothingToExamineError, called
from ebb.doctor.run_subject import RunSubject
from ebb.errors import UsageError
from ebb.recipe.recipe import AdapterRecipe
from ebb.understand.adapter_effect import REST, SHUFFLED, TAUGHT, AdapterEffect
from ebb.understand.effect import Change, Estimate


def near(value):
    return Estimate(value, 0.9 * value, 1.1 * value)


def changed(name, size, gain):
    return Change(name, 20, near(size), near(gain))


def pictures(seed, count=24):
    return torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


class StandIn(RunSubject):
    """A run of which all facts are set."""

    dataset = property(lambda self: self.__dict__["data_set"])
    checkpoint = property(lambda self: Path("runs/a/checkpoints/step-000010"))
    again = lambda self, changes=None: f"ebb train … {changes}"  # noqa: E731
    length = lambda self, steps=None: "some images"  # noqa: E731
    steps = property(lambda self: 100)


def run_of(taught=(0.2, 0.5), control=(0.2, 0.1), rest=(0.02, 0.0), made=None, idle=0):
    """An adapter's run with these sizes and gains, these samples, and so many layers that were never trained."""
    run, changes = StandIn(Path("runs/a")), [LowRank((4, 4), 1) for _ in range(3)]
    for at, change in enumerate(changes):
        change.up.data.fill_(float(at >= idle))
    rows = [changed(TAUGHT, *taught), *([] if control is None else [changed(SHUFFLED, *control)]), changed(REST, *rest)]
    vars(run).update(
        document=(AdapterRecipe(adapts="runs/base", batch=8, steps=100), {}),
        effect=AdapterEffect(tuple(rows), "an adapter"),
        system=SimpleNamespace(
            model=SimpleNamespace(module=torch.nn.ModuleList(changes), reconstructs=False), modality=None
        ),
        data_set=SimpleNamespace(rows=np.zeros(24)),
        real=pictures(0),
        drawn=SimpleNamespace(samples=pictures(1) if made is None else made),
        log=[{"seconds": 1, "images": 100}],
    )
    return run


PLANTED = {
    "adapter idle": run_of(taught=(1e-4, 0.0), control=(1e-4, 0.0), rest=(1e-5, 0.0)),
    "layers untrained": run_of(idle=2),
    "rest moved": run_of(rest=(0.19, -0.4)),
    "label unheeded": run_of(control=(0.2, 0.48)),
    "taught copied": run_of(made=pictures(0)[:20] + 0.01),
}
BY_NAME = {called(check): check for check in checks.OF_ADAPTERS}


@pytest.fixture(autouse=True)
def based(monkeypatch):
    """The base is there."""
    monkeypatch.setattr(checks.shared, "opened", lambda where: ({}, None))
    monkeypatch.setattr(checks, "base_run", lambda contract, where: Path("runs/base"))


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_and_no_other(name):
    found = [finding.name for check in checks.OF_ADAPTERS if (finding := check(PLANTED[name])) is not None]
    assert found == [name]


def test_a_good_one_is_quiet():
    assert [check(run_of()) for check in checks.OF_ADAPTERS] == [None] * len(checks.OF_ADAPTERS)
    assert set(PLANTED) | {"base missing"} == set(BY_NAME)


def test_another_base_is_an_error(monkeypatch):
    def gone(contract, where):
        raise UsageError("its base has other weights", "bring it back")

    monkeypatch.setattr(checks, "base_run", gone)
    assert BY_NAME["base missing"](run_of()).severity == "error"


def test_what_cannot_be_asked_is_said():
    with pytest.raises(NothingToExamineError):
        BY_NAME["label unheeded"](run_of(control=None))
    for asked in ({"reference": True}, {"addition": {"kind": "control", "extractor": "edges"}}):
        shown = run_of(made=pictures(0)[:20] + 0.01)
        vars(shown).update(document=(AdapterRecipe(adapts="runs/base", **asked), {}))
        with pytest.raises(NothingToExamineError, match="by the pictures themselves"):
            BY_NAME["taught copied"](shown)


def test_these_are_asked_of_adapters():
    assert set(checks.OF_ADAPTERS) <= set(checks_of(run_of()))
