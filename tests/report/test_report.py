from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import pytest

from ebb.errors import UsageError
from ebb.report.captions_section import captions
from ebb.report.page import log_ticks, ticks
from ebb.report.plot import Line, beside, columns, curve, plot, smooth
from ebb.report.run_report import write_report
from ebb.report.samples_section import Album
from ebb.store.owned import OWN

HOSTILE = '<script src="http://evil">"&'
VOID = {"meta", "img", "br", "!doctype"}


INTERVAL = {"low": 1.5, "high": 2.5, "count": 64, "unit": "bits/dim"}
CENTRES = [-11.25 + 1.5 * k for k in range(16)]
NEAREST = {"space": "pixels", "closer": 0.013, "expected": 0.01, "low": 0.01, "high": 0.02, "beyond": 0.002}
PERCENTILES = {"samples": [i / 100 for i in range(101)], "held_out": [i / 90 for i in range(101)]}
PARTS = {
    "cost": {
        "evaluations": 40.0,
        "seconds": 0.0125,
        "images_per_second": 80.0,
        "peak_mb": 345.0,
        "gflop": 6.5,
        "batch": 128,
        "device": "CPU",
        "threads": 2,
    },
    "memorisation": {
        "verdict": "no sign of memorisation",
        "spaces": [NEAREST | PERCENTILES],
        "pairs": [[0, 1, 0.5]],
        "n_samples": 1000,
        "n_train": 5000,
        "n_held_out": 900,
    },
    "likelihood": INTERVAL | {"value": 1.9375, "probes": 1, "evaluations": 60},
    "bound": INTERVAL
    | {"value": 2.0625, "terms": [{"log_snr": x, "bits": 0.1} for x in CENTRES], "reconstruction": 0.4, "prior": 0.001},
    "levels": {
        "log_snr": CENTRES,
        "loss": [0.1 + 0.01 * k for k in range(16)],
        "grad_norm": [1.0] * 8 + [2.0] * 8,
        "output_scale": [1.0 + k for k in range(16)],
        "trivial": [0.5] * 16,
        "ideal": [None] + [0.05] * 15,
    },
}
FINDING = {
    "name": "blur",
    "symptom": "the samples are blurry",
    "evidence": "0.41 of the power of the data",
    "cause": "too few steps",
    "advice": f"look at {HOSTILE}",
    "commands": [f"ebb sweep {HOSTILE}"],
    "severity": "warning",
}


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
    for name in ["data-sheet", *(f"step-{500 * i:06d}" for i in range(1, 12))]:
        (tmp_path / "samples" / f"{name}.png").write_bytes(b"\x89PNG" + bytes(50))
    entry = {"images": 64, "seconds": 3.0, "grad_norm": 1.0, "lr": 1e-3, "images_per_second": 50.0}
    log = [entry | {"step": i, "loss": 2.0 * math.exp(-i / 10)} for i in range(1, 60)]
    log[5]["loss"] = math.nan
    for i in (9, 29, 49):
        log[i] |= {
            "validation": 0.3,
            "validation_ema": 0.2,
            "levels": [0.1 * k for k in range(15)] + [None],
            "skipped": i // 29,
        }
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(x) + "\n" for x in log) + '{"step": 60, "lo')
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "closest.png").write_bytes(b"\x89PNG" + bytes(50))
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
            "frechet_by_class": {"seven": 0.0625},
            **PARTS,
        },
        "doctor": {
            "subject": "run",
            "kind": "run",
            "checked": ["blur", "time"],
            "findings": [FINDING],
            "unchecked": ["memorisation: the data is gone"],
        },
        "against-other": {
            "run": "run",
            "other": "other",
            "count": 1000,
            "seed": 0,
            "features": "classifier",
            "differences": {
                "recall": {
                    "value": 0.7,
                    "other": 0.6,
                    "difference": 0.1,
                    "low": 0.05,
                    "high": 0.15,
                    "says": "run is better",
                }
            },
            "warnings": [],
            "settings": {"steps": 20},
            "other_settings": {"steps": 10},
        },
        "guard": [{"step": 31, "what": "skipped"}, {"step": 33, "what": "rolled back", "cause": "a spike of 1e4"}],
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_an_empty_folder_gives_a_page_with_its_name_alone(tmp_path):
    reader = read(tmp_path)
    assert tmp_path.name in reader.text
    assert "h2" not in reader.tags


def test_the_data_of_an_older_run_is_shown(run):
    (run / "samples" / "data-sheet.png").rename(run / "samples" / "data-grid.png")
    assert "real images" in read(run).text
    assert OWN.fullmatch("samples/data-grid.png"), "and goes with it"
    (run / "samples" / "data-grid.png").unlink()
    assert "real images</figcaption>" not in write_report(run).read_text()


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
        "the samples are blurry",
        "0.41 of the power",
        "the data is gone",
        "0.0625",
        "run is better",
        "no sign of memorisation",
        "1.3%",
        "knows every training image",
        "validation, averaged",
        "2 steps were skipped",
        "rolled back, a spike",
        "1.94",
        "2.06",
        "12.5 ms",
        "345 MB",
    ):
        assert text in reader.text, text
    assert "could not" not in reader.text.replace("Could not check", "")
    assert (
        reader.text.count(HOSTILE) == 7
    )  # name, class, example, class accuracy, warning, advice and command of a finding
    assert len(reader.links) == 2 + 6 + 1


