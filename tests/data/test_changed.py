"""What is said of data that is not what a run was trained on: counts, sizes, and the pictures that came since."""

import json
import os
from datetime import UTC, datetime, timedelta

import pytest
from PIL import Image

from ebb.data.changed import changed
from ebb.data.scan import read


@pytest.fixture
def run(tmp_path):
    """A run folder that says it began an hour ago, on 3 images of 8×4."""
    folder, began = tmp_path / "run", datetime.now(UTC) - timedelta(hours=1)
    folder.mkdir()
    (folder / "data.json").write_text(json.dumps({"count": 3, "shape": [1, 4, 8]}))
    (folder / "env.json").write_text(json.dumps({"started": began.strftime("%Y-%m-%dT%H:%M:%S%z")}))
    return folder


def written(folder, count, size):
    folder.mkdir()
    for index in range(count):
        Image.new("L", size, index).save(folder / f"{index}.png")
        os.utime(folder / f"{index}.png", (10**9 + index, 2 * 10**9 + index))  # whose dates lie after the run
    return read(str(folder)).summary


def test_counts_sizes_and_new_files_are_named(run, tmp_path):
    summary = written(tmp_path / "data", 5, (10, 6))
    said = changed(run, summary, str(tmp_path / "data"))
    assert said == "5 images now, 3 then; of 10×6 now, 8×4 then; added or changed since: 4.png, 3.png, 2.png and 2 more"


def test_where_nothing_is_known_nothing_is_made_up(tmp_path, run):
    summary = written(tmp_path / "data", 3, (8, 4))
    (run / "env.json").write_text("{}")
    assert changed(run, summary, str(tmp_path / "data")) == "other pixels, labels or captions"
    (run / "data.json").write_text("damaged")
    (run / "env.json").unlink()
    assert changed(run, summary, str(tmp_path / "gone")) == "other pixels, labels or captions"
