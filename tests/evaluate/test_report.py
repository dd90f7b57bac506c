from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import pytest

from ebb.errors import UsageError
from ebb.evaluate.page import log_ticks, ticks
from ebb.evaluate.report import _smooth, curve, write_report

HOSTILE = '<script src="http://evil">"&'
VOID = {"meta", "img", "br", "!doctype"}


class Reader(HTMLParser):
    """Holds every tag closed in order, and keeps attributes and text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], set(), [], ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(run):
    page = write_report(run).read_text(encoding="utf-8")
    reader = Reader(page)
    check_self_contained(page, reader)
    return reader


def check_self_contained(page, reader):
    assert "script" not in reader.tags
    assert all(link.startswith("data:image/png;base64,") for link in reader.links)
    assert not re.search(r"url\(|@import", page)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "samples").mkdir()
    for name in ["data-grid", *(f"step-{500 * i:06d}" for i in range(1, 12))]:
        (tmp_path / "samples" / f"{name}.png").write_bytes(b"\x89PNG" + bytes(50))
    entry = {"images": 64, "seconds": 3.0, "grad_norm": 1.0, "lr": 1e-3, "images_per_second": 50.0}
    log = [entry | {"step": i, "loss": 2.0 * math.exp(-i / 10)} for i in range(1, 60)]
    log[5]["loss"] = math.nan
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(x) + "\n" for x in log) + '{"step": 60, "lo')
    (tmp_path / "run.yaml").write_text("command: ebb train\n  digits\nnote: <b>\n")
    contents = {
        "env": {"torch": "2.13"},
        "choices": {"batch": {"value": 128, "reason": "fits"}},
        "data": {
            "kind": "folder",
            "name": HOSTILE,
            "count": 1797,
            "shape": [3, 8, 8],
            "classes": {HOSTILE: 10, "b": 20},
            "captions": None,
            "mean": [0.1],
            "std": [0.2],
            "histogram": [list(range(16))] * 3,
            "fingerprint": "abc",
            "chosen": {"labels": "folder names"},
            "findings": [{"kind": "duplicates", "count": 2, "examples": [HOSTILE], "action": "kept"}],
        },
        "evaluation": {
            "distances": {"Fréchet distance": {"value": 0.12345, "low": 0.1, "high": 0.2, "floor": 0.05}},
            "n_samples": 1000,
            "n_reference": 1000,
            "n_floor": 800,
            "features": "classifier",
            "classifier_accuracy": 0.99,
            "label_accuracy": 0.9,
            "per_class": {HOSTILE: 0.5},
            "warnings": [HOSTILE],
            "seconds": 1.0,
            "settings": {"steps": 20},
        },
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_an_empty_folder_gives_a_page_with_its_name_alone(tmp_path):
    reader = read(tmp_path)
    assert tmp_path.name in reader.text
    assert "h2" not in reader.tags


def test_a_full_run_shows_every_part_and_escapes_what_it_shows(run):
    reader = read(run)
    for text in (
        "ebb train digits",
        "59 steps",
        "0.123",
        "0.05",
        "90.0%",
        "real images",
        "1,797",
        "folder names",
        "<b>",
    ):
        assert text in reader.text
    assert reader.text.count(HOSTILE) == 5  # name, class, example, class accuracy, warning
    assert len(reader.links) == 2 + 6


def test_an_unescaped_name_is_caught(run, monkeypatch):
    monkeypatch.setattr("ebb.evaluate.report.escape", str)
    with pytest.raises(AssertionError):
        read(run)


def test_the_report_is_a_function_of_the_folder(run):
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_large_images_are_left_out_and_counted(run):
    for path in (run / "samples").glob("step-*.png"):
        path.write_bytes(bytes(1_500_000))
    reader = read(run)
    assert (run / "report.html").stat().st_size < 3_000_000
    assert "6 more" in reader.text


def test_a_damaged_part_is_named_and_the_rest_shown(run):
    (run / "data.json").write_text("{")
    reader = read(run)
    assert "data.json could not be read" in reader.text
    assert "0.123" in reader.text


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="folder of a run"):
        write_report(tmp_path / "none")


def test_ticks_are_round_and_lie_in_the_range():
    assert ticks(0, 5000) == [0, 1000, 2000, 3000, 4000, 5000]
    assert log_ticks(-2, 0) == pytest.approx([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1])
    assert log_ticks(-4, 0) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])


def test_smoothing_keeps_a_line_and_evens_out_noise():
    line = [(float(i), 2.0 * i) for i in range(200)]
    assert [y for _, y in _smooth(line)[10:-10]] == pytest.approx([y for _, y in line[10:-10]])
    wave = [(float(i), float(i % 2)) for i in range(200)]
    assert all(abs(y - 0.5) < 0.1 for _, y in _smooth(wave)[10:-10])


@pytest.mark.parametrize("values", [[1, 1, 1], [0, 0, 0], [-5, 3, 1e9], [1e-12, 2e-12, 1e-12]])
def test_a_curve_stays_within_its_frame(values):
    drawn = curve([(float(i), float(v)) for i, v in enumerate(values)], "t", "", log_scale=True)
    for line in re.findall(r'points="([^"]*)"', drawn):
        for point in line.split():
            x, y = map(float, point.split(","))
            assert 48 <= x <= 388
            assert 24 <= y <= 174