def test_the_parts_come_in_the_order_in_which_they_are_read(run):
    titles = re.findall(r"<h2>([^<]*)</h2>", write_report(run).read_text(encoding="utf-8"))
    assert titles == [
        "What the doctor found",
        "Samples",
        "Figures",
        "Noise levels",
        "Training",
        "Memorisation",
        "Likelihood",
        "Cost of a sample",
        "Data",
        "How to repeat it",
    ]


def test_a_figure_from_too_few_images_says_what_it_needs(run):
    evaluation = json.loads((run / "evaluation.json").read_text())
    figure = evaluation["distances"]["Fréchet distance"]
    for needs, said in ((1000, False), (1280, True)):
        figure["needs"] = needs
        (run / "evaluation.json").write_text(json.dumps(evaluation))
        assert (f"needs {needs:,} images" in read(run).text) == said


def test_a_part_of_another_shape_is_named_and_the_rest_shown(run):
    evaluation = json.loads((run / "evaluation.json").read_text())
    del evaluation["likelihood"]["value"]
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    reader = read(run)
    assert "Likelihood could not be drawn" in reader.text
    assert "345 MB" in reader.text


def test_a_healthy_diagnosis_says_so(run):
    (run / "doctor.json").write_text(json.dumps({"checked": ["a"] * 19, "findings": [], "unchecked": []}))
    assert "Nothing found in 19 checks" in read(run).text


def places(drawn):
    return [[tuple(map(float, p.split(","))) for p in line.split()] for line in re.findall(r'points="([^"]*)"', drawn)]


def test_lines_of_a_plot_share_their_axes():
    """A value has one height whichever line it is on, and a larger one is higher, on both kinds of axis."""
    for log_scale in (False, True):
        drawn = plot([Line("a", [(0, 1), (1, 10)]), Line("b", [(0, 10), (2, 100)])], "t", log_scale=log_scale)
        (a, b) = places(drawn)
        assert a[1][1] == b[0][1]
        assert b[1][1] < a[1][1] < a[0][1]
        assert a[1][0] - a[0][0] == pytest.approx((b[1][0] - a[0][0]) / 2)
        assert (abs(a[0][1] - a[1][1] - (b[0][1] - b[1][1])) < 0.2) == log_scale  # decades are equally high


def test_skipped_steps_are_marked_where_they_were():
    drawn = plot([Line("", [(0, 1.0), (100, 2.0)])], "t", marks=[50, 500])
    assert re.findall(r'<path d="M([\d.]+) 24V174" stroke="var\(--warn\)"', drawn) == ["218.0"]


@pytest.mark.parametrize("values", [[], [(0, 1.0)], [(0, math.nan), (1, math.inf)]])
def test_too_little_to_draw_is_nothing(values):
    assert plot([Line("a", values)], "t") == columns(values, "t", "x") == ""


def test_a_figure_beside_its_floor_keeps_its_order():
    drawn = beside(0.4, 0.3, 0.5, 0.2)
    floor, low, high, value = (
        float(x)
        for x in re.findall(r'd="M([\d.]+) 2V16|d="M([\d.]+) 9H([\d.]+)" stroke="var\(--mark|cx="([\d.]+)', drawn)
        for x in x
        if x
    )
    assert floor < low < value < high
    assert beside(1.0, 1.0, 1.0, 1.0) == beside(math.nan, 0, 1, 0) == ""


def test_an_unescaped_name_is_caught(run, monkeypatch):
    monkeypatch.setattr("ebb.report.run_report.escape", str)
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
    assert [y for _, y in smooth(line)[10:-10]] == pytest.approx([y for _, y in line[10:-10]])
    wave = [(float(i), float(i % 2)) for i in range(200)]
    assert all(abs(y - 0.5) < 0.1 for _, y in smooth(wave)[10:-10])


@pytest.mark.parametrize("values", [[1, 1, 1], [0, 0, 0], [-5, 3, 1e9], [1e-12, 2e-12, 1e-12]])
def test_a_curve_stays_within_its_frame(values):
    drawn = curve([(float(i), float(v)) for i, v in enumerate(values)], "t", "", log_scale=True)
    for line in re.findall(r'points="([^"]*)"', drawn):
        for point in line.split():
            x, y = map(float, point.split(","))
            assert 48 <= x <= 388
            assert 24 <= y <= 174


def test_what_former_evaluations_read_in_scenes_is_shown(tmp_path):
    read = {"count": 4, "share": 0.5, "things": 0.75, "novel": None, "ceiling": 1.0}
    page = captions({"agreement": read}, tmp_path, Album())
    assert "50.0%" in page
    assert captions({"obeyed": read}, tmp_path, Album()) == page
