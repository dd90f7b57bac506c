"""Buckets by shape: which shapes there are, that each image is in the one that cuts least, and when each is met."""

from collections import Counter
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ebb.data.buckets import LEAST, MOST, SHARE, UNEQUAL, candidates, counted, mean_cut, nearest, planned
from ebb.data.loader import Examples, Loader, Order, Turns
from ebb.data.reading import as_asked
from ebb.errors import UsageError
from ebb.recipe.recipe import Recipe
from ebb.train.objectives.denoising import Denoising
from ebb.train.validate import MOST as MOST_UNSEEN
from ebb.train.validate import Validation, unseen_batches

STEPS = {8: 2, 16: 2, 28: 2, 32: 4, 64: 8, 100: 8, 128: 16}
SIDES = st.sampled_from([*STEPS])
PHOTOS = st.lists(st.tuples(st.integers(4, 400), st.integers(4, 400)), min_size=1, max_size=30)


def cut_of(size, shape):
    """The share of the area that a crop takes away, by its definition: scale to cover, then keep h × w."""
    scale = max(shape[0] / size[0], shape[1] / size[1])
    return 1 - shape[0] * shape[1] / (size[0] * size[1] * scale**2)


def sizes_of(photos, times=20):
    """Each size some times, so that buckets fill."""
    return np.repeat(np.array(photos), times, 0)


@given(SIDES)
def test_shapes_have_about_the_pixels_of_the_square_and_sides_that_patches_divide(side):
    shapes = candidates(side)
    assert (side, side) in shapes
    assert {(w, h) for h, w in shapes} == set(shapes), "portrait as landscape"
    for h, w in shapes:
        assert abs(h * w / side**2 - 1) <= UNEQUAL
        assert (h, w) == (side, side) or h % STEPS[side] == w % STEPS[side] == 0


@given(PHOTOS, SIDES)
def test_each_image_is_in_the_bucket_that_cuts_least_off(photos, side):
    sizes = sizes_of(photos)
    shapes = planned(sizes, side)
    own = nearest(sizes, shapes)
    for size, at in zip(sizes, own, strict=True):
        assert cut_of(size, shapes[at]) <= min(cut_of(size, shape) for shape in shapes) + 1e-12


@given(PHOTOS, SIDES)
def test_buckets_are_few_hold_enough_begin_with_most_and_cut_no_more_than_one_would(photos, side):
    sizes = sizes_of(photos)
    buckets = counted(sizes, planned(sizes, side))
    held = [one.count for one in buckets]
    assert len(buckets) <= MOST
    assert sum(held) == len(sizes)
    assert held == sorted(held, reverse=True)
    assert len(buckets) == 1 or min(held) >= max(LEAST, len(sizes) / SHARE)
    assert mean_cut(buckets) <= np.mean([cut_of(size, (side, side)) for size in sizes]) + 1e-4


def test_a_few_panoramas_go_to_the_widest_of_the_others():
    sizes = np.array([(30, 40)] * 60 + [(40, 30)] * 60 + [(10, 40)] * (LEAST - 1))
    assert planned(sizes, 32) == [(28, 36), (36, 28)]
    assert (8, 40) not in planned(sizes, 32)
    assert len(planned(np.array([*sizes, (10, 40)]), 32)) == 3


COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=5).map(tuple)


def met(turn, counts, batch, batches):
    """How often each item of each bucket is in some first batches, by whose `turn` it is."""
    seen = Counter()
    for step in range(batches):
        bucket, number = turn(step)
        seen.update((bucket, int(at)) for at in Order(counts[bucket], batch, 7).indices(number))
    return seen


