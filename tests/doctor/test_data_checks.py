"""Every check of data fires on a planted fault, and none on its healthy twin."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from ebb.data.scan import read
from ebb.doctor import data_checks as checks
from ebb.doctor import data_subject
from ebb.doctor.data_subject import DataSubject, alike, as_bytes
from ebb.doctor.diagnose import diagnose
from ebb.doctor.finding import NothingToExamineError, called
from ebb.doctor.looks import margins, sharpness

COUNT, SIDE = 1200, 16


def photographs(count=COUNT, seed=0):
    """Smooth pictures of many levels in two classes, bright above or bright below, and their labels."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.normal(size=(count, 4, 4)), np.ones((4, 4)))
    for axis in (1, 2):  # smoothed, so that neighbouring pixels go together
        coarse = (coarse + np.roll(coarse, 1, axis) + np.roll(coarse, -1, axis)) / 3
    labels = np.arange(count) % 2
    slope = np.linspace(1, -1, SIDE)[:, None] * (1 - 2 * labels)[:, None, None]
    pictures = 128 + 25 * coarse + 40 * slope + rng.normal(size=coarse.shape)
    return pictures.clip(1, 254).round().astype(np.uint8)[:, None], labels


@pytest.fixture(scope="session")
def healthy():
    return photographs()


@pytest.fixture
def judge_by_rule(monkeypatch):
    """A classifier that need not be trained: bright above or bright below."""

    def judged(data):
        above = data.read.rows[:, :, :8].mean((1, 2, 3)) - data.read.rows[:, :, 8:].mean((1, 2, 3))
        first = 1 / (1 + np.exp(-above / 4))
        return np.arange(len(above)), np.stack([first, 1 - first], 1)

    monkeypatch.setattr(DataSubject, "judged", property(judged))


@pytest.fixture
def little_work(monkeypatch):
    monkeypatch.setattr(data_subject, "JUDGE_SECONDS", 0.3)
    monkeypatch.setattr(data_subject, "MOST_JUDGED", 800)


def saved(folder, pixels, labels, **more):
    np.savez(folder / "data.npz", images=pixels, labels=labels, **more)
    return str(folder / "data.npz")


def jpeg(picture):
    file = io.BytesIO()
    Image.fromarray(picture[0]).save(file, "JPEG", quality=90)
    return np.asarray(Image.open(file))[None]


def written(folder, pixels, labels):
    """Class folders of PNG files."""
    for i, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
        (folder / f"class{label}").mkdir(exist_ok=True)
        Image.fromarray(picture[0]).save(folder / f"class{label}" / f"{i:04}.png")
    return str(folder)


def contrast(pixels, factor):
    return ((pixels.astype(float) - 128) * factor + 128).clip(0, 255).round().astype(np.uint8)


def some_corrupt(folder, pixels, labels):
    where = written(folder, pixels[:40], labels[:40])
    (folder / "class0" / "0000.png").write_bytes(b"\x89PNG and then nothing")
    return where


def some_larger(folder, pixels, labels):
    where = written(folder, pixels[:40], labels[:40])
    Image.fromarray(pixels[0, 0]).resize((40, 24)).save(folder / "class0" / "0000.png")
    return where


def some_very_wide(folder, pixels, labels):
    where = written(folder, pixels[:40], labels[:40])
    Image.fromarray(pixels[0, 0]).resize((2000, 20)).save(folder / "class0" / "0000.png")
    return where


def some_unlabelled(folder, pixels, labels):
    where = written(folder, pixels[:40], 0 * labels[:40])
    rows = [json.dumps({"file_name": f"class0/{i:04}.png", "label": i % 2}) for i in range(30)]
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    return where


def captioned(folder, pixels, change=lambda rows: rows):
    """One folder of PNG files with a row for each; `change` plants a fault in the rows."""
    for i, picture in enumerate(pixels[:40]):
        Image.fromarray(picture[0]).save(folder / f"{i:04}.png")
    rows = change([{"file_name": f"{i:04}.png", "text": f"picture {i}"} for i in range(40)])
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


def renamed(rows):
    return [{**row, "file_name": f"photo-{row['file_name']}"} for row in rows]


