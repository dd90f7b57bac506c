"""The page about data: verdict first, the right examples and values, what is cropped, nothing of the user's touched."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from ebb.cli import main
from ebb.doctor.diagnose import examined
from ebb.doctor.finding import Diagnosis, Finding
from ebb.errors import UsageError
from ebb.report.data_crops import shaded
from ebb.report.data_report import place_of, write_data_report
from ebb.report.data_values import clipped_ends, levels_of


@pytest.fixture
def photos(tmp_path):
    """Thirty captioned pictures, of which some are wide, one has no caption, one file is broken, one row is lost."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(30):
        size = (16, 32, 3) if i % 6 == 0 else (16, 16, 3)
        Image.fromarray(rng.integers(40, 200, size, dtype=np.uint8)).save(folder / f"{i:02}.png")
    rows = [{"file_name": f"{i:02}.png", "text": f"picture number {i}"} for i in range(1, 30)]
    rows.append({"file_name": "lost.png", "text": "nothing"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    return folder


def drawn(data, tmp_path):
    found, subject = examined(str(data))
    return write_data_report(subject, found, tmp_path / "page.html").read_text(), found


def test_a_page_says_first_whether_the_data_is_fit_and_shows_all_of_it(photos, tmp_path):
    before = {file: file.read_bytes() for file in photos.iterdir()}
    page, found = drawn(photos, tmp_path)
    assert "<script" not in page
    assert set(re.findall(r'src="(.{22})', page)) == {"data:image/png;base64,"}
    for said in ("fit to train: no", "broken.png", "lost.png", "Cropped away", "50% cut off", "Without a caption"):
        assert said in page, said
    assert page.index("fit to train") < page.index("<section")
    assert "cropped away: 0% of the area in the median, 50% of 00.png at worst; 5 of 30 lose some" in found.facts[1]
    assert found.facts[2] == (
        "captions: 29 of 30 images have one, 29 different, from metadata.jsonl; none for 00.png, broken.png;"
        " metadata.jsonl: 29 of 30 rows name a picture that is here; not lost.png"
    )
    assert str(found).startswith("fit to train: no, because some images cannot be read and are left out")
    assert {file: file.read_bytes() for file in photos.iterdir()} == before


def test_a_table_has_its_columns_and_its_classes(tmp_path):
    rows = np.random.default_rng(0).normal(size=(300, 3))
    text = "width,height,depth,kind\n" + "".join(
        f"{a:.4f},{b:.4f},2,{'xy'[i % 2]}\n" for i, (a, b, _) in enumerate(rows)
    )
    (tmp_path / "t.csv").write_text(text)
    page, found = drawn(tmp_path / "t.csv", tmp_path)
    assert found.facts == ("read: 300 rows (value 2); 2 classes of 150 each",)
    for said in ("fit to train: yes", "width: mean", "<h3>depth</h3><p>constant: 2", "150 (1.00 of even)"):
        assert said in page, said


def test_verdicts_name_what_was_found():
    def verdict(*severities, kind="data"):
        findings = [Finding("n", f"symptom {i}", "", "", "", each) for i, each in enumerate(severities)]
        return Diagnosis("data", kind, ["a", "b"], findings).verdict

    assert verdict() == "fit to train: yes, because none of 2 checks found an error"
    assert verdict("warning").endswith("; worth a look first: symptom 0")
    assert verdict(*["warning"] * 5).endswith("symptom 2; and 2 more")
    assert verdict("warning", "error") == "fit to train: no, because symptom 1"
    assert verdict("error", kind="model") == ""


def test_every_level_is_counted_and_ends_that_stand_out_are_marked():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (50, 3, 8, 8), dtype=np.uint8)
    counts = levels_of(pixels)
    assert [counts[c, v] for c, v in ((0, 0), (1, 17), (2, 255))] == [
        (pixels[:, c] == v).sum() for c, v in ((0, 0), (1, 17), (2, 255))
    ]
    assert [clipped_ends(row) for row in counts] == [(False, False)] * 3
    assert clipped_ends(levels_of(np.clip(pixels * 1.3, 0, 255).astype(np.uint8))[0]) == (False, True)


def test_an_end_that_need_not_stand_out_is_caught(monkeypatch):
    """A mutant that marks every end with a hundredth of the values: even counts have none that was cut off."""
    monkeypatch.setattr("ebb.report.data_values.SPIKE", 0)
    monkeypatch.setattr("ebb.report.data_values.CLIPPED_SHARE", 1 / 512)
    with pytest.raises(AssertionError):
        test_every_level_is_counted_and_ends_that_stand_out_are_marked()


def test_the_frame_is_what_an_example_is_cut_from():
    picture = np.full((3, 20, 60), 200, np.uint8)
    image = np.asarray(shaded(picture, (3, 16, 16)))
    bright = (image == 200).all(2)
    assert np.flatnonzero(bright.any(0)).min() == 22  # 20 + a frame of 2
    assert np.flatnonzero(bright.any(0)).max() == 37
    assert (image[:, :20] == 70).all()


def test_a_page_is_written_beside_nothing_of_the_users_data(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(place_of("photos")) == "runs/photos-data.html"
    monkeypatch.chdir(photos)
    assert not place_of(".").resolve().is_relative_to(photos)
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine</p>")
    for out, message in (
        (mine, "not made by ebb"),
        (tmp_path / "a.png", "written as .html"),
        (tmp_path / "a/b/c.html", "no folder"),
    ):
        with pytest.raises(UsageError, match=message):
            place_of(str(photos), out)


def test_the_command_prints_the_verdict_and_where_the_page_is(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for i in range(2):  # a page of ebb's own is written anew
        with pytest.raises(SystemExit) as end:
            main(["doctor", "photos", "--out", "page.html"])
        assert end.value.code == 1
        lines = capsys.readouterr().out.splitlines()
        assert lines[-1] == "page     page.html", i
        assert next(line for line in lines if line.startswith("fit")).startswith("fit to train: no, because")
    shutil.copytree(photos, tmp_path / "run")
    (tmp_path / "run" / "run.yaml").write_text("")
    with pytest.raises(SystemExit) as end:
        main(["doctor", "run", "--out", "page.html"])
    assert end.value.code == 2
