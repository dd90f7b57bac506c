"""Numbers and pictures beside as conditions: of unit size, folded without loss, silent as NaN, and refused by name."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ebb.encode.conditioner import Conditioner, part
from ebb.encode.labels import Labels
from ebb.encode.numbers import Numbers
from ebb.encode.picture import Picture
from ebb.errors import DataError, UsageError
from ebb.networks.ports import ClassPort, MapPort, VectorPort

RNG = np.random.default_rng(0)
DATA = np.stack([1.7e9 + 60 * RNG.standard_normal(500), RNG.uniform(0, 2, 500)], 1)
DATA[:5, 0] = np.nan
HEARS = Numbers.of(("time", "size"), DATA)
MASK, EDGES = Picture((1, 4, 6), 2), Picture((3, 4, 6), 2)
EVERY = Conditioner({"label": Labels(("cat", "dog")), "numbers": HEARS, "mask": MASK, "edges": EDGES})


def check_unit(numbers):
    """Numbers that are heard have mean 0 and deviation 1, and one missing number silences its row."""
    heard = numbers(DATA).numpy()
    assert heard.dtype == np.float32
    assert np.isnan(heard).all(1).tolist() == np.isnan(heard).any(1).tolist() == [at < 5 for at in range(500)]
    assert np.nanmean(heard, 0) == pytest.approx([0, 0], abs=0.02)
    assert np.nanstd(heard, 0) == pytest.approx([1, 1], abs=0.02)


def test_numbers_are_heard_at_unit_size_and_rows_with_a_hole_are_not():
    check_unit(HEARS)
    narrow = np.float32(DATA[5:, 0]).astype(np.float64)  # a float32 of such numbers is a multiple of 128
    mutant = Numbers.of(("time", "size"), np.stack([np.float32(DATA[:, 0]).astype(np.float64), DATA[:, 1]], 1))
    assert len(np.unique(narrow)) < 10
    with pytest.raises(AssertionError):
        check_unit(mutant)


def test_a_number_that_never_changes_has_the_deviation_1():
    assert Numbers.of(("a",), np.full((3, 1), 7.0))([[7.0], [8.0]]).tolist() == [[0.0], [1.0]]
    rounded = np.full((190, 1), 0.1)
    assert 0 < rounded.std() < 1e-15, "the mutant would divide by this"
    assert Numbers.of(("a",), rounded).deviation == (1.0,)


def check_folded(fold):
    """All values are there, those of one place of 2 × 2 together."""
    x = torch.randn(3, 1, 4, 6)
    folded = fold(x)
    assert folded.shape == (3, 4, 2, 3)
    assert torch.equal(folded.flatten().sort().values, x.flatten().sort().values)
    assert folded[0, :, 1, 2].tolist() == x[0, 0, 2:4, 4:6].flatten().tolist()


def test_folding_loses_nothing_and_keeps_neighbours_together():
    x = torch.randn(3, 1, 4, 6)
    check_folded(MASK)
    assert MASK.port == MapPort(4)
    assert torch.equal(torch.nn.functional.pixel_shuffle(MASK(x), 2), x)
    assert torch.equal(replace(MASK, factor=1)(x), x)
    with pytest.raises(AssertionError):
        check_folded(lambda x: x.reshape(3, 4, 2, 3))


def test_nothing_asked_is_the_null_in_every_condition():
    null, silent = EVERY.null(), EVERY({}, 1)
    assert {name: list(row.shape) for name, row in null.items()} == {
        "label": [1],
        "numbers": [1, 2],
        "mask": [1, 4, 2, 3],
        "edges": [1, 12, 2, 3],
    }
    assert null["numbers"].isnan().all()
    assert null["mask"].isnan().all()
    for name, rows in EVERY({"numbers": [None] * 3, "mask": [None] * 3}, 3).items():
        assert torch.equal(rows.isnan(), null[name].expand_as(rows).isnan())
    assert silent["label"].item() == 2
    assert EVERY.ports == {"label": ClassPort(2), "numbers": VectorPort(2), "mask": MapPort(4), "edges": MapPort(12)}


def test_examples_differ_in_every_condition():
    examples = EVERY.examples()
    assert {name: len(rows) for name, rows in examples.items()} == {"label": 2, "numbers": 2, "mask": 2, "edges": 2}
    assert all(not torch.equal(rows[0], rows[1]) for rows in examples.values())
    assert not any(rows.isnan().any() for rows in examples.values())


def test_numbers_and_pictures_are_asked_for_one_for_all_or_one_for_each():
    shown = torch.linspace(-1, 1, 24).reshape(1, 4, 6)
    given = EVERY.given(3, {"numbers": {"size": [0, 1, 2], "time": 1.7e9}, "mask": shown})
    assert given["numbers"] == [(1.7e9, 0.0), (1.7e9, 1.0), (1.7e9, 2.0)]
    cond = EVERY(part(given, 1, 2), 2)
    assert cond["label"].tolist() == [2, 2]
    assert cond["edges"].isnan().all()
    assert np.array_equal(cond["numbers"].numpy(), HEARS([[1.7e9, 1], [1.7e9, 2]]).numpy())
    assert torch.equal(cond["mask"], MASK(shown[None]).expand(2, -1, -1, -1))
    assert EVERY.given(1, {"numbers": {"size": np.float32(0.5), "time": torch.tensor(1)}})["numbers"] == [(1.0, 0.5)]
    each = torch.stack([shown, -shown])
    assert torch.equal(EVERY(EVERY.given(2, {"mask": each}), 2)["mask"], MASK(each))


@pytest.mark.parametrize(
    ("conditioner", "asked", "said"),
    [
        (Conditioner(), {"numbers": {"a": 1}}, "without numbers"),
        (Conditioner(), {"mask": torch.zeros(1, 4, 6)}, "without mask"),
        (EVERY, {"numbers": 3}, "numbers are asked for by name, got 3"),
        (EVERY, {"numbers": {"size": 1}}, "numbers are heard together, and time is not given"),
        (EVERY, {"numbers": {"size": 1, "tine": 1}}, "no number 'tine'"),
        (EVERY, {"numbers": {"size": math.nan, "time": 1}}, "a number is finite, got size=nan"),
        (EVERY, {"numbers": {"size": [1, 2, 3], "time": 1}}, r"one size for each of 2 images, got \[3\]"),
        (EVERY, {"mask": torch.zeros(1, 6, 4)}, r"one picture for each of 2 images, floating \[2, 1, 4, 6\]"),
        (EVERY, {"mask": torch.zeros(3, 1, 4, 6)}, "one picture for each of 2"),
        (EVERY, {"mask": torch.full((1, 4, 6), 255.0)}, "values from -1 to 1"),
    ],
)
def test_what_cannot_be_asked_is_refused(conditioner, asked, said):
    with pytest.raises(UsageError, match=said):
        conditioner.given(2, asked)


def test_they_survive_their_contract_and_say_what_lies_beyond():
    assert Numbers.from_json(json.loads(json.dumps(HEARS.to_json()))) == HEARS
    assert Picture.from_json(json.loads(json.dumps(MASK.to_json()))) == MASK
    with pytest.raises(ValueError, match="numbers"):
        Numbers.from_json(HEARS.to_json() | {"deviation": [0.0, 1.0]})
    assert HEARS.beyond({"time": 1.7e9, "size": [1.0, 9.0]}) == [
        f"size was trained on from {DATA[:, 1].min():g} to {DATA[:, 1].max():g}"
    ]


def test_pictures_are_asked_for_by_their_files_too(tmp_path):
    """Each by its name, and none where None is; what is asked for is JSON, and read when it is needed."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6), dtype=np.uint8)
    files = [tmp_path / f"{i}.png" for i in range(2)]
    for file, one in zip(files, pixels, strict=True):
        Image.fromarray(one).save(file)
    given = EVERY.given(3, {"mask": [files[1], None, files[0]], "edges": str(files[1])})
    assert json.loads(json.dumps(given)) == given
    cond, unit = EVERY(given, 3), torch.from_numpy(pixels).float()[:, None] / 127.5 - 1
    torch.testing.assert_close(cond["mask"][[0, 2]], MASK(unit[[1, 0]]))
    assert cond["mask"][1].isnan().all()
    torch.testing.assert_close(cond["edges"], EDGES(unit[1:].expand(3, 3, -1, -1)))
    with pytest.raises(DataError, match=r"no picture nowhere\.png"):
        EVERY.given(1, {"mask": "nowhere.png"})
