"""Samples on their way into files: as many of each label, films, and what is read back as data."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from ebb.data.images import made_by_ebb, save_film, settings_of
from ebb.data.scan import read
from ebb.edit.commission import folder_of
from ebb.edit.samples import Prompt, balanced, commissioned, sample_to
from ebb.errors import UsageError
from ebb.process.moment import at
from ebb.system.sampler import Sampler

from .known import system


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose system is no one's, with the labels a, b and c."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/toy/checkpoints/step-00000001")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"files": {"ema.safetensors": {"sha256": "00", "size": 0}}}')
    monkeypatch.setattr("ebb.edit.samples.load", lambda _, **__: system())
    return Path("runs/toy")


def test_as_many_of_each_label_lie_in_folders_that_are_read_as_labels(run):
    events = []
    sample_to(run, "new", Prompt(7, seed=2, by_label=True), progress=events.append)
    assert {path.parent.name for path in Path("new").rglob("*.png")} == {"a", "b", "c"}
    assert "9 images in new" in str(events[-1])
    found = read("new")
    assert found.names == ("a", "b", "c")
    assert found.summary.classes == {"a": 3, "b": 3, "c": 3}
    x = system().sample(9, label=list("abcabcabc"), seed=2)
    for i, file in enumerate(sorted(Path("new").rglob("*.png"), key=lambda path: path.name)):
        pixels = np.asarray(Image.open(file)).astype(int)
        assert settings_of(file)["label"] == file.parent.name
        assert np.abs(pixels - (127.5 * (x[i, 0].numpy() + 1))).max() <= 1.5, "each is of its label"


@pytest.mark.parametrize(("label", "folder"), [("a", "a"), ("a/b", "a_b"), (".hidden", "_hidden"), ("..", "_.")])
def test_a_label_has_a_folder_that_can_be_seen_and_leads_nowhere_else(label, folder):
    assert folder_of(label) == folder


@pytest.mark.parametrize(
    ("classes", "out", "said"), [(0, "new", "trained without labels"), (3, "a.png", "no place for labels")]
)
def test_what_cannot_be_sorted_by_label_is_refused(classes, out, said):
    with pytest.raises(UsageError, match=said):
        balanced(Prompt(by_label=True), system(classes), Path(out))


def test_pictures_of_ones_own_in_a_folder_of_a_label_stay(run):
    Path("new/b").mkdir(parents=True)
    Image.new("L", (8, 8)).save("new/b/000001.png")
    with pytest.raises(UsageError, match=r"new/b/000001\.png is there and was not made by ebb"):
        sample_to(run, "new", Prompt(3, by_label=True))


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_a_film_shows_every_step_and_ends_on_the_samples(run, suffix):
    out = Path(f"film{suffix}")
    sample_to(run, out, Prompt(4, label="a"), steps=5)
    film = Image.open(out)
    frames = [np.asarray(frame.convert("L")).astype(int) for frame in ImageSequence.Iterator(film)]
    sample_to(run, "last.png", Prompt(4, label="a"), steps=5)
    assert len(frames) == 5
    assert (frames[-1] == np.asarray(Image.open("last.png"))).all()
    job = commissioned(run, system(), Prompt(4, label="a"), system().settled(steps=5), False)
    points = [*Sampler(system()).stream(job.request)]
    norm = at(system().denoiser.path, points[1].t).norm
    second = system().modality.sheet(system().modality.stored(points[1].x / norm))
    assert (frames[1] == np.asarray(second)).all()
    assert made_by_ebb(out)
    assert settings_of(out)["count"] == 4
    assert film.info["loop"] == 0
    with pytest.raises(UsageError, match="a film shows up to 64 images"):
        sample_to(run, out, Prompt(65))


def test_a_film_of_another_is_not_written_over(tmp_path):
    for suffix in ("gif", "webp"):
        Image.new("L", (8, 8)).save(tmp_path / f"mine.{suffix}")
        assert not made_by_ebb(tmp_path / f"mine.{suffix}")
    colours = [Image.effect_noise((8, 8), 50).convert("RGB") for _ in range(2)]
    save_film(colours, tmp_path / "film.webp", {"seed": 3})
    frames = [*ImageSequence.Iterator(Image.open(tmp_path / "film.webp"))]
    assert (np.asarray(frames[1].convert("RGB")) == np.asarray(colours[1])).all(), "without loss"


def test_films_among_pictures_are_no_data(tmp_path):
    for i in range(9):
        Image.effect_noise((8, 8), 50).save(tmp_path / f"{i}.png")
    save_film([Image.effect_noise((8, 8), 50)], tmp_path / "film.gif", {"seed": 0})
    assert len(read(tmp_path).rows) == 9
