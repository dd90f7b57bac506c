"""The cache of what a frozen network made: equal to making it, made once, and whatever happens to the files."""

from __future__ import annotations

import errno
import json

import numpy as np
import pytest
import torch

from ebb.errors import EbbError, ResourceError, UsageError
from ebb.events import Message, Progress, finished
from ebb.store import memory, write
from ebb.store.shards import cached

KEY = {"data": "abc", "network": {"kind": "kl", "sha256": "def"}, "scale": 0.18}


class Made:
    """What stands for an encoder: two tensors that are a function of the item, and which items were asked for."""

    def __init__(self, shift=0.0, fail_at=None):
        self.shift, self.fail_at, self.asked = shift, fail_at, []

    def __call__(self, first, last):
        if self.fail_at is not None and first >= self.fail_at:
            raise KeyboardInterrupt
        self.asked.append((first, last))
        rows = torch.arange(first, last)
        z = rows[:, None, None, None] + torch.arange(16).reshape(1, 4, 2, 2) / 100 + self.shift
        return {"z": z.half(), "text": rows[:, None].expand(-1, 3) * 7}


def whole(found, count=23):
    """Whether the cache holds what `Made` makes, asked in another order."""
    index = np.random.default_rng(0).integers(0, count, 100)
    expected = Made()(0, count)
    return all(torch.equal(found[name][index], expected[name][index]) for name in expected)


def made(folder, make=None, **changes):
    options = {"key": KEY, "count": 23, "rows": 5} | changes
    said = []
    found = finished(cached(folder, make=make or Made(), **options), said.append)
    return found, [event.text for event in said if isinstance(event, Message)]


SHARDS = [(0, 5), (5, 10), (10, 15), (15, 20), (20, 23)]


def test_it_is_made_once_and_equal_to_what_was_made(tmp_path):
    make, calls = Made(), []
    found = finished(cached(tmp_path / "z", KEY, 23, make, rows=5, what="latents"), calls.append)
    assert make.asked == SHARDS
    assert calls == [Progress("latents", first, 23) for first, _ in SHARDS]
    assert whole(found)
    assert not whole(finished(cached(tmp_path / "other", KEY, 23, Made(shift=1.0), rows=5)))
    assert found["z"][np.array([2])].dtype == torch.float16
    assert len(found["z"]) == 23
    again = Made()
    assert whole(finished(cached(tmp_path / "z", KEY, 23, again, rows=5)))
    assert again.asked == []
    reordered = dict(reversed(KEY.items()))
    finished(cached(tmp_path / "z", reordered, 23, again, rows=5))
    assert again.asked == [], "the order of a key's entries says nothing"


def test_what_crowds_memory_is_mapped_from_the_files(tmp_path, monkeypatch):
    made(tmp_path)
    monkeypatch.setattr(memory, "available", lambda: 100)
    found, _ = made(tmp_path)
    assert len(found["z"].parts) == 5
    assert len(found["z"]) == 23
    assert whole(found)
    assert found["z"][torch.tensor([], dtype=torch.int64)].shape == (0, 4, 2, 2)


@pytest.mark.parametrize("room", [100, 10**9])
@pytest.mark.parametrize("index", [[23], [0, -1]])
def test_rows_that_are_not_there(tmp_path, monkeypatch, room, index):
    monkeypatch.setattr(memory, "available", lambda: room)
    with pytest.raises(IndexError, match=r"rows 0 … 22"):
        made(tmp_path)[0]["z"][np.array(index)]


def test_bfloat16_and_plain_numbers_come_back(tmp_path):
    rows = {"a": torch.randn(4, 3).bfloat16(), "b": torch.arange(4), "c": torch.tensor([True, False, True, True])}
    found = finished(
        cached(tmp_path, {}, 4, lambda first, last: {name: x[first:last] for name, x in rows.items()}, rows=3)
    )
    assert all(torch.equal(found[name][torch.arange(4)], x) for name, x in rows.items())


# ---- what may happen


