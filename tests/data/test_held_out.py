"""Images held back where the data comes without a test set: which, how many, and never a copy of one that is learnt."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebb.data import held_out
from ebb.data.held_out import CLASS_SHARE, LEAST, MOST, SHARE, held_back, parted
from ebb.data.scan import read
from ebb.store import memory


def drawn(count, seed=0, kinds=None):
    """(images uint8 [count, 1, 4, 4], labels), all distinct unless there are only `kinds` of them."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (kinds or count, 1, 4, 4), np.uint8)
    return pixels[rng.integers(0, len(pixels), count)] if kinds else pixels, rng.integers(0, 3, count)


def test_a_twentieth_is_held_back_and_at_most_a_thousand():
    counts = {0: 0, LEAST - 1: 0, LEAST: 10, 1000: 50, 30_000: MOST}
    assert {count: len(held_back(*drawn(count))) for count in counts} == counts
    assert len(held_back(drawn(1000)[0], None)) == 1000 // SHARE


@given(st.integers(200, 400), st.integers(0, 99), st.integers(20, 600))
def test_copies_stay_together_and_no_class_is_emptied(count, seed, kinds):
    pixels, labels = drawn(count, seed, kinds)
    back = held_back(pixels, labels)
    left = np.setdiff1d(np.arange(count), back)
    assert {pixels[at].tobytes() for at in back}.isdisjoint({pixels[at].tobytes() for at in left})
    assert len(back) <= count // SHARE
    assert back == sorted(set(back))
    for kind in range(3):
        assert (labels[back] == kind).sum() * CLASS_SHARE <= (labels == kind).sum()


def test_the_order_of_the_images_does_not_matter_and_more_of_them_move_few():
    pixels, _ = drawn(1000)

    def chosen(some):
        return {some[at].tobytes() for at in held_back(some, None)}

    assert chosen(pixels[::-1]) == chosen(pixels)
    fewer = chosen(pixels[:960])
    assert len(fewer & chosen(pixels)) >= 0.9 * len(fewer)
    other = chosen(drawn(1000, seed=1)[0])
    assert not other & chosen(pixels)


def test_the_choice_is_not_by_place():
    back = np.array(held_back(drawn(20_000)[0], None))
    assert np.histogram(back, 4, (0, 20_000))[0] == pytest.approx(np.full(4, 250), abs=5 * 250**0.5)


@pytest.mark.parametrize("block", [3, 10, 1000])
def test_the_rest_moves_up(monkeypatch, block):
    monkeypatch.setattr(held_out, "CHUNK", block)
    pixels = drawn(50)[0]
    whole, back = pixels.copy(), [0, 3, 4, 20, 48]
    rest, aside, left = parted(pixels, back)
    assert left == [at for at in range(50) if at not in back]
    np.testing.assert_array_equal(rest, whole[left])
    np.testing.assert_array_equal(aside, whole[back])


def archive(path, count=220, **more):
    pixels, labels = drawn(count)
    np.savez(path, images=pixels, labels=labels, **more)
    return str(path), pixels, labels


def test_reading_holds_some_back_and_says_so(tmp_path):
    where, pixels, labels = archive(tmp_path / "a.npz")
    dataset = read(where)
    unseen = dataset.held_out
    assert (len(dataset.rows), len(unseen.rows)) == (209, 11)
    assert dataset.summary.chosen["held out"] == "11 of 220 images, by hash: the data comes without a test set"
    assert (dataset.summary.count, unseen.summary.count) == (209, 11)
    known = {row.tobytes(): label for row, label in zip(pixels, labels, strict=True)}
    for part in (dataset, unseen):
        assert [known[row.tobytes()] for row in part.rows] == part.labels.tolist()
        assert part.summary.classes == {str(kind): int((part.labels == kind).sum()) for kind in range(3)}
    again = read(where)
    assert again.summary.fingerprint == dataset.summary.fingerprint
    assert again.held_out.summary.fingerprint == unseen.summary.fingerprint


def test_all_of_it_can_be_asked_for_as_runs_had_it_before(tmp_path):
    where, pixels, labels = archive(tmp_path / "a.npz")
    whole = read(where, hold_back=False)
    np.testing.assert_array_equal(whole.rows, pixels)
    np.testing.assert_array_equal(whole.labels, labels)
    assert whole.held_out is None
    assert whole.summary.fingerprint != read(where).summary.fingerprint, "a run knows which of the two it was made of"
    assert whole.summary.chosen["held out"] == "none: not asked for"


def test_small_sets_and_those_with_a_test_set_keep_what_they_have(tmp_path):
    small = read(archive(tmp_path / "small.npz", 199)[0])
    assert small.held_out is None
    assert len(small.rows) == 199
    assert small.summary.chosen["held out"] == "none: fewer than 200 images"
    test = drawn(7, seed=9)[0]
    official = read(archive(tmp_path / "b.npz", 300, x_test=test)[0])
    assert len(official.rows) == 300
    np.testing.assert_array_equal(official.held_out.rows, test)
    assert official.summary.chosen["held out"] == "7 images: the test set that comes with the data"


def test_a_class_for_each_image_can_spare_none(tmp_path):
    pixels = drawn(200)[0]
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.arange(200))
    dataset = read(str(tmp_path / "a.npz"))
    assert dataset.held_out is None
    assert dataset.summary.chosen["held out"] == "none: no class can spare one"


def test_data_on_disk_is_parted_in_place(tmp_path, monkeypatch, picture, save):
    for at in range(200):
        save(tmp_path / "data" / f"{at:03}.png", picture(at, channels=1))
    in_memory = read(str(tmp_path / "data"))
    monkeypatch.setattr(memory, "available", lambda: 1000)
    on_disk = read(str(tmp_path / "data"), cache=tmp_path / "cache")
    assert isinstance(on_disk.rows, np.memmap)
    np.testing.assert_array_equal(on_disk.rows, in_memory.rows)
    np.testing.assert_array_equal(on_disk.held_out.rows, in_memory.held_out.rows)