def one_broken_text(folder, pixels, labels):
    where = captioned(folder, pixels, lambda rows: rows[1:])
    (folder / "0000.txt").write_bytes(b"Caf\xe9")
    return where


def mixed_up(folder, pixels, labels, count=20):
    """Class folders, and images beside them."""
    where = written(folder, pixels[:40], labels[:40])
    for i, picture in enumerate(pixels[40 : 40 + count]):
        Image.fromarray(picture[0]).save(folder / f"preview{i}.png")
    return where


def one_class_broken(folder, pixels, labels):
    where = written(folder, pixels[:40], labels[:40])
    (folder / "class2").mkdir()
    (folder / "class2" / "0000.png").write_bytes(b"\x89PNG and then nothing")
    return where


def one_class_twice(folder, pixels, labels):
    where = written(folder, pixels[:40], labels[:40])
    (folder / "class1").rename(folder / "class0 ")
    return where


def wrong_labels(labels):
    return np.where(np.random.default_rng(1).random(len(labels)) < 0.1, 1 - labels, labels)


def busy(count=COUNT, seed=0):
    """Pictures with as much power in each octave, as photographs have."""
    rng = np.random.default_rng(seed)
    octaves = [np.kron(rng.normal(size=(count, SIDE // s, SIDE // s)), np.ones((s, s))) for s in (1, 2, 4, 8)]
    return (128 + 15 * sum(octaves)).clip(1, 254).round().astype(np.uint8)[:, None]


def softened(pixels):
    """Each picture blurred."""
    return np.stack([[np.asarray(Image.fromarray(plane).filter(ImageFilter.GaussianBlur(1.5)))] for (plane,) in pixels])


def on_a_ground(count=400, cut=0, seed=0):
    """A square of noise in the middle of a white picture, of the first `cut` pictures moved over the left edge."""
    rng = np.random.default_rng(seed)
    pictures = np.full((count, 1, SIDE, SIDE), 255, np.uint8)
    for i, picture in enumerate(pictures):
        side = rng.integers(6, 9)
        at = (SIDE - side) // 2
        content = rng.integers(0, 200, (side, side), dtype=np.uint8)
        left = -side // 2 if i < cut else at
        picture[0, at : at + side, max(left, 0) : left + side] = content[:, max(-left, 0) :]
    return pictures


PLANTED = {
    "values not in range": lambda at, x, y: saved(at, x // 128, y),
    "corrupt": some_corrupt,
    "exact duplicates": lambda at, x, y: saved(at, np.concatenate([x, x[:60]]), np.concatenate([y, y[:60]])),
    "near duplicates": lambda at, x, y: saved(at, np.concatenate([x, [jpeg(p) for p in x[:60]]]), np.concatenate([y, y[:60]])),
    "leaked": lambda at, x, y: saved(at, x, y, x_test=np.concatenate([x[:20], photographs(200, 1)[0]]), y_test=np.arange(220) % 2),
    "constant": lambda at, x, y: saved(at, np.concatenate([x, np.full((1, 1, SIDE, SIDE), 90, np.uint8)]), np.append(y, 0)),
    "clipped": lambda at, x, y: saved(at, contrast(x, 4), y),
    "class imbalance": lambda at, x, y: saved(at, x, (np.arange(len(x)) < 50).astype(int)),
    "labels partial": some_unlabelled,
    "captions lost": lambda at, x, y: captioned(at, x, renamed),
    "captions missing": lambda at, x, y: captioned(at, x, lambda rows: rows[:30]),
    "rows unreadable": one_broken_text,
    "rows conflicting": lambda at, x, y: captioned(at, x, lambda rows: [*rows, {**rows[3], "text": "another"}]),
    "labels lost": mixed_up,
    "images beside classes": lambda at, x, y: mixed_up(at, x, y, count=1),
    "class empty": one_class_broken,
    "classes alike": one_class_twice,
    "held out labels": lambda at, x, y: saved(at, x, y, x_test=photographs(20, 1)[0], y_test=np.arange(20) % 3),
    "too few images": lambda at, x, y: saved(at, x[:300], y[:300]),
    "mixed sizes": some_larger,
    "mostly cut off": some_very_wide,
    "blurred": lambda at, x, y: saved(at, np.concatenate([softened(busy()[:20]), busy()[20:]]), y),
    "cut off": lambda at, x, y: saved(at, on_a_ground(cut=8), np.arange(400) % 2),
    "mislabelled": lambda at, x, y: saved(at, x, wrong_labels(y)),
}  # fmt: skip

CONSEQUENCES = {
    "values not in range": {"exact duplicates", "near duplicates", "constant"},
    "corrupt": {"too few images"},
    "labels partial": {"too few images"},
    "cut off": {"too few images", "mislabelled"},
    "blurred": {"mislabelled"},
    "mixed sizes": {"too few images"},
    "mostly cut off": {"too few images", "mixed sizes"},
    "class imbalance": {"mislabelled"},
    "class empty": {"too few images", "corrupt"},
    "captions lost": {"too few images"},
    "captions missing": {"too few images"},
    "rows unreadable": {"too few images"},
    "rows conflicting": {"too few images"},
    "labels lost": {"too few images"},
    "images beside classes": {"too few images"},
    "classes alike": {"too few images"},
}
"""What else is true of the planted data."""


def names(diagnosis):
    return {finding.name for finding in diagnosis.findings}


def test_every_check_has_a_planted_fault():
    assert set(PLANTED) == {called(check) for check in checks.DATA_CHECKS}


@pytest.mark.usefixtures("judge_by_rule")
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_and_nothing_else(name, tmp_path, healthy):
    found = diagnose(PLANTED[name](tmp_path, *healthy))
    assert name in names(found), str(found)
    assert names(found) - {name} <= CONSEQUENCES.get(name, set())
    finding = next(each for each in found.findings if each.name == name)
    assert all((finding.symptom, finding.evidence, finding.cause, finding.advice))


@pytest.mark.usefixtures("little_work")
def test_wrong_labels_are_found_by_a_trained_classifier(tmp_path, healthy):
    x, y = healthy
    assert names(diagnose(saved(tmp_path, x, wrong_labels(y)))) == {"mislabelled"}


@pytest.mark.usefixtures("little_work")
def test_what_is_right_is_left_alone(tmp_path, healthy):
    x, y = photographs(200, 1)
    found = diagnose(saved(tmp_path, *healthy, x_test=x, y_test=y))
    assert found.findings == []
    assert found.unchecked == []
    assert found.kind == "data"
    assert found.checked == [called(check) for check in checks.DATA_CHECKS]


@pytest.mark.usefixtures("judge_by_rule")
def test_what_was_found_names_the_images(tmp_path, healthy):
    """Files by their name."""
    pixels, labels = healthy[0][:600], healthy[1][:600].copy()
    labels[10::20] ^= 1
    found = {finding.name: finding for finding in diagnose(written(tmp_path, pixels, labels)).findings}
    named = found["mislabelled"].evidence.split(": ")[1].split(", ")
    assert named[0].startswith("class1/")
    assert named[0].endswith("0.png labelled class1")
    assert named[1] == "seems class0"


@pytest.mark.parametrize(
    ("values", "fine"),
    [
        (lambda x: x, True),
        (lambda x: x.astype(np.float32) / 127.5 - 1, True),
        (lambda x: torch.from_numpy(x).float() / 127.5 - 1, True),
        (lambda x: x.astype(np.float32) / 255, False),
        (lambda x: x.astype(np.float32), False),
        (lambda x: (x - x.mean()) / x.std(), False),
        (lambda x: np.where(x > 150, np.nan, x / 127.5 - 1), False),
    ],
)
def test_arrays_are_judged_by_their_values(values, fine, healthy):
    array = values(healthy[0])
    subject = DataSubject.of(array)
    finding = checks.check_values_not_in_range(subject)
    assert (finding is None) == fine
    if isinstance(array, np.ndarray) and np.isfinite(array).all():  # and as images they are what they were
        assert np.abs(subject.read.rows.astype(int) - as_bytes(array)).max() <= 1


def test_an_array_of_no_form_is_judged_by_its_values_alone():
    found = diagnose(torch.rand(100, 7, 2, 3, 3) * 2 - 1)
    assert found.findings == []
    assert found.checked == ["values not in range"] or len(found.unchecked) == len(checks.DATA_CHECKS) - 1
    assert "rows [n, d]; series [n, channel, time]" in found.unchecked[0]
    assert names(diagnose(torch.rand(100, 7, 2, 3, 3))) == {"values not in range"}


def test_data_that_cannot_be_read_is_a_finding(tmp_path, healthy):
    where = saved(tmp_path, healthy[0].astype(np.float32), healthy[1])
    (finding,) = diagnose(where).findings
    assert finding.severity == "error"
    assert "expected bytes 0…255 or floats" in finding.evidence


def test_labels_too_hard_to_judge_are_not_judged(tmp_path):
    """On noise a classifier is never right: that says nothing of the labels."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (1000, 1, 8, 8), dtype=np.uint8)
    subject = DataSubject.of(saved(tmp_path, noise, np.arange(1000) % 10))
    subject.__dict__["judged"] = (np.arange(1000), hard(np.arange(1000) % 10, rng))
    with pytest.raises(NothingToExamineError, match="too weak to judge"):
        checks.check_mislabelled(subject)


@pytest.mark.parametrize(("right", "trained"), [(0.5, 1), (0.9, 2)])
def test_a_second_classifier_is_not_trained_where_the_first_is_weak(right, trained, monkeypatch):
    """One that reads the label off the picture, and is right about a share of them."""
    labels, calls = np.arange(600) % 10, []
    pixels = np.broadcast_to(labels.astype(np.uint8)[:, None, None, None], (600, 1, 8, 8))

    def fitted(seen, unseen, classes, **_):
        calls.append(len(seen[0]))
        return None, unseen[:, 0, 0, 0]

    def probabilities(_, rows):
        seems = np.where(np.random.default_rng(0).random(len(rows)) < right, rows, (rows + 1) % 10)
        return np.eye(10)[seems]

    monkeypatch.setattr(data_subject, "fitted", fitted)
    monkeypatch.setattr(data_subject, "probabilities", probabilities)
    which, chances = DataSubject("read", read_array(np.ascontiguousarray(pixels), labels)).judged
    assert len(calls) == trained
    assert len(which) == len(chances) == 300 * trained
    assert (chances.argmax(1) == labels[which]).mean() == pytest.approx(right, abs=0.06)


def test_labels_in_another_order_are_wrong_and_not_hard():
    """Nothing can be learnt of them, and what little confidence there is helps nothing."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (1000, 1, 4, 4), dtype=np.uint8)
    subject = DataSubject("shuffled", read_array(noise, np.arange(1000) % 10))
    subject.__dict__["judged"] = (np.arange(1000), rng.dirichlet(np.ones(10), 1000))
    finding = checks.check_mislabelled(subject)
    assert finding is not None
    assert finding.severity == "error"


def hard(labels, rng):
    """Probabilities of a classifier that is right about half of the labels, and nine in ten where it is sure."""
    sure = np.linspace(0.3, 0.9, len(labels))
    right = rng.random(len(labels)) < sure
    seems = np.where(right, labels, (labels + 1) % 10)
    chances = np.full((len(labels), 10), 0.01)
    chances[np.arange(len(labels)), seems] = sure
    return chances


def test_pairs_alike_are_those_of_whole_correlation_matrices(healthy):
    """On whole images, without thumbnails; the closest first."""
    rng = np.random.default_rng(0)
    a = np.concatenate([healthy[0][:200], healthy[0][:30]])
    a[200:] = (a[200:] + rng.normal(scale=np.linspace(0, 4, 30)[:, None, None, None], size=a[200:].shape)).clip(0, 255)
    pairs = alike(a)
    table = np.corrcoef(a.reshape(len(a), -1).astype(float))
    i, j = np.triu_indices(len(a), 1)
    expected = {(p, q) for p, q in zip(i, j, strict=True) if table[p, q] > data_subject.ALIKE}
    assert {tuple(pair) for pair in pairs} == expected
    assert len(expected) > 10
    scores = table[pairs[:, 0], pairs[:, 1]]
    assert (np.diff(scores) <= 1e-6).all()
    across = alike(a[:200], a[200:])
    assert {(p, q + 200) for p, q in across} == {pair for pair in expected if pair[0] < 200 <= pair[1]}


def test_a_thousand_copies_of_one_image_end(healthy):
    """Each keeps a few of its copies: the pairs do not grow with the square of the count."""
    pairs = alike(np.repeat(healthy[0][:1], 2000, 0))
    assert len(pairs) <= 2000 * data_subject.FEW
    assert len(np.unique(pairs)) == 2000


@pytest.mark.parametrize("share", [0.0, 0.01, 0.04, 0.2])
def test_the_errors_where_a_classifier_is_surest_are_the_wrong_labels(share):
    """A classifier that is exactly right, and labels of which every so many were changed."""
    truth, sure = np.arange(4000) % 10, np.linspace(0.2, 1, 4000)
    chances = np.full((4000, 10), 0.01)
    chances[np.arange(4000), truth] = sure
    changed = np.arange(4000) % round(1 / share) == 0 if share else np.zeros(4000, bool)
    noise = np.random.default_rng(0).integers(0, 256, (4000, 1, 4, 4), dtype=np.uint8)
    subject = DataSubject("exact", read_array(noise, np.where(changed, (truth + 1) % 10, truth)))
    subject.__dict__["judged"] = (np.arange(4000), chances)
    finding = checks.check_mislabelled(subject)
    assert (finding is not None) == (share > checks.DOUBTED)
    if finding is not None:
        assert f"disagrees with {share:.1%} of" in finding.evidence
        assert finding.severity == ("error" if share > 0.1 else "warning")


@pytest.mark.parametrize(
    ("errors", "says", "threshold", "mutant"),
    [
        ((0.02, 0.08, 0.10, 0.20), True, "GOOD", (4, 0.4)),  # 5 % of the surest half: a quarter has too few to tell
        ((0.01, 0.045, 0.15, 0.31), False, "GOOD", (2, 0.1)),  # hard images with right labels, vehicles or animals
        ((0.50, 0.85, 0.80, 0.80), False, "POOR", (2, 0.85)),  # images that are too hard
    ],
)
def test_errors_are_looked_for_where_they_tell_wrong_labels_from_hard_images(
    errors, says, threshold, mutant, monkeypatch
):
    """Errors in each quarter of 4,000 images, from the surest on."""
    truth, sure = np.arange(4000) % 10, np.linspace(1, 0.2, 4000)
    wrong = np.concatenate([np.arange(1000) < 1000 * share for share in errors])
    chances = np.full((4000, 10), 0.01)
    chances[np.arange(4000), (truth + wrong) % 10] = sure
    noise = np.random.default_rng(0).integers(0, 256, (4000, 1, 4, 4), dtype=np.uint8)

    def found():
        subject = DataSubject("by quarters", read_array(noise, truth))
        subject.__dict__["judged"] = (np.arange(4000), chances)
        with contextlib.suppress(NothingToExamineError):
            return checks.check_mislabelled(subject) is not None
        return False

    assert found() == says
    monkeypatch.setattr(checks, threshold, mutant)
    assert found() != says


def read_array(pixels, labels):
    found = DataSubject.of(pixels).read
    return dataclasses.replace(found, labels=labels, names=tuple("0123456789"))


MUTANTS = {
    "COPIES": ("near duplicates", 1.0, -1.0),
    "CLIPPED_IMAGES": ("clipped", 1.0, -1.0),
    "FEW_IMAGES": ("too few images", 0, 10**6),
    "NARROW": ("values not in range", 0, 256),
    "IMBALANCE": ("class imbalance", 10**6, 0),
}
"""threshold → (check, a value at which it sees nothing, a value at which it sees ghosts)"""


@pytest.mark.parametrize("threshold", MUTANTS)
def test_a_threshold_that_is_wrong_either_way_shows(threshold, monkeypatch, tmp_path, healthy):
    """At one value the planted fault passes, at the other its healthy twin does not: the tests above would notice."""
    name, blind, nervous = MUTANTS[threshold]
    check = next(each for each in checks.DATA_CHECKS if called(each) == name)
    monkeypatch.setattr(checks, threshold, blind)
    assert check(DataSubject.of(PLANTED[name](tmp_path, *healthy))) is None
    monkeypatch.setattr(checks, threshold, nervous)
    twin = DataSubject.of(saved(tmp_path, *healthy))
    if name == "near duplicates":  # two at least
        twin.__dict__["copies"] = (np.array([[0, 1], [2, 3]]), len(healthy[0]))
    assert check(twin) is not None


def test_real_data_is_left_alone(shared):
    """But for what is true: drawings that differ in one colour, and labels too hard to judge, are not asked here."""
    dataset = read(str(shared / "mnist"))
    part = dataclasses.replace(dataset, rows=dataset.rows[:3000], labels=dataset.labels[:3000])
    subject = DataSubject(
        "mnist",
        dataclasses.replace(part, held_out=dataclasses.replace(dataset.held_out, rows=dataset.held_out.rows[:500])),
    )
    found = [check(subject) for check in checks.DATA_CHECKS if check is not checks.check_mislabelled]
    assert [each for each in found if each] == []


@pytest.mark.full
@pytest.mark.parametrize("name", ["mnist", "cifar10-train.zip"])
def test_labels_of_real_data_are_not_called_wrong(name, shared):
    """Neither where they are easy nor where they are too hard to judge."""
    with contextlib.suppress(NothingToExamineError):
        assert checks.check_mislabelled(DataSubject(name, read(str(shared / name), hold_back=False))) is None


def test_suspects_are_those_that_were_spoilt(tmp_path, healthy):
    """And in a set with nothing wrong there are none, whatever its pictures stand on."""
    x, y = busy(), healthy[1]
    blurred = checks.DATA_CHECKS[[called(check) for check in checks.DATA_CHECKS].index("blurred")]
    cut_off = checks.DATA_CHECKS[[called(check) for check in checks.DATA_CHECKS].index("cut off")]
    soft = np.concatenate([x[:600], softened(x[600:620]), x[620:]])
    found = blurred(DataSubject.of(saved(tmp_path, soft, y)))
    rows = {row for suspect in found.suspects for row in suspect.rows}
    assert len(rows & {*range(600, 620)}) >= 18
    assert len(rows) <= 22
    assert blurred(DataSubject.of(saved(tmp_path, x, y))) is None
    found = cut_off(DataSubject.of(saved(tmp_path, on_a_ground(cut=8), np.zeros(400, int))))
    assert {suspect.rows for suspect in found.suspects} == {(row,) for row in range(8)}
    assert found.suspects[0].why == "touches the left edge"
    assert cut_off(DataSubject.of(saved(tmp_path, on_a_ground(cut=2), np.zeros(400, int)))) is None
    assert cut_off(DataSubject.of(saved(tmp_path, x, y))) is None


def test_copies_are_shown_beside_what_they_equal(tmp_path, healthy):
    x, y = healthy
    subject = DataSubject.of(saved(tmp_path, np.concatenate([x, x[5:9]]), np.append(y, y[5:9])))
    found = checks.EXACT_DUPLICATES(subject)
    assert [suspect.rows for suspect in found.suspects] == [(5 + i, COUNT + i) for i in range(4)]


def test_sharpness_tells_blur_and_not_contrast():
    x = torch.from_numpy(busy(200)).float()
    sharp = sharpness(x)
    assert (sharpness(torch.from_numpy(softened(busy(200))).float()) < sharp).all()
    assert (sharpness(0.5 * x) - sharp).abs().max() < 0.1


def test_margins_are_what_stands_around():
    content = torch.zeros(2, 10, 20)
    content[0, 2:10, 5:15] = 1  # down to the lower edge
    touched, empty = margins(content)
    torch.testing.assert_close(touched[0], torch.tensor([0, 0.5, 0, 0]))
    torch.testing.assert_close(empty[0], torch.tensor([0.2, 0, 0.25, 0.25]))
    assert touched[1].max() == 0
    assert empty[1].min() == 1