@given(COUNTS, st.integers(1, 9))
def test_every_item_is_met_equally_often(counts, batch):
    """In a lap `batch` times each; a rule that gives every bucket its turn as often as another would not."""
    seen = met(Turns(counts, 3).of, counts, batch, sum(counts))
    assert set(seen.values()) == {batch}
    assert len(seen) == sum(counts)
    if len({*counts}) > 1:
        round_robin = met(lambda step: (step % len(counts), step // len(counts)), counts, batch, sum(counts))
        assert len(round_robin) < sum(counts) or len(set(round_robin.values())) > 1


@given(COUNTS, st.integers(0, 5))
def test_buckets_are_mixed_in_their_proportion_all_along(counts, seed):
    """After any number of batches each bucket has had its share, to within a batch for each bucket."""
    total, had = sum(counts), np.zeros(len(counts))
    for step in range(2 * total):
        had[Turns(counts, seed).of(step)[0]] += 1
        assert np.abs(had - (step + 1) * np.array(counts) / total).max() <= len(counts)


def numbered(sides):
    """Examples whose pixels say which they are, of several shapes."""
    number = count()
    parts = [
        Examples(np.stack([np.full((1, h, w), next(number), np.uint8) for _ in range(n)]), unit=torch.Tensor.float)
        for h, w, n in sides
    ]
    return Examples(parts[0].x0, unit=torch.Tensor.float, others=tuple(parts[1:]))


def test_a_batch_has_one_shape_and_is_a_function_of_seed_and_number():
    examples = numbered([(2, 4, 7), (4, 2, 5), (2, 2, 3)])
    loader = Loader(examples, 4, seed=5)
    batches = [loader(step) for step in range(30)]
    assert {tuple(batch.x0.shape[1:]) for batch in batches} == {(1, 2, 4), (1, 4, 2), (1, 2, 2)}
    assert all(len(batch.x0) == 4 for batch in batches)
    seen = Counter(int(x[0, 0, 0]) for batch in batches for x in batch.x0)
    assert set(seen.values()) == {8}, "two laps of fifteen batches of four"
    for step in (29, 3, 17):  # in any order, by a loader of its own
        assert torch.equal(Loader(examples, 4, seed=5)(step).x0, batches[step].x0)
    assert any(not torch.equal(Loader(examples, 4, seed=6)(step).x0, batches[step].x0) for step in range(5))


def test_one_bucket_is_what_there_was_without():
    examples = numbered([(4, 4, 9)])
    for step in range(5):
        index = Order(9, 4, 2).indices(step)
        assert Loader(examples, 4, seed=2)(step).x0[:, 0, 0, 0].tolist() == index.tolist()


def test_unseen_images_of_all_shapes_are_looked_at_each_once():
    batches = unseen_batches(numbered([(4, 8, 30), (8, 4, 20)]), batch=8, encode=lambda x: x / 50)
    assert {tuple(batch.x0.shape[1:]) for batch in batches} == {(1, 4, 8), (1, 8, 4)}
    seen = Counter(round(float(x[0, 0, 0]) * 50) for batch in batches for x in batch.x0)
    assert seen == Counter(range(50))
    many = unseen_batches(numbered([(4, 8, 100), (8, 4, 100)]), batch=64)
    assert sum(len(batch.x0) for batch in many) == MOST_UNSEEN


def test_the_validation_of_each_shape_covers_all_levels():
    """A model that answers 0 has the loss of each shape alone, weighed by how many there are."""
    from ebb.process.denoiser import NetworkDenoiser
    from ebb.process.path import Linear
    from ebb.process.predict import velocity

    class Zero(torch.nn.Module):
        def forward(self, x, time, cond):
            return torch.zeros_like(x)

    model = NetworkDenoiser(Zero(), Linear(), velocity)
    encode = lambda x: x / 50 - 0.5  # noqa: E731
    examples = numbered([(4, 8, 12), (8, 4, 6)])
    batches = unseen_batches(examples, batch=8, encode=encode)
    both = Validation(batches, Denoising())(model)
    wide = [batch for batch in batches if batch.x0.shape[2] == 4]
    alone = Validation(wide, Denoising())(model)
    high = Validation([batch for batch in batches if batch.x0.shape[2] == 8], Denoising(), seed=12)(model)
    assert both == pytest.approx((12 * alone + 6 * high) / 18, rel=1e-6)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """120 photos, of three shapes and two labels, no two alike."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(120):
        size = [(24, 32), (32, 24), (28, 28)][i % 3]
        place = folder / ("even" if i % 2 == 0 else "odd") / f"{i:03d}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(place)
    return folder


BUCKETS = {"data": {"size": 16, "buckets": True}}


def test_every_image_of_a_folder_is_in_one_bucket(photos, monkeypatch):
    from ebb.data import held_out, scan

    monkeypatch.setattr(held_out, "LEAST", 100)
    monkeypatch.setattr(scan, "LEAST", 100)
    found = as_asked(str(photos), Recipe(**BUCKETS))
    parts = [*found.buckets, *found.held_out.buckets]
    names = [name for part in parts for name in part.originals.names]
    assert sorted(names) == sorted(str(p.relative_to(photos)) for p in photos.glob("*/*.png"))
    assert len(found.buckets) == 3
    for part in parts:
        assert len(part.rows) == len(part.labels) == len(part.originals.names)
        for name, label, size in zip(part.originals.names, part.labels, part.originals.sizes, strict=True):
            assert part.names[label] == name.split("/")[0]
            assert np.sign(size[0] - size[1]) == np.sign(part.rows.shape[2] - part.rows.shape[3])
    assert found.summary.count == sum(len(part.rows) for part in found.buckets) == 114
    assert [one.count for one in found.summary.buckets] == [len(part.rows) for part in found.buckets]
    assert found.summary.classes == dict(Counter(found.names[i] for part in found.buckets for i in part.labels))
    assert found.summary.shape == found.rows.shape[1:]
    assert "of the area cut off on average, " in found.summary.chosen["buckets"]
    pixels = np.concatenate([part.rows.ravel() for part in found.buckets]).astype(float) / 127.5 - 1
    assert np.mean(found.summary.mean) == pytest.approx(pixels.mean(), abs=1e-3)


def test_squares_in_buckets_are_what_they_were(tmp_path):
    rng = np.random.default_rng(1)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (20 + i % 5,) * 2 + (3,), np.uint8)).save(tmp_path / f"{i:02d}.png")
    before, now = (as_asked(str(tmp_path), Recipe(data={"size": 16, "buckets": b})) for b in (False, True))
    assert now.others == ()
    assert np.array_equal(now.rows, before.rows)
    assert now.summary.fingerprint == before.summary.fingerprint


def test_the_fingerprint_knows_every_bucket(photos, tmp_path):
    import shutil

    one = as_asked(str(photos), Recipe(**BUCKETS)).summary.fingerprint
    shutil.copytree(photos, tmp_path / "data")
    other = next((tmp_path / "data" / "odd").iterdir())
    pixels = np.array(Image.open(other))
    pixels[len(pixels) // 2, len(pixels[0]) // 2] ^= 255
    Image.fromarray(pixels).save(other)
    assert as_asked(str(tmp_path / "data"), Recipe(**BUCKETS)).summary.fingerprint != one


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"data": {"size": "32x16", "buckets": True}}, "as many pixels as a square, and data.size is 32x16"),
        ({**BUCKETS, "beside": ("mask",)}, "buckets have several"),
    ],
)
def test_what_cannot_be_in_buckets_is_refused(photos, asked, said):
    with pytest.raises((UsageError, ValueError), match=said):
        as_asked(str(photos), Recipe(**asked))


def test_a_table_has_no_buckets(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n" + "\n".join(f"{i},{i * i}" for i in range(20)))
    with pytest.raises(UsageError, match=r"--data\.buckets is of pictures"):
        as_asked(str(tmp_path / "a.csv"), Recipe(data={"buckets": True}))
