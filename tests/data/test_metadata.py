"""Numbers and pictures beside others: with their images through skips, split and flips, and what may be wrong with them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ebb.data.loader import Examples, Loader
from ebb.data.metadata import Fields
from ebb.data.pictures import Pictures, to_unit
from ebb.data.scan import read
from ebb.errors import DataError, UsageError
from ebb.store import memory

CPU = torch.device("cpu")


def value(pixels):
    """The number that the tests below give an image: what its first value is."""
    return float(pixels.flatten()[0])


@pytest.fixture
def folder(tmp_path, save):
    """Writes images whose first value is their number, each with that number and its mirror image beside it."""

    def write(count=8, change=lambda rows: rows):
        rng, rows = np.random.default_rng(0), []
        (tmp_path / "beside").mkdir(exist_ok=True)
        for at in range(count):
            image = rng.integers(0, 255, (8, 8), dtype=np.uint8)
            image[0, 0] = at
            save(tmp_path / f"{at:03}.png", image)
            save(tmp_path / "beside" / f"{at:03}.png", image[:, ::-1])
            rows.append({"file_name": f"{at:03}.png", "size": at, "mirror": f"beside/{at:03}.png", "text": "a word"})
        lines = map(json.dumps, change(rows))
        (tmp_path / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
        return str(tmp_path)

    return write


def aligned(images):
    """Whether every image has its own number and its own picture beside it."""
    shown = images.metadata.beside["mirror"][:].flip(-1)
    numbers = images.metadata.numbers[:, 0].tolist()
    return [value(x) for x in images.rows] == numbers and torch.equal(shown, to_unit(torch.from_numpy(images.rows)))


@pytest.mark.parametrize("on_disk", [False, True])
def test_they_stay_with_their_images_through_skips_and_the_split(folder, tmp_path, monkeypatch, on_disk):
    where = folder(210)
    if on_disk:
        monkeypatch.setattr(memory, "available", lambda: 1000)
    (tmp_path / "007.png").write_bytes(b"damaged")
    dataset = read(where, fields=Fields(("size",), ("mirror",)), cache=tmp_path / "cache")
    assert isinstance(dataset.metadata.beside["mirror"].pixels, np.memmap) == on_disk
    assert (len(dataset.rows), len(dataset.held_out.rows)) == (199, 10)
    assert aligned(dataset)
    assert aligned(dataset.held_out)
    assert not aligned(replace(dataset, metadata=dataset.metadata.take(np.roll(np.arange(199), 1))))
    assert dataset.summary.chosen["numbers"] == "size from 0 to 209 (209 images)"
    assert dataset.summary.chosen["beside"] == "mirror: 209 images have one, 8×8"


def test_pictures_beside_are_no_examples_and_other_fields_change_nothing(folder):
    where = folder()
    plain, asked = read(where), read(where, fields=Fields(("size",), ("mirror",)))
    assert len(plain.rows) == 16
    assert len(asked.rows) == 8
    assert plain.metadata.numbers is None
    assert plain.metadata.beside == {}
    bare = folder(change=lambda rows: [{name: row[name] for name in ("file_name", "text")} for row in rows])
    assert read(bare).summary.fingerprint == plain.summary.fingerprint == plain.summary.examples


def test_pictures_beside_are_named_as_loosely_as_images(folder):
    plain = read(folder(), fields=Fields(beside=("mirror",)))
    loose = read(
        folder(change=lambda rows: [{**row, "mirror": f".\\beside\\{row['size']:03}"} for row in rows]),
        fields=Fields(beside=("mirror",)),
    )
    assert loose.summary.fingerprint == plain.summary.fingerprint


def test_a_picture_with_a_row_of_its_own_may_stand_beside_another(folder):
    before = folder(change=lambda rows: [{**row, "before": f"{row['size'] - 1:03}.png"} for row in rows[1:]] + rows[:1])
    dataset = read(before, fields=Fields(beside=("before",)))
    assert len(dataset.rows) == 8
    shown = (dataset.metadata.beside["before"][:][:, 0, 0, 0] * 127.5 + 127.5).round()
    assert shown[1:].tolist() == [*range(7)]
    assert shown[0].isnan()


def test_no_picture_that_is_held_back_stands_beside_one_that_is_left(folder):
    """Every second image stands beside the one after it."""

    def change(rows):
        return [{**row, "before": f"{row['size'] - 1:03}.png" if row["size"] % 2 else ""} for row in rows]

    plain, asked = (read(folder(210, change), fields=Fields(("size",), (one,))) for one in ("mirror", "before"))
    assert {number % 2 for number in plain.held_out.metadata.numbers[:, 0]} == {0, 1}, (
        "the mutant: the split without them"
    )
    left, held = (set(dataset.metadata.numbers[:, 0]) for dataset in (asked, asked.held_out))
    assert held
    assert not {number - 1 for number in left if number % 2} & held


def test_a_chain_of_pictures_leaves_nothing_to_hold_back_and_says_so(folder):
    def change(rows):
        return [{**row, "before": f"{(row['size'] - 1) % 210:03}.png"} for row in rows]

    dataset = read(folder(210, change), fields=Fields(beside=("before",)))
    assert dataset.held_out is None
    assert dataset.summary.chosen["held out"] == "none: those that could be stand beside others"


def test_a_number_that_only_held_back_images_have_is_refused(folder):
    held = read(folder(210), fields=Fields(("size",), ("mirror",))).held_out.metadata.numbers[0, 0]
    where = folder(210, lambda rows: [row if row["size"] == held else {**row, "size": None} for row in rows])
    with pytest.raises(DataError, match="no image that can be used has a number in 'size'"):
        read(where, fields=Fields(("size",), ("mirror",)))


def test_the_fingerprint_knows_every_number_and_picture_and_the_names_of_their_fields(folder, tmp_path, save):
    where = folder()

    def seen(*fields):
        found = read(where, fields=Fields(*fields)).summary
        return found.fingerprint, found.examples

    def changed(rows):
        rows[3]["size"] = 3.5
        return rows

    every = ("size",), ("mirror",)
    before = seen(*every)
    assert before == seen(*every)
    assert before[1] == seen((), ("mirror",))[1]
    folder(change=changed)
    one = seen(*every)
    folder()
    save(tmp_path / "beside" / "003.png", np.zeros((8, 8), np.uint8))
    two = seen(*every)
    folder(change=lambda rows: [{**row, "mirror": None} if row["size"] == 3 else row for row in rows])
    three = seen(*every)
    folder(change=lambda rows: [{**row, "weight": row["size"]} for row in rows])
    four = seen(("weight",), ("mirror",))
    assert len({before[0], one[0], two[0], three[0], four[0]}) == 5
    assert {found[1] for found in (one, two, three, four)} == {before[1]}


def test_what_is_missing_is_counted_named_and_nan(folder, tmp_path, save):
    def holes(rows):
        del rows[1]["size"]
        rows[2]["size"] = rows[2]["mirror"] = None
        return rows

    where = folder(change=holes)
    (tmp_path / "beside" / "004.png").write_bytes(b"damaged")
    save(tmp_path / "beside" / "005.png", np.zeros((8, 12), np.uint8))
    dataset = read(where, fields=Fields(("size",), ("mirror",)))
    assert np.isnan(dataset.metadata.numbers[:, 0]).tolist() == [at in (1, 2) for at in range(8)]
    shown = dataset.metadata.beside["mirror"][:].flatten(1)
    assert shown.isnan().all(1).tolist() == shown.isnan().any(1).tolist() == [at in (2, 4) for at in range(8)]
    found = {finding.kind: finding for finding in dataset.summary.findings}
    assert found["without size"].examples == ("001.png", "002.png")
    assert found["without mirror"].examples == ("002.png", "004.png")
    assert found["mirror: unreadable"].examples == ("beside/004.png",)
    assert found["mirror of other proportions"].examples == ("005.png",)
    assert found["no row names it"].examples == ("beside/002.png",)


def test_a_larger_picture_beside_is_scaled_as_its_own_and_a_shared_one_is_kept_once(folder, tmp_path, save):
    where = folder(change=lambda rows: [{**row, "mirror": f"beside/{row['size'] % 2:03}.png"} for row in rows])
    blocks = np.kron(np.array([[0, 255], [255, 0]], np.uint8), np.ones((8, 8), np.uint8))
    save(tmp_path / "beside" / "001.png", blocks)
    dataset = read(where, fields=Fields(beside=("mirror",)))
    assert len(dataset.metadata.beside["mirror"].pixels) == 2
    assert len(dataset.metadata.beside["mirror"]) == 8
    assert dataset.metadata.beside["mirror"][slice(1, 2)][0, 0, [0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [
        -1,
        1,
        1,
        -1,
    ]


def test_colour_beside_grey_and_a_test_set_with_the_same_channels(tmp_path, picture, save):
    for part, channels in (("train", 3), ("test", 1)):
        (tmp_path / part).mkdir()
        (tmp_path / part / "beside").mkdir()
        for at in range(4):
            save(tmp_path / part / f"{at}.png", picture(at, channels=1))
            save(tmp_path / part / "beside" / f"{at}.png", picture(at, channels=channels))
        rows = [{"file_name": f"{at}.png", "sketch": f"beside/{at}.png"} for at in range(4)]
        (tmp_path / part / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = read(str(tmp_path), fields=Fields(beside=("sketch",)))
    assert dataset.rows.shape[1] == 1
    assert dataset.metadata.beside["sketch"].pixels.shape[1] == 3
    assert dataset.held_out.metadata.beside["sketch"].pixels.shape[1] == 3


def put(name, value):
    def change(rows):
        rows[2][name] = value
        return rows

    return change


def never(name):
    return lambda rows: [{**row, name: None} for row in rows]


@pytest.mark.parametrize(
    ("asked", "change", "error", "said"),
    [
        ({"numbers": ("sise",)}, None, DataError, "no row of metadata.jsonl has the field 'sise'.*did you mean 'size'"),
        ({"numbers": ("size",)}, put("size", "3"), DataError, "'size' of 002.png is \"3\", not a finite number"),
        ({"numbers": ("size",)}, put("size", True), DataError, "'size' of 002.png is true"),
        ({"numbers": ("size",)}, put("size", float("inf")), DataError, "'size' of 002.png is Infinity"),
        ({"numbers": ("size",)}, put("size", float("nan")), DataError, "is NaN.*write null"),
        ({"numbers": ("size",)}, never("size"), DataError, "no image that can be used has a number in 'size'"),
        ({"numbers": ("size", "size")}, None, UsageError, "'size' is asked for twice"),
        ({"beside": ("text",)}, None, UsageError, "'text' has a meaning of its own"),
        (
            {"beside": ("mirror",)},
            put("mirror", "beside/x.png"),
            DataError,
            "002.png names beside/x.png, where there is no",
        ),
        ({"beside": ("mirror",)}, put("mirror", "../a.png"), DataError, "names ../a.png, where there is no picture"),
        ({"beside": ("size",)}, None, DataError, "'size' of 000.png is 0, not the name of a picture"),
        ({"beside": ("mirror",)}, never("mirror"), DataError, "no image that can be used has a picture in 'mirror'"),
    ],
)
def test_fields_that_cannot_be_heard_are_refused_by_name(folder, asked, change, error, said):
    where = folder(change=change or (lambda rows: rows))
    with pytest.raises(error, match=f"(?s){said}"):
        read(where, fields=Fields(**asked))


def test_data_without_a_metadata_has_no_fields(tmp_path, picture, save):
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8), np.uint8))
    save(tmp_path / "a.png", picture())
    for where in (tmp_path / "a.npz", tmp_path):
        with pytest.raises(DataError, match=r"'size' would be fields of a metadata.jsonl, and there is none"):
            read(str(where), fields=Fields(("size",)))


def check_flips(loader):
    """A picture that is its own beside it is so in every batch, whichever are mirrored."""
    turned = 0
    for step in range(4):
        batch = loader(step)
        assert torch.equal(batch.x0, batch.cond["image"])
        turned += int((batch.x0.flatten(1)[:, 0] > batch.x0.flatten(1)[:, 7]).sum())
    assert 4 < turned < 28


def test_a_mirrored_picture_has_a_mirrored_one_beside_it(monkeypatch):
    pixels = np.broadcast_to(np.arange(8, dtype=np.uint8), (8, 1, 8, 8)).copy()
    examples = Examples(pixels, {"image": Pictures(pixels, np.arange(8))})
    loader = Loader(examples, batch=8, flip=True)
    check_flips(loader)
    check_flips(
        replace(loader, examples=replace(examples, folded={"image": lambda x: x.flip(-2)}))
    )  # the rows are alike
    own = Examples.conditions
    monkeypatch.setattr(Examples, "conditions", lambda self, index, device, turned: own(self, index, device))
    with pytest.raises(AssertionError):
        check_flips(loader)