def test_an_interrupted_call_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, Made(fail_at=15))
    (tmp_path / "00003.safetensors.tmp").write_bytes(b"half")
    (tmp_path / "00004.safetensors").write_bytes(b"written, and the index not any more")
    again = Made()
    found, said = made(tmp_path, again)
    assert again.asked == SHARDS[3:]
    assert said == []
    assert whole(found)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"0000{i}.safetensors" for i in range(5)] + [
        "index.json"
    ]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"key": KEY | {"scale": 0.2}}, "scale"),
        ({"key": KEY | {"network": {"kind": "kl", "sha256": "other"}}}, "network"),
        ({"key": {"data": "abc"}}, "network, scale"),
        ({"count": 22}, "count"),
        ({"rows": 12}, "rows"),
    ],
)
def test_a_stale_cache_is_made_anew_and_said_so(tmp_path, changes, named):
    made(tmp_path, Made(shift=3.0))
    (tmp_path / "notes.txt").write_text("of the user")
    again = Made()
    found, said = made(tmp_path, again, **changes)
    assert said == [f"{tmp_path} was made of other things ({named}): making it anew"]
    assert again.asked[-1][1] == changes.get("count", 23)
    assert whole(found, changes.get("count", 23))
    assert (tmp_path / "notes.txt").exists()
    assert len(list(tmp_path.glob("*.safetensors"))) == len(again.asked)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "empty"])
def test_a_damaged_shard_alone_is_made_anew(tmp_path, damage):
    made(tmp_path)
    file = tmp_path / "00002.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.unlink()
    if damage != "gone":
        file.write_bytes({"flip": data, "cut": data[:-3], "empty": b""}[damage])
    again = Made()
    found, said = made(tmp_path, again)
    assert again.asked == [(10, 15)]
    assert said == [f"{file} is damaged or missing: making it anew"]
    assert whole(found)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"fingerprint": 3}', "\xff"])
def test_a_damaged_index_means_all_anew(tmp_path, text):
    made(tmp_path)
    (tmp_path / "index.json").write_text(text, "latin-1")
    again = Made()
    found, said = made(tmp_path, again)
    assert again.asked == SHARDS
    assert said == [f"{tmp_path / 'index.json'} cannot be read: making its tensors anew"]
    assert whole(found)


def test_a_damaged_entry_of_the_index_costs_its_shard(tmp_path):
    made(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    index["shards"]["00001.safetensors"] = {"size": "large"}
    (tmp_path / "index.json").write_text(json.dumps(index))
    again = Made()
    assert whole(made(tmp_path, again)[0])
    assert again.asked == [(5, 10)]


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    synced, written = write.synced, []

    def full(path):
        written.append(path.name)
        if len(written) == 6:  # an index, and a shard and an index for each
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(path)

    monkeypatch.setattr(write, "synced", full)
    with pytest.raises(ResourceError, match=r"00002\.safetensors: No space") as caught:
        made(tmp_path)
    monkeypatch.undo()
    assert "goes on" in caught.value.hint
    assert sorted(file.name for file in tmp_path.iterdir()) == ["00000.safetensors", "00001.safetensors", "index.json"]
    again = Made()
    assert whole(made(tmp_path, again)[0])
    assert again.asked == SHARDS[2:]


# ---- what `make` may get wrong, and the caller


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: {"z": rows["z"][1:]}, "expected 5 rows of 'z' for items 10 to 15, got 4"),
        (lambda rows: {"z": rows["z"].float(), "text": rows["text"]}, "expected tensors"),
        (lambda rows: {"z": rows["z"]}, "expected tensors"),
        (lambda rows: {}, "expected tensors"),
        (
            lambda rows: rows | {"z": rows["z"].index_fill(0, torch.tensor([3]), torch.inf)},
            "'z' of item 13 is not finite",
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_name(tmp_path, change, message):
    make = Made()
    with pytest.raises(EbbError, match=message):
        made(tmp_path, lambda first, last: change(make(first, last)) if first == 10 else make(first, last))
    again = Made()
    assert whole(made(tmp_path, again)[0])
    assert again.asked == SHARDS[2:], "what was good is kept"


@pytest.mark.parametrize("wrong", [{"count": 0}, {"rows": 0}, {"key": {"path": object()}}])
def test_wrong_arguments(tmp_path, wrong):
    with pytest.raises(UsageError):
        made(tmp_path, **wrong)
