"""What the benches of adapters count: edges within a pixel of one another, a concept at its place, colours apart."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from ebb.data.extractors import Edges
from ebb.data.scenes import KINDS, PLACES, Scene, Thing, draw, truth

HOME = Path(__file__).parents[1] / "bench"
BENCH = runpy.run_path(str(HOME / "control.py"))
CONCEPT = runpy.run_path(str(HOME / "concept.py"))


def test_f1_is_of_places_within_a_pixel():
    edges, f1 = Edges()(truth(12, 3).pixels), BENCH["f1"]
    assert f1(edges, edges) == 1
    assert f1(edges, np.roll(edges, 1, 3)) == 1, "a pixel aside is near"
    assert f1(edges, np.roll(edges, 4, 3)) < 0.75
    assert f1(edges, np.roll(edges, 1, 0)) < 0.5, "another scene's"
    assert f1(edges, np.zeros_like(edges)) == 0
    half = edges.copy()
    half[..., :16] = 0
    assert 0.5 < f1(edges, half) < 0.85


def test_a_blurred_hint_stays_a_hint():
    hints = torch.full((1, 1, 9, 9), -1.0)
    assert torch.allclose(BENCH["blurred"](hints, 2.0), hints, atol=1e-6)
    hints[..., 4, 4] = 1
    wide = BENCH["blurred"](hints, 1.0)
    assert wide.min() >= -1
    assert float((wide + 1).sum()) == pytest.approx(2, rel=0.05)


def cells(*things):
    return np.stack([Scene((thing,)).cells for thing in things])


def test_a_concept_is_a_shape_in_a_colour_and_all_of_it_at_its_place():
    asked = list(PLACES)
    right = [Thing("triangle", "red", "large", place) for place in asked]
    assert CONCEPT["read"](cells(*right), asked) == CONCEPT["Read"](1, 1, 4)
    elsewhere = [Thing("triangle", "red", "large", place) for place in reversed(asked)]
    assert CONCEPT["read"](cells(*elsewhere), asked) == CONCEPT["Read"](1, 0, 4)
    others = [Thing(*each, place) for each, place in zip(
        [("triangle", "red", "small"), ("triangle", "blue", "large"), ("circle", "red", "large"),
         ("triangle", "red", "large")], asked, strict=True)]  # fmt: skip
    assert CONCEPT["read"](cells(*others), asked) == CONCEPT["Read"](0.5, 0.25, 4)
    assert CONCEPT["read"](np.zeros((4, 4), np.int64), asked) == CONCEPT["Read"](0, 0, 4)
    assert max(cells(*right).max(1)) < 1 + 2 * KINDS


def test_captions_of_the_concept_leave_out_what_it_is():
    rng = np.random.default_rng(0)
    texts = [CONCEPT["said"](CONCEPT["scene"](rng, CONCEPT["CONCEPT"]), rng, "sks") for _ in range(40)]
    assert all(text.startswith("a sks") for text in texts)
    assert 10 < sum("at the" in text for text in texts) < 30
    own = [CONCEPT["said"](CONCEPT["scene"](rng), rng) for _ in range(400)]
    assert {"a thing", "a red thing", "a triangle"} <= set(own)


def test_copies_are_nearer_than_others_of_the_same():
    rng = np.random.default_rng(0)
    ten, more = (
        np.stack([draw(CONCEPT["scene"](rng, CONCEPT["CONCEPT"]), rng, 24) for _ in range(n)]) for n in (10, 40)
    )
    assert CONCEPT["nearest"](ten[:5], ten) == pytest.approx(0, abs=1e-3)
    assert CONCEPT["nearest"](more, ten) > 5


def test_colours_are_those_of_the_thing(monkeypatch):
    monkeypatch.syspath_prepend(str(HOME))
    bench, rng = runpy.run_path(str(HOME / "reference.py")), np.random.default_rng(0)
    red, blue = (
        np.stack([draw(Scene((Thing("circle", colour, size, place),)), rng, 24) for size in ("small", "large") for place in PLACES])
        for colour in ("red", "blue")
    )  # fmt: skip
    assert bench["apart"](red, np.roll(red, 1, 0)) < 30, "wherever it is and however large"
    assert bench["apart"](red, blue) > 150
    assert bench["apart"](red, np.zeros_like(red)) > 150
    where = np.stack([Scene((Thing("square", "green", "small", place),)).cells for place in PLACES])
    assert bench["first"](where).tolist() == [[1, 1, at] for at in range(4)]
    assert bench["first"](np.zeros((1, 4), np.int64)).tolist() == [[-1, -1, -1]]
