"""docs/own.md: every part in a dozen lines, as a reader would run it; and contracts that a wrong part does not pass."""

import dataclasses
import re
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

import ebb
from ebb.encode.condition import each
from ebb.events import Event
from ebb.networks.ports import VectorPort
from ebb.testing.of_training import EVENTS
from ebb.train.objectives.weights import WEIGHTS

PAGE = (Path(__file__).parents[1] / "docs" / "own.md").read_text(encoding="utf8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PARTS = {"path", "prediction", "weight", "solver", "guide", "network", "condition", "objective", "tracker"}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What the blocks of the page define, run from the first to the last, elsewhere."""
    pytest.importorskip("sklearn")
    names = {"__name__": "own"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("own"))
        for block in BLOCKS:
            exec(compile(block, "own.md", "exec"), names)
    return names


def test_the_page_runs_and_what_it_makes_learns(page):
    """The points lie about (0.5, -0.5), and the samples go there with own path, prediction, weight, network and solver."""
    assert sorted(page["losses"].of) == [1, 2, 3, 4]
    assert (page["last"].x.mean(0) - torch.tensor([0.5, -0.5])).abs().max() < 0.2


def test_each_part_is_a_dozen_lines_and_held_to_its_contract():
    held = [re.search(r"ebb\.testing\.check_(\w+)", block) for block in BLOCKS]
    assert {found[1] for found in held if found} == PARTS
    for block in BLOCKS:
        lines = [line for line in block.splitlines() if line and not line.startswith(("import", "from"))]
        assert len(lines) <= 12, block


@pytest.mark.parametrize("path", [ebb.Linear(), ebb.Cosine(), ebb.EDM()])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_every_weight_of_ebb_keeps_the_contract(weight, path):
    ebb.testing.check_weight(WEIGHTS[weight], path)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (lambda path, t, det: t.new_ones(()), "a weight for each of 33 times"),
        (lambda path, t, det: t - 0.5, "at least 0"),
        (lambda path, t, det: 0 * t, "not all 0"),
        (lambda path, t, det: t / 0, "finite"),
        (lambda path, t, det: t / t.mean(), "alone and in a batch"),
    ],
    ids=["one", "negative", "nothing", "infinite", "of its batch"],
)
def test_wrong_weights_are_caught(weight, message):
    with pytest.raises(AssertionError, match=message):
        ebb.testing.check_weight(weight, ebb.Cosine())


@dataclasses.dataclass(frozen=True)
class Size:
    """A number, which says nothing as NaN."""

    port, turns = VectorPort(1), ()

    def given(self, asked, count):
        return each(asked, count, "size", float | int)

    def __call__(self, given):
        return torch.tensor([[float("nan") if size is None else float(size)] for size in given])

    def examples(self):
        return self([0.0, 1.0])


class Loud(Size):
    def __call__(self, given):
        return super().__call__([0.0 if size is None else size for size in given])


class OfItsBatch(Size):
    def __call__(self, given):
        rows = super().__call__(given)
        return rows - rows.nan_to_num().mean()


class Lenient(Size):
    def given(self, asked, count):
        return [asked] * count if not isinstance(asked, list) else asked[:count]


def test_wrong_conditions_are_caught():
    ebb.testing.check_condition(Size(), [0.0, 2.0])
    for wrong, message in ((Loud, "hears None as it hears 0.0"), (OfItsBatch, "alone and in a batch"), (Lenient, "UsageError")):  # fmt: skip
        with pytest.raises(AssertionError, match=message):
            ebb.testing.check_condition(wrong(), [0.0, 2.0])
    with pytest.raises(AssertionError, match="has port, turns, given and examples"):
        ebb.testing.check_condition(lambda given: given, [0.0, 2.0])


def model():
    network = ebb.MLP(2, width=8, depth=1)
    nn.init.normal_(network.out.weight)
    return ebb.NetworkDenoiser(network, ebb.Linear(), ebb.velocity)


@dataclasses.dataclass
class Wrong:
    """Denoising, with a mistake."""

    mistake: str

    def __call__(self, model, batch, generator):
        if self.mistake == "global":
            torch.rand(1)
        if self.mistake == "fixed":
            generator = torch.Generator().manual_seed(7)
        loss = ebb.Denoising()(model, batch, generator)
        if self.mistake == "detached":
            loss = loss._replace(value=loss.value.detach().requires_grad_())
        if self.mistake == "terms":
            loss = loss._replace(terms={"part": loss.value})
        if self.mistake == "vector":
            loss = loss._replace(value=loss.value[None])
        if self.mistake == "written":
            batch.x0.zero_()
        return loss


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("global", "global generator was moved"),
        ("fixed", "another generator gives the same loss"),
        ("detached", "no weight has a gradient"),
        ("terms", "detached"),
        ("vector", "a finite scalar"),
        ("written", "another loss|written to"),
    ],
)
def test_wrong_objectives_are_caught(mistake, message):
    batch = ebb.Batch(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), {})
    ebb.testing.check_objective(ebb.Denoising(), model(), batch)
    with pytest.raises(AssertionError, match=message):
        ebb.testing.check_objective(Wrong(mistake), model(), batch)


def test_a_tracker_is_shown_every_kind_of_event():
    assert {type(event) for event in EVENTS} == set(get_args(Event))
    ebb.testing.check_tracker(lambda event: None)
    with pytest.raises(AssertionError, match="Message was too much for it: AttributeError"):
        ebb.testing.check_tracker(lambda event: event.figures["loss"])
