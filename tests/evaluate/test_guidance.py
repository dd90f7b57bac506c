"""The choice of guidance: right where the best scale is known, cautious where chance decides, within its time."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import ebb
from ebb.evaluate import guidance
from ebb.evaluate.compare import gap_of
from ebb.evaluate.guidance import Attempt, because, best, choose_guidance, race, undecided
from ebb.evaluate.sweep import Cell
from ebb.events import Message, finished
from ebb.guide.named import guided
from ebb.judge.distances import estimate, frechet_counted, once
from ebb.process.exact import Mixture
from ebb.process.path import Linear
from ebb.process.times import GRIDS
from ebb.recipe.groups import UNetRecipe
from ebb.recipe.recipe import Recipe, Sampling
from ebb.sample.noise import Noise
from ebb.sample.scheme import Scheme
from ebb.sample.solvers import SOLVERS
from ebb.verbs import learn

COUNT, NULL = 500, {"label": torch.tensor([2])}


@dataclass(frozen=True)
class Faint:
    """Two classes at (±1, 0), of which the model hears only 1/scale of what its label says: null + (own − null)/scale.

    Guidance by just that scale is the exact denoiser of the class.
    """

    scale: float
    path: Linear = Linear()
    takes_moments = True

    def mixture(self, *places):
        means = torch.tensor([[place, 0.0] for place in places], dtype=torch.float64)
        share = torch.full((len(places),), 1 / len(places), dtype=torch.float64)
        return Mixture(self.path, means, torch.full_like(share, 0.7), share)

    def __call__(self, x, t, cond):
        null, low, high = (self.mixture(*places)(x, t, {}) for places in ((-1.0, 1.0), (-1.0,), (1.0,)))
        own = torch.stack([low, high, null])[cond["label"], torch.arange(len(x))]
        return null + (own - null) / self.scale


class Aside(Faint):
    """The exact denoiser of each class, but moved to the side: earlier by twice as much, so that the line from what it
    said then through what it says now leads to the right answer, at scale 2."""

    def earlier(self, x, t, cond):
        return 2 * self(x, t, cond) - super().__call__(x, t, cond)

    def __call__(self, x, t, cond):
        aside = torch.tensor([[0.0, -0.4], [0.0, 0.4], [0.0, 0.0]], dtype=torch.float64)
        return super().__call__(x, t, cond) + aside[cond["label"]]


@dataclass(frozen=True)
class Earlier:
    """What such a model was earlier."""

    model: Aside
    takes_moments = True

    @property
    def path(self):
        return self.model.path

    def __call__(self, x, t, cond):
        return self.model.earlier(x, t, cond)


@functools.cache
def attempts_of(model):
    """Samples of a model, drawn and compared as those of a run.

    Features are places turned so that each class lies at (1, 0).
    """
    labels, earlier = torch.arange(COUNT) % 2, Earlier(model) if isinstance(model, Aside) else None
    real = model.mixture(1.0).sample(2000, torch.Generator().manual_seed(1)).numpy()

    def drawing(how):
        scheme = Scheme(model, SOLVERS["dpmpp_2m"], GRIDS["log_snr"](model.path, 10).double())
        around = scheme.guided(*guided(how.guides, how.guidance, NULL, earlier=lambda: earlier))
        rows = around.fresh(torch.empty(COUNT, 2, dtype=torch.float64), {"label": labels}, Noise.of(0, COUNT))
        rows = (rows * (2 * labels - 1)[:, None]).numpy()
        return Cell(how, once(frechet_counted, rows, real), None, 1.0, 0.0, np.empty(0, np.uint8)), rows

    def pairing(rows, own):
        return estimate(gap_of(frechet_counted, 2), np.hstack([rows, own]), real, resamples=30, seed=0)

    others = [Sampling(guidance=2.0, guides=("auto",))] if earlier else []
    return list(race(Sampling, drawing, pairing, float("inf"), others))


def check_oracle(choose):
    """The scale that makes a faint model exact is chosen; a model that is exact without guidance keeps none; one that
    its earlier average makes exact is guided by that."""
    assert choose(attempts_of(Faint(1.5))).sampling.guidance == 1.5
    assert choose(attempts_of(Faint(1.0))).sampling == Sampling()
    assert choose(attempts_of(Aside(1.0))).sampling.guides == ("auto",)


def test_the_scale_that_is_exact_is_chosen():
    check_oracle(best)


@pytest.mark.parametrize(
    "mutant",
    [
        lambda attempts: max(attempts[1:], key=lambda attempt: attempt.distance),
        lambda attempts: next((attempt for attempt in attempts[1:] if attempt.low > 0), attempts[0]),
    ],
    ids=["farthest", "wrong sign"],
)
def test_a_choice_of_the_wrong_sign_is_caught(mutant):
    with pytest.raises(AssertionError):
        check_oracle(mutant)


def attempt(scale, distance, low, high):
    return Attempt(Sampling(guidance=scale), distance, distance - 1.0, low, high, 0.5, 10.0)


def test_what_chance_may_have_ranked_first_is_not_chosen():
    """A nearer setting whose interval holds 0 is left; of those that are surely nearer the nearest is taken."""
    off = attempt(1, 1.0, 0, 0)
    lucky, good, better = attempt(2, 0.7, -0.7, 0.1), attempt(1.25, 0.9, -0.2, -0.05), attempt(1.5, 0.8, -0.3, -0.1)
    assert best([off, lucky]) is off
    assert best([off, lucky, good, better]) is better
    assert "stays off" in because([off, lucky], off, 500)
    assert "guidance 1.5 from now on: 500 samples lie 0.8" in because([off, better], better, 500)


@pytest.mark.parametrize("until", [0.0, 35.0, 1000.0])
def test_the_time_is_kept(until, monkeypatch):
    """A setting takes ten seconds here, guided ones up to twenty: none is begun that might not end in time."""
    clock = [0.0]
    monkeypatch.setattr(guidance.time, "perf_counter", lambda: clock[0])

    def drawing(how):
        clock[0] += 10.0 if how.guidance == 1 else 20.0
        return Cell(how, 1.0, None, 1.0, 0.0, np.empty(0, np.uint8)), np.zeros((4, 2))

    tried = list(race(Sampling, drawing, lambda rows, own: (0.0, -1.0, 1.0), until))
    assert clock[0] <= max(until, 10.0)
    assert len(tried) == {0.0: 1, 35.0: 2, 1000.0: guidance.SETTINGS - 1}[until]
    assert [one.sampling.guides for one in tried[4:]] == [(guidance.INTERVAL,)] * len(tried[4:])


@pytest.mark.parametrize(("until", "wanted"), [(12, None), (17, 256), (40, 278), (10_000, 2000)])
def test_as_many_samples_as_time_allows_and_never_too_few(until, wanted, monkeypatch):
    """A sample takes 10 ms, and the first call of a process 3 s more, which says nothing of later ones. Three settings
    of the fewest are a choice."""
    clock = [0.0]
    monkeypatch.setattr(guidance.time, "perf_counter", lambda: clock[0])

    def draw(count):
        clock[0] += 0.01 * count + (3.0 if clock[0] == 0 else 0.0)

    count = guidance.affordable(256, 2000, draw, until)
    assert count == wanted if wanted is None else abs(count - wanted) <= 20
    assert guidance.affordable(256, 255, draw, 10**6) is None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("runs") / "digits"
    network, sample = UNetRecipe(width=16, depth=1), Sampling(steps=2)
    recipe = Recipe(steps=4, sheets=1, batch=16, precision="fp32", network=network, sample=sample)
    finished(learn("digits", recipe, run=folder))
    return folder


def test_a_short_run_chooses_nothing_and_says_nothing(run):
    assert not (run / "guidance.json").exists()
    said = []
    assert finished(choose_guidance(run), said.append) is None
    assert not [event for event in said if isinstance(event, Message)]


def test_guidance_that_was_asked_for_or_never_learnt_is_left_alone(run):
    recipe = Recipe(steps=4)
    assert undecided(run, recipe, {})
    assert not undecided(run, recipe, {"asked": {"sample.guidance": 1.0}})
    assert not undecided(run, recipe.model_copy(update={"condition_dropout": 0.0}), {})
    assert not undecided(run, Recipe(kind="autoencoder"), {})


def test_a_run_keeps_its_choice_and_shows_the_table(run, monkeypatch):
    monkeypatch.setattr(guidance, "spent", lambda *_: 10_000.0)
    monkeypatch.setattr(guidance, "MOST", 260)
    monkeypatch.setattr(guidance, "TEACHING", 0.0001)
    monkeypatch.setattr(guidance, "best", lambda attempts: attempts[1])
    said = []
    choice = finished(choose_guidance(run), said.append)
    assert [one.sampling.guidance for one in choice.attempts][:4] == [1.0, *guidance.SCALES]
    assert len(choice.attempts) == guidance.SETTINGS
    assert choice.attempts[4].sampling.guides == ("auto",)
    assert json.loads((run / "guidance.json").read_text())["chosen"] == 1
    assert ebb.load(run).sampling == choice.chosen.sampling
    assert ebb.load(run).sampling.guidance == 1.5
    page = (run / "report.html").read_text()
    assert choice.because[:30] in page
    assert "chosen" in page
    assert [event.text for event in said if isinstance(event, Message)][-1] == choice.because
    assert finished(choose_guidance(run)) is None  # what was chosen stays
