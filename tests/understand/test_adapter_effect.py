"""What an adapter changes: nothing where it is silent, what was taught, its control, and the rest."""

import pytest
import torch

import ebb
from ebb.data.of_run import data_of
from ebb.events import finished
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import AdapterRecipe
from ebb.run.train import train
from ebb.system.taught import base_of
from ebb.understand.adapter_effect import REST, SHUFFLED, TAUGHT, Taught, effect_of, known, others

from ..toys import trained, write


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    home = tmp_path_factory.mktemp("effect")
    network = {"width": 16, "depth": 1, "multipliers": (1,), "cross": (0,)}
    trained(write(home / "data"), home / "base", network=network, steps=10)
    write(home / "more", 6)
    small = {"batch": 4, "precision": "fp32", "sheets": 1, "steps": 2, "prior": 8, "addition": {"rank": 1}}
    run = finished(train(home / "more", AdapterRecipe(adapts=str(home / "base"), **small), run=home / "run"))
    return Taught.of(from_yaml(run / "run.yaml")[0], data_of(run), ebb.load(run), base_of(run))


def test_what_is_silent_has_no_effect_and_what_is_loud_has(taught):
    for change in taught.system.model.module.modules():
        if hasattr(change, "up"):
            change.up.data.zero_()
    silent = effect_of(taught)
    assert [row.name for row in silent.rows] == [TAUGHT, SHUFFLED, REST]
    assert all(abs(value) < 1e-6 for row in silent.rows for value in (row.size.value, row.gain.value))
    for change in taught.system.model.module.modules():
        if hasattr(change, "up"):
            change.up.data.normal_(std=0.3)
    loud = effect_of(taught)
    assert loud.size.value > 0.05
    assert loud.size.low <= loud.size.value <= loud.size.high
    assert "of their size for what it was taught" in str(loud)
    [(_, without, with_it), _] = taught.pairs()
    assert without.shape == with_it.shape
    assert not torch.equal(without, with_it)


def test_conditions_are_those_that_the_base_knows(taught):
    assert known({"text": ["a bright sky"], "label": ["new"]}, taught.base) == {"text": ["a bright sky"]}
    values = {"text": ["a bright sky", "a bright ground"]}
    shuffled = others(values, taught.base)["text"]
    assert all(one != other for one, other in zip(shuffled, values["text"], strict=True))
    assert others({"reference": [1, 2, 3]}, taught.base) == {"reference": [2, 3, 1]}, "that of another example"
