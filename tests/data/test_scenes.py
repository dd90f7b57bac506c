"""The scenes of `shapes`: what is drawn is what is known, and a caption says nothing that is not so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebb.data import scenes
from ebb.data.scan import read
from ebb.data.scenes import (
    COLOURS,
    KINDS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    mentioned,
    parse,
    seen,
    truth,
)
from ebb.errors import UsageError


@pytest.fixture(scope="module")
def some():
    return truth(300, 7)


def looked_at(pixels):
    """What is at each place, told from the pixels alone: colour, extent, and the share of its square that it fills."""
    side, cells = pixels.shape[1] // 2, []
    for place in range(4):
        row, column = divmod(place, 2)
        quarter = pixels[:, row * side : (row + 1) * side, column * side : (column + 1) * side].astype(float)
        if not quarter.any():
            cells.append(0)
            continue
        brightest = quarter[:, quarter.max(0) == quarter.max()].mean(1)
        colour = np.abs(np.array([*COLOURS.values()]) - brightest[:, None].T).sum(1).argmin()
        cover = quarter.max(0) / quarter.max()
        down, right = cover.max(1).sum(), cover.max(0).sum()  # a part of a pixel counts as a part
        shape = np.abs(cover.sum() / max(right, down) ** 2 - np.array([np.pi / 4, 1, 0.5])).argmin()
        cells.append(1 + colour * len(SHAPES) + shape + KINDS * (max(right, down) > 0.625 * side))
    return cells


def test_what_is_drawn_is_what_is_known(some):
    read_off = np.array([looked_at(pixels) for pixels in some.pixels])
    np.testing.assert_array_equal(read_off, some.cells)
    assert (read_off[:, [1, 0, 2, 3]] != some.cells).any(), "places are told apart"
    assert (some.presence.sum(1) == (some.cells > 0).sum(1)).all()


def test_things_keep_apart_and_have_smooth_edges(some):
    shown = some.pixels.max(1)
    assert len(np.unique(shown)) > 50, "edges are not all or nothing"
    for edge in (0, 15, 16, 31):  # of the quarters
        assert not shown[:, edge].any()
        assert not shown[:, :, edge].any()


@pytest.mark.parametrize("side", [24, 64])
def test_other_sides_show_the_same_scenes(side):
    other = truth(20, 7, side=side)
    assert other.pixels.shape == (20, 3, side, side)
    if side > 24:  # at 24 a small thing is five pixels wide, too few to tell its shape by its area
        np.testing.assert_array_equal([looked_at(pixels) for pixels in other.pixels], other.cells)


def test_scenes_are_a_function_of_the_seed_and_few_are_the_first_of_many(some):
    few, other = truth(40, 7), truth(40, 8)
    np.testing.assert_array_equal(few.pixels, some.pixels[:40])
    assert few.captions == some.captions[:40]
    assert few.scenes == some.scenes[:40]
    assert few.captions != other.captions


def test_captions_say_what_is_so_and_parse_gives_it_back(some):
    for caption, scene in zip(some.captions, some.scenes, strict=True):
        heard = parse(caption)
        assert heard.caption == caption
        assert heard.describes(scene)
    opposite = dict(zip(RELATIONS, ["below", "above", "to the right of", "to the left of"], strict=True))
    related = [(parse(caption), scene) for caption, scene in zip(some.captions, some.scenes, strict=True)]
    related = [(heard, scene) for heard, scene in related if heard.relation]
    assert len(related) > 20
    assert not any(replace(heard, relation=opposite[heard.relation]).describes(scene) for heard, scene in related)


def test_captions_vary(some):
    texts = " ".join(some.captions)
    assert all(word in texts for word in (*SHAPES, *COLOURS, *SIZES, *PLACES, *RELATIONS, ", a ", " and a ", "nothing"))
    assert np.mean([text.startswith("a scene with") for text in some.captions]) == pytest.approx(0.4, abs=0.1)
    counts = np.bincount([len(scene.objects) for scene in some.scenes], minlength=4) / len(some.scenes)
    np.testing.assert_allclose(counts, [0, 0.2, 0.5, 0.3], atol=0.12)


things = st.builds(
    Thing,
    st.sampled_from(SHAPES),
    st.sampled_from([*COLOURS]),
    st.sampled_from([None, *SIZES]),
    st.sampled_from([None, *PLACES]),
)


@given(
    st.lists(things, min_size=1, max_size=3, unique_by=lambda thing: thing.kind),
    st.sampled_from([None, *RELATIONS]),
    st.booleans(),
)
def test_every_scene_that_can_be_said_is_heard(objects, relation, part):
    scene = Scene(tuple(objects), relation if len(objects) == 2 else None, part)
    assert parse(scene.caption) == scene
    assert parse(f"  {scene.caption.upper()} ") == scene


RED, BLUE = Thing("circle", "red", "large", "top left"), Thing("square", "blue", "small", "bottom left")


@pytest.mark.parametrize(
    ("caption", "holds"),
    [
        ("a red circle and a blue square", True),
        ("a blue square and a red circle", True),
        ("a large red circle above a small blue square", True),
        ("a blue square below a red circle at the top left", True),
        ("a red circle below a blue square", False),
        ("a red circle to the left of a blue square", False),
        ("a small red circle and a blue square", False),
        ("a red circle at the bottom left and a blue square", False),
        ("a red square and a blue circle", False),
        ("a red circle", False),
        ("a red circle, a blue square and a green triangle", False),
        ("a scene with a red circle", True),
        ("a scene with a large red circle above a blue square", True),
        ("a scene with a small red circle", False),
        ("a scene with a green circle", False),
        ("a scene with nothing at the top right", True),
        ("a scene with nothing at the top left", False),
    ],
)
def test_a_description_holds_or_not(caption, holds):
    assert parse(caption).describes(Scene((RED, BLUE))) is holds


def test_a_diagonal_is_both_above_and_beside():
    scene = Scene((RED, replace(BLUE, place="bottom right")))
    holding = [relation for relation in RELATIONS if Scene((RED, BLUE), relation).describes(scene) is False]
    assert holding == [*RELATIONS], "the place of the blue one is said wrong"
    bare = Scene((Thing("circle", "red"), Thing("square", "blue")))
    assert [relation for relation in RELATIONS if replace(bare, relation=relation).describes(scene)] == [
        "above",
        "to the left of",
    ]


def test_cells_and_scenes_are_each_others_inverse(some):
    for scene, cells in zip(some.scenes, some.cells, strict=True):
        assert frozenset(seen(cells).objects) == frozenset(scene.objects)
    assert seen([0, 0, 0, 0]) is None
    assert seen([1, 2, 3, 4]) is None, "a scene has three things at most"
    assert seen([5, 5 + KINDS, 0, 0]) is None, "of different kinds"
    with pytest.raises(UsageError, match="leaves its size or place open"):
        _ = Scene((Thing("circle", "red"),)).cells


def test_some_pairs_never_meet_in_training(some):
    new = truth(60, 9, novel=True)
    assert not any(scene.novel for scene in some.scenes)
    assert all(scene.novel for scene in new.scenes)
    assert some.presence.any(0).all()
    pairs = np.array([[scenes.apart(one, other) for one in range(KINDS)] for other in range(KINDS)])
    assert 0.15 < pairs.mean() < 0.25
    assert (pairs.sum(0) >= 3).all(), "every kind is in some"


def test_the_word_reads_as_a_data_set(monkeypatch, tmp_path, save, picture):
    monkeypatch.setattr(scenes, "TRAIN", 60)
    monkeypatch.setattr(scenes, "HELD_OUT", 20)
    dataset = read("shapes")
    np.testing.assert_array_equal(dataset.rows, truth(60, 0).pixels)
    assert dataset.captions == truth(60, 0).captions
    assert dataset.labels is None
    assert (dataset.summary.kind, dataset.summary.name, dataset.summary.shape) == ("shapes", "shapes", (3, 32, 32))
    assert dataset.held_out.captions == truth(10, 1).captions + truth(10, 2, novel=True).captions
    assert [f.kind for f in dataset.summary.findings if f.kind != "exact duplicate"] == []
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "shapes" / "1.png", picture())
    assert len(read("shapes").rows) == 1, "a folder of that name goes first"


@pytest.mark.parametrize(
    "caption",
    [
        "", "a circle", "a red hexagon", "red circle", "a red circle and", "a red circle a blue square", "x" * 10_000,
        "a red circle, a blue square", "a red circle above a blue square and a green circle", "красный круг",
        "a red circle and a blue square and a green circle", "a large small red circle", "a red circle at the middle",
    ],
)  # fmt: skip
def test_other_words_are_refused(caption):
    with pytest.raises(UsageError, match="expected a caption of shapes") as caught:
        parse(caption)
    assert "a large red circle above a blue square" in caught.value.hint
    assert len(caught.value.what) < 200


@pytest.mark.parametrize(
    ("objects", "relation"),
    [((), None), ((RED, RED), None), ((RED, BLUE, RED), None), ((RED,), "above")],
)
def test_scenes_that_cannot_be(objects, relation):
    with pytest.raises(UsageError):
        Scene(objects, relation)


@pytest.mark.parametrize("wrong", [{"count": 0}, {"side": 22}, {"side": 33}])
def test_wrong_arguments(wrong):
    with pytest.raises(UsageError, match="even side"):
        truth(**{"count": 1, "seed": 0} | wrong)


def test_a_caption_can_leave_everything_open():
    rng = np.random.default_rng(0)
    heard = {mentioned(Scene((RED, BLUE)), rng) for _ in range(200)}
    assert Scene((Thing("circle", "red"), Thing("square", "blue"))) in heard
    assert all(scene.describes(Scene((RED, BLUE))) for scene in heard)
