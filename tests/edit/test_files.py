"""Pictures of a user, as edits take them: which files, what is said about them, and where results go."""

import io
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ebb.cli.output import Reader
from ebb.data.images import form, save_png, writable
from ebb.edit.editor import Editor
from ebb.edit.files import Job, listed
from ebb.errors import DataError, UsageError

from .known import system


@pytest.fixture
def heard():
    return io.StringIO()


@pytest.fixture
def job(tmp_path, heard):
    reader = Reader(Console(file=heard, width=300))
    return Job(tmp_path, tmp_path / "out.png", reader.show, Editor.of(system()))


def saved(path, size=(8, 8), mode="L", colour=100, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def test_a_folder_gives_the_pictures_that_training_takes(tmp_path):
    for name in ("b.png", "a.jpeg", "deeper/c.jfif", ".hidden.png", "__MACOSX/d.png"):
        saved(tmp_path / name, format="PNG")
    for name in ("._a.png", "Thumbs.db", "notes.txt"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7 of a Mac")
    notes = defaultdict(list)
    assert [path.relative_to(tmp_path).as_posix() for path in listed([tmp_path], notes)] == [
        "a.jpeg", "b.png", "deeper/c.jfif",
    ]  # fmt: skip
    assert notes["not an image", "ignored"] == [str(tmp_path / "notes.txt")]


def test_one_broken_picture_of_several_is_left_out_and_counted(job, heard, tmp_path):
    for name in ("a", "c"):
        saved(tmp_path / "in" / f"{name}.png")
    for name in ("b", "d"):
        (tmp_path / "in" / f"{name}.png").write_bytes(b"\x89PNG cut off")
    assert len(job.read([tmp_path / "in"])) == 2
    assert f"{tmp_path}/in/b.png and 1 more: unreadable, skipped" in heard.getvalue()
    with pytest.raises(DataError, match=r"b.png is not a picture ebb can read: unreadable"):
        job.read([tmp_path / "in" / "b.png"])
    (tmp_path / "in" / "a.png").unlink()
    (tmp_path / "in" / "c.png").unlink()
    with pytest.raises(DataError, match="is not a picture"):
        job.read([tmp_path / "in"])


def test_what_was_done_to_a_picture_is_said_as_training_says_it(job, heard, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    saved(tmp_path / "in" / "1.png", mode="LA", colour=(0, 0))
    saved(tmp_path / "in" / "2.png", mode="LA", colour=(0, 128))
    saved(tmp_path / "in" / "3.jpg", exif=exif)
    saved(tmp_path / "in" / "4.jpg", format="PNG")
    saved(tmp_path / "in" / "5.gif", save_all=True, append_images=[Image.new("L", (8, 8), 3)])
    saved(tmp_path / "in" / "6.png", icc_profile=b"broken")
    x = job.read([tmp_path / "in"])
    said = heard.getvalue()
    for line in (
        "1.png and 1 more: transparency, composited on white",
        "3.jpg: rotated, turned upright",
        "4.jpg: wrong suffix, read by its content",
        "5.gif: several frames, first frame used",
        "6.png: unusable colour profile, ignored: read as sRGB",
    ):
        assert f"{tmp_path}/in/{line}" in said
    assert (x[0] == 1).all()


def test_pictures_of_many_sizes_take_one_line_with_what_is_cut_off(job, heard, tmp_path):
    for i in range(6):
        saved(tmp_path / "in" / f"{i}.png", (800, 8 + i))
    job.read([tmp_path / "in"])
    lines = heard.getvalue().splitlines()
    assert len(lines) == 1
    assert "and 5 more: scaled and cropped from 800×8, 800×9, 800×10, … to 8×8, 99% of the area cut off" in lines[0]


def test_sizes_are_said_with_the_width_first(job, tmp_path):
    with pytest.raises(UsageError, match="to the model's 8×8, which 900×600 does not reach"):
        job.editor.upscale(job.small([saved(tmp_path / "a.png", (900, 600))]))


def mask(path, ground, hole):
    image = Image.new("LA", (8, 8), ground)
    image.paste(hole, (2, 3, 7, 5))
    image.save(path)
    return path


@pytest.mark.parametrize(
    ("ground", "hole", "words"),
    [
        ((0, 0), (255, 255), "what is drawn on the transparent ground is made new, 16% of the picture"),
        ((0, 255), (0, 0), "what is transparent is made new, 16% of the picture"),
        ((0, 255), (255, 255), "what is white is made new, 16% of the picture"),
    ],
)
def test_a_mask_with_transparency_keeps_what_the_user_kept_and_says_how_it_was_read(
    job, heard, tmp_path, ground, hole, words
):
    drawn = mask(tmp_path / "mask.png", ground, hole)
    new, x0 = job.masked(drawn, [saved(tmp_path / "a.png")])
    assert new.sum() == 10
    assert new[3:5, 2:7].all()
    assert x0.shape == (1, 1, 8, 8)
    assert f"{drawn}: {words}" in heard.getvalue()


def test_a_mask_that_keeps_nothing_is_said_and_one_that_makes_nothing_refused(job, heard, tmp_path):
    a = saved(tmp_path / "a.png")
    job.masked(saved(tmp_path / "white.png", colour=255), [a])
    assert "what is white is made new, nothing is kept" in heard.getvalue()
    new, x0 = job.masked(saved(tmp_path / "clear.png", mode="LA", colour=(255, 0)), [a])
    with pytest.raises(UsageError, match="nothing to make new"):
        job.editor.inpaint(x0, new)


# ---- where pictures go


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", "sheet"), ("A.PNG", "sheet"), ("a.npz", "arrays"), ("a.gif", "film"), ("a.WebP", "film"), ("frames", "folder"), ("guidance_1.5", "folder"),
        ("run.v2", "folder"), ("2026-11-30", "folder"),
    ],
)  # fmt: skip
def test_a_name_is_a_file_only_where_its_end_is_one_of_files(tmp_path, name, expected):
    assert form(tmp_path / name) == expected
    writable(tmp_path / name)
    assert not (tmp_path / name).exists(), "made before there is anything to write"


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.pdf", "a.npy"])
def test_a_file_that_is_not_written_is_answered_with_what_is(tmp_path, name):
    with pytest.raises(UsageError, match="pictures are written as") as caught:
        writable(tmp_path / "new" / name)
    assert "or name a folder" in caught.value.hint
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("place", ["samples.png", "set.npz", "folder"])
def test_what_ebb_did_not_make_is_never_written_over(tmp_path, place):
    inside = tmp_path / place / "000003.png" if place == "folder" else tmp_path / place
    inside.parent.mkdir(exist_ok=True)
    if place == "set.npz":
        np.savez(inside, images=np.zeros((2, 4, 4), np.uint8))
    else:
        saved(inside)
    with pytest.raises(UsageError, match="was not made by ebb: it would be lost"):
        writable(tmp_path / place)


def test_what_ebb_made_is_written_anew(tmp_path):
    save_png(Image.new("L", (8, 8)), tmp_path / "samples.png", {"seed": 0})
    save_png(Image.new("L", (8, 8)), tmp_path / "folder" / "000000.png", {"seed": 0})
    np.savez(tmp_path / "set.npz", images=np.zeros((2, 1, 4, 4), np.uint8), seeds=np.arange(2))
    saved(tmp_path / "folder" / "mine.png")
    for name in ("samples.png", "folder", "set.npz"):
        writable(tmp_path / name)
    assert (tmp_path / "folder" / "mine.png").is_file(), "asking takes nothing away"
