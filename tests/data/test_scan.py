"""Folders of images: layout, labels, splits, the choice of size and channels, conversions and findings."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from ebb.data.images import save_png
from ebb.data.metadata import Fields
from ebb.data.scan import read, scanned
from ebb.data.splits import Scan
from ebb.errors import DataError, ResourceError, UsageError
from ebb.recipe.groups import DataRecipe
from ebb.store import memory


def chw(array):
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def test_a_flat_folder_comes_back_pixel_for_pixel_in_sorted_order(tmp_path, picture, save):
    for name in ("b", "a", "c"):
        save(tmp_path / "my photos" / f"{name}.png", picture(ord(name)))
    dataset = read(str(tmp_path / "my photos"))
    assert dataset.rows.dtype == np.uint8
    np.testing.assert_array_equal(dataset.rows, np.stack([chw(picture(ord(name))) for name in "abc"]))
    assert dataset.labels is None
    assert dataset.names == ()
    assert dataset.held_out is None
    assert (dataset.summary.kind, dataset.summary.name) == ("folder", "my-photos")
    assert (dataset.summary.count, dataset.summary.shape) == (3, (3, 8, 8))


def test_class_folders_become_labels_in_alphabetical_order(tmp_path, picture, save):
    save(tmp_path / "dog" / "deeper" / "1.png", picture(1))
    save(tmp_path / "cat" / "2.png", picture(2))
    save(tmp_path / "cat" / "3.bmp", picture(3))
    dataset = read(str(tmp_path))
    assert dataset.summary.kind == "class folders"
    assert dataset.names == ("cat", "dog")
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(dataset.rows[2], chw(picture(1)))
    assert dataset.summary.classes == {"cat": 2, "dog": 1}
    assert "2 folders" in dataset.summary.chosen["labels"]


def test_images_beside_folders_are_not_classes(tmp_path, picture, save):
    save(tmp_path / "top.png", picture(0))
    save(tmp_path / "a" / "1.png", picture(1))
    save(tmp_path / "b" / "1.png", picture(2))
    dataset = read(str(tmp_path))
    assert dataset.labels is None
    assert "beside" in dataset.summary.chosen["labels"]
    assert len(dataset.rows) == 3


def test_one_folder_inside_is_looked_through(tmp_path, picture, save):
    save(tmp_path / "only" / "x" / "1.png", picture(1))
    save(tmp_path / "only" / "y" / "1.png", picture(2))
    assert read(str(tmp_path)).names == ("x", "y")


@pytest.mark.parametrize(("train", "test"), [("training", "testing"), ("Training", "test"), ("train", "Testing")])
def test_a_split_may_be_called_training_and_testing(tmp_path, picture, save, train, test):
    for at, name in enumerate(("cat", "dog")):
        save(tmp_path / train / name / "1.png", picture(at))
        save(tmp_path / test / name / "1.png", picture(at + 2))
    dataset = read(str(tmp_path))
    assert dataset.names == dataset.held_out.names == ("cat", "dog")


@pytest.mark.parametrize("held", ["test", "val", "validation", "Test"])
def test_train_and_test_folders_make_the_split_with_shared_label_names(tmp_path, picture, save, held):
    save(tmp_path / "train" / "cat" / "1.png", picture(1))
    save(tmp_path / "train" / "dog" / "1.png", picture(2))
    save(tmp_path / held / "dog" / "1.png", picture(3, 20, 30))
    dataset = read(str(tmp_path))
    assert dataset.labels.tolist() == [0, 1]
    assert dataset.held_out.labels.tolist() == [1]
    assert dataset.held_out.names == dataset.names == ("cat", "dog")
    assert dataset.held_out.rows.shape == (1, 3, 8, 8), "the held-out images take the shape of the training images"
    assert held in dataset.summary.chosen["held out"]


def test_metadata_gives_labels_captions_and_integer_order(tmp_path, picture, save, finding):
    rows = [{"file_name": "img/a.png", "label": 10, "text": "ten"}, {"file_name": "img/b.png", "label": 9}]
    for row in rows:
        save(tmp_path / row["file_name"], picture(row["label"]))
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in [*rows, {"file_name": "gone.png", "label": 9}])
    (tmp_path / "metadata.jsonl").write_text(text.replace("ten", "ten\u2028lines") + "\n\n", "utf-8")
    dataset = read(str(tmp_path))
    assert dataset.summary.kind == "imagefolder"
    assert dataset.names == ("9", "10")
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.captions == ("ten\u2028lines", "")
    assert finding(dataset, "without a caption").examples == ("img/b.png",)
    assert finding(dataset, "in metadata.jsonl only").examples == ("gone.png",)


def test_partly_labelled_metadata_is_unlabelled_and_says_so(tmp_path, picture, save, finding):
    save(tmp_path / "a.png", picture(1))
    save(tmp_path / "b.png", picture(2))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "label": "x"}')
    dataset = read(str(tmp_path))
    assert dataset.labels is None
    assert dataset.names == ()
    assert finding(dataset, "without a label").examples == ("b.png",)


BROKEN = ["not json", "[1]", '{"file_name": 3}', '{"file_name": "a.png", "label": 1.5}', "[" * 100_000, "{}"]


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_row_is_skipped_and_named(tmp_path, picture, save, finding, line):
    save(tmp_path / "a.png", picture())
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "label": 2}\n' + line)
    dataset = read(str(tmp_path))
    assert dataset.names == ("2",)
    found = finding(dataset, "broken row")
    assert (found.count, found.action) == (1, "skipped")
    assert found.examples[0].startswith("metadata.jsonl, line 2 ")


@pytest.mark.parametrize("line", BROKEN)
def test_a_metadata_without_one_good_row_is_refused(tmp_path, picture, save, line):
    save(tmp_path / "a.png", picture())
    (tmp_path / "metadata.jsonl").write_text("\n" + line)
    with pytest.raises(DataError, match=r"line 2|row 1"):
        read(str(tmp_path))


def test_metadata_that_is_not_text_is_refused(tmp_path, picture, save):
    save(tmp_path / "a.png", picture())
    (tmp_path / "metadata.jsonl").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match=r"metadata\.jsonl, line 1 is not UTF-8"):
        read(str(tmp_path))


# ---- size and channels


def test_one_small_size_is_kept_even_when_it_is_not_square(tmp_path, picture, save, finding):
    for seed in range(2):
        save(tmp_path / f"{seed}.png", picture(seed, 12, 64))
    dataset = read(str(tmp_path))
    assert dataset.rows.shape == (2, 3, 12, 64)
    assert dataset.summary.chosen["size"] == "64×12: all images have it"
    assert finding(dataset, "mixed sizes") is None


@pytest.mark.parametrize(("sides", "expected"), [([70, 70], 64), ([31, 33, 40], 32), ([16, 90, 17], 16), ([5, 6], 8)])
def test_other_sizes_become_a_square_within_the_median_short_side(tmp_path, picture, save, sides, expected):
    for seed, side in enumerate(sides):
        save(tmp_path / f"{seed}.png", picture(seed, side, 100))
    dataset = read(str(tmp_path))
    assert dataset.rows.shape[2:] == (expected, expected)
    (found,) = [f for f in dataset.summary.findings if f.kind in ("mixed sizes", "another size")]
    assert found.count == len(sides)
    assert found.action == f"resized to {expected}×{expected} (centre crop)"


def test_the_crop_is_at_the_centre(tmp_path, save):
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = (10, 200, 30)
    save(tmp_path / "wide.png", wide)
    dataset = read(str(tmp_path))
    np.testing.assert_array_equal(dataset.rows[0], np.broadcast_to(np.uint8([10, 200, 30])[:, None, None], (3, 32, 32)))


def test_size_and_channels_can_be_asked_for(tmp_path, picture, save):
    save(tmp_path / "a.png", picture())
    dataset = read(str(tmp_path), size=(4, 6), channels=1)
    assert dataset.rows.shape == (1, 1, 4, 6)
    assert dataset.summary.chosen["size"] == "6×4: asked for"
    assert read(str(tmp_path), size=16).rows.shape == (1, 3, 16, 16)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": (4, 0)}, {"channels": 2}])
def test_wrong_arguments_are_refused(tmp_path, wrong):
    with pytest.raises(UsageError):
        read(str(tmp_path), **wrong)


def test_rgb_files_without_colour_are_grey(tmp_path, picture, save, finding):
    for seed in range(3):
        grey = picture(seed, channels=1)
        save(tmp_path / f"{seed}.png", np.stack([grey] * 3, -1))
    dataset = read(str(tmp_path))
    assert dataset.rows.shape == (3, 1, 8, 8)
    np.testing.assert_array_equal(dataset.rows[2, 0], picture(2, channels=1))
    assert dataset.rows.flags["C_CONTIGUOUS"]
    assert dataset.summary.chosen["channels"] == "1: no image has colour"
    assert finding(dataset, "grey") is None


def test_one_coloured_image_makes_all_three_channels(tmp_path, picture, save, finding):
    save(tmp_path / "grey.png", picture(1, channels=1))
    save(tmp_path / "red.png", picture(2))
    dataset = read(str(tmp_path))
    assert dataset.rows.shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(dataset.rows[0], np.stack([picture(1, channels=1)] * 3))
    assert finding(dataset, "grey").examples == ("grey.png",)


# ---- conversions, each against values worked out by hand


def one(tmp_path):
    dataset = read(str(tmp_path))
    assert len(dataset.rows) == 1
    return dataset


def test_transparency_is_composited_on_white(tmp_path, save, finding):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0], pixels[0, 0, 3], pixels[1, 1, 3] = 200, 255, 128
    save(tmp_path / "a.png", pixels)
    images = one(tmp_path)
    assert images.rows[0, :, 0, 0].tolist() == [200, 0, 0]
    assert images.rows[0, :, 3, 3].tolist() == [255, 255, 255]
    np.testing.assert_allclose(images.rows[0, :, 1, 1], [227, 127, 127], atol=1)
    assert finding(images, "transparency").action == "composited on white"


def test_grey_with_transparency_stays_grey(tmp_path, save, finding):
    save(tmp_path / "a.png", np.full((4, 4, 2), (100, 0), np.uint8))
    images = one(tmp_path)
    assert images.rows.shape == (1, 1, 4, 4)
    assert (images.rows == 255).all()
    assert finding(images, "transparency").count == 1


def test_palettes_with_and_without_transparency(tmp_path, save, finding):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 250, 100, 50])
    save(tmp_path / "a.png", image)
    save(tmp_path / "b.png", image, transparency=1)
    dataset = read(str(tmp_path))
    assert dataset.rows[0, :, 0, 0].tolist() == [250, 100, 50]
    assert dataset.rows[1, :, 0, 0].tolist() == [255, 255, 255]
    assert finding(dataset, "palette").examples == ("a.png",)
    assert finding(dataset, "transparency").examples == ("b.png",)


def test_cmyk_becomes_rgb(tmp_path, save, finding):
    save(tmp_path / "a.tif", Image.new("CMYK", (4, 4), (0, 255, 255, 0)))
    images = one(tmp_path)
    assert images.rows[0, :, 0, 0].tolist() == [255, 0, 0]
    assert finding(images, "CMYK").action == "converted to RGB"


def test_black_and_white_is_grey(tmp_path, save):
    save(tmp_path / "a.png", Image.fromarray(np.eye(4, dtype=np.uint8) * 255).convert("1"))
    np.testing.assert_array_equal(one(tmp_path).rows[0, 0], np.eye(4) * 255)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, save, finding, name):
    levels = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4369  # 0x1111: 0, 17, 34 ... 255 in 8 bits
    save(tmp_path / name, Image.fromarray(levels))
    images = one(tmp_path)
    np.testing.assert_array_equal(images.rows[0, 0], np.arange(16).reshape(4, 4) * 17)
    assert finding(images, "16-bit").action == "scaled to 8 bits"


def test_thirty_two_bit_values_within_sixteen_bits_are_scaled_and_others_skipped(tmp_path, save, finding):
    save(tmp_path / "a.tif", Image.fromarray(np.full((4, 4), 65535, np.int32)))
    save(tmp_path / "b.tif", Image.fromarray(np.full((4, 4), 65536, np.int32)))
    save(tmp_path / "c.tif", Image.fromarray(np.full((4, 4), 0.5, np.float32)))
    save(tmp_path / "d.tif", Image.fromarray(np.full((4, 4), np.nan, np.float32)))
    dataset = read(str(tmp_path))
    assert dataset.rows[:, 0, 0, 0].tolist() == [255, 128]
    assert finding(dataset, "values out of range").examples == ("b.tif", "d.tif")


def test_sixteen_bit_colour_is_reported(tmp_path, finding):
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + struct.pack(">HHH", 65535, 0x8080, 0) * 4 for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    images = one(tmp_path)
    assert images.rows[0, :, 0, 0].tolist() == [255, 128, 0]
    assert finding(images, "16-bit").count == 1


def test_of_an_animation_the_first_frame_is_used(tmp_path, save, finding):
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    save(tmp_path / "a.gif", red, save_all=True, append_images=[blue])
    images = one(tmp_path)
    assert images.rows[0, :, 0, 0].tolist() == [255, 0, 0]
    assert finding(images, "several frames").action == "first frame used"


def test_exif_orientation_is_applied_to_pixels_and_size(tmp_path, save, finding):
    array = np.zeros((4, 8, 3), np.uint8)
    array[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: the left half comes to the top
    save(tmp_path / "a.png", array, exif=exif)
    images = one(tmp_path)
    assert images.rows.shape == (1, 1, 8, 4)
    assert images.summary.chosen["size"] == "4×8: all images have it"
    assert (images.rows[0, :, :4] == 255).all()
    assert (images.rows[0, :, 4:] == 0).all()
    assert finding(images, "rotated").count == 1


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp", "gif", "tiff", "PNG"])
def test_every_format_is_read(tmp_path, save, suffix):
    ramp = np.stack([np.linspace(0, 255, 16, dtype=np.uint8)] * 16)
    save(tmp_path / f"a.{suffix}", Image.fromarray(ramp).convert("RGB"))
    pixels = read(str(tmp_path), channels=1).rows
    assert np.abs(pixels[0, 0].astype(int) - ramp).mean() < 4


def test_a_large_jpeg_is_reduced_to_the_same_picture(tmp_path, save):
    y, x = np.mgrid[:512, :768]
    stripes = 100 * np.sin(x * 2 * np.pi / 24)  # three pixels wide in the end: reduced too early they would blur
    photo = np.stack([x / 6 + 120, y / 4 + 120, 128 + stripes], -1).astype(np.uint8)
    save(tmp_path / "jpg" / "a.jpg", photo, quality=95)
    save(tmp_path / "png" / "a.png", photo)
    jpg, png = (read(str(tmp_path / kind)).rows.astype(int) for kind in ("jpg", "png"))
    assert jpg.shape == (1, 3, 64, 64)
    assert np.abs(jpg - png).max() <= 6


# ---- what is found


def test_bad_images_among_good_ones_are_skipped_and_named(tmp_path, picture, save, finding):
    good = save(tmp_path / "good.png", picture(0, 16, 16)).read_bytes()
    save(tmp_path / "good2.png", picture(1, 16, 16))
    save(tmp_path / "tiny.png", picture(2, 3, 16))
    save(tmp_path / "other.png", picture(3, 16, 16)).rename(tmp_path / "other.jpg")
    save(tmp_path / "wide.png", Image.new("1", (16_000_001, 4)))
    (tmp_path / "cut.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_bytes(b"I am not an image")
    (tmp_path / "noise.jpg").write_bytes(bytes(range(256)))
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")
    dataset = read(str(tmp_path))
    assert len(dataset.rows) == 3
    found = {finding.kind: finding for finding in dataset.summary.findings}
    assert set(found["unreadable"].examples) == {"cut.png", "text.png", "noise.jpg", "broken.png"}
    assert found["empty file"].examples == ("empty.png",)
    assert found["tiny"].examples == ("tiny.png",)
    assert found["too large"].examples == ("wide.png",)
    assert found["wrong suffix"].examples == ("other.jpg",)
    assert found["not an image"].examples == ("notes.txt",)
    assert {found[kind].action for kind in ("unreadable", "empty file", "tiny", "too large")} == {"skipped"}


def test_labels_follow_the_images_that_were_kept(tmp_path, picture, save):
    for index, folder in enumerate("abc"):
        data = save(tmp_path / folder / "1.png", picture(index, 16, 16)).read_bytes()
        save(tmp_path / folder / "2.png", picture(10 + index, 16, 16))
        if folder != "c":
            (tmp_path / folder / "1.png").write_bytes(data[:-40] if folder == "a" else b"")
    dataset = read(str(tmp_path))
    assert dataset.labels.tolist() == [0, 1, 2, 2]
    np.testing.assert_array_equal(dataset.rows[1], chw(picture(11, 16, 16)))


def test_duplicates_and_constant_images_are_kept_and_reported(tmp_path, picture, save, finding):
    save(tmp_path / "a.png", picture(1))
    save(tmp_path / "b.bmp", picture(1))
    save(tmp_path / "c.png", np.full((8, 8, 3), (1, 2, 3), np.uint8))
    dataset = read(str(tmp_path))
    assert len(dataset.rows) == 3
    assert finding(dataset, "exact duplicate").examples == ("b.bmp",)
    assert finding(dataset, "constant").examples == ("c.png",)


def test_imbalance_and_small_classes_are_reported(tmp_path, picture, save, finding):
    for seed in range(51):
        save(tmp_path / "many" / f"{seed}.png", picture(seed))
    for seed in range(10):
        save(tmp_path / "few" / f"{seed}.png", picture(100 + seed))
    assert finding(read(str(tmp_path)), "class imbalance").examples == ("few",)
    assert finding(read(str(tmp_path)), "small class") is None
    (tmp_path / "few" / "0.png").unlink()
    (tmp_path / "many" / "0.png").unlink()
    assert finding(read(str(tmp_path)), "small class").examples == ("few",)
    (tmp_path / "few" / "1.png").unlink()
    for seed in range(1, 11):
        (tmp_path / "many" / f"{seed}.png").unlink()
    assert finding(read(str(tmp_path)), "class imbalance") is None, "40 to 8 is five times, not more"


def test_names_that_cannot_be_printed_are_escaped(tmp_path, picture, save, finding):
    save(tmp_path / "a.png", picture())
    (tmp_path / "\x1b[31mred.png").write_bytes(b"")
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"")
    (tmp_path / "é.png").write_bytes(b"")
    examples = finding(read(str(tmp_path)), "empty file").examples
    assert set(examples) == {"\\x1b[31mred.png", "\\udcff.png", "é.png"}


def test_links_to_folders_are_followed_once(tmp_path, picture, save):
    save(tmp_path / "elsewhere" / "1.png", picture(1))
    save(tmp_path / "data" / "a" / "1.png", picture(2))
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "data")
    dataset = read(str(tmp_path / "data"))
    assert dataset.names == ("a", "b")
    assert len(dataset.rows) == 2


@pytest.mark.parametrize("link", ["_first", "zlast"])
def test_a_folder_keeps_its_own_name_beside_links_to_it(tmp_path, picture, save, finding, link):
    for at, name in enumerate(("cat", "dog")):
        save(tmp_path / name / "1.png", picture(at))
    (tmp_path / link).symlink_to(tmp_path / "dog")
    dataset = read(str(tmp_path))
    assert dataset.names == ("cat", "dog")
    assert finding(dataset, "link to a folder that is read already").examples == (link,)


def test_a_pipe_in_a_folder_does_not_block(tmp_path, picture, save):
    save(tmp_path / "a.png", picture())
    os.mkfifo(tmp_path / "b.png")
    os.mkfifo(tmp_path / "metadata.jsonl")
    assert len(read(str(tmp_path)).rows) == 1


# ---- the summary


def test_statistics_are_those_of_the_pixels_in_unit_range(tmp_path, picture, save):
    for seed in range(5):
        save(tmp_path / f"{seed}.png", picture(seed))
    dataset = read(str(tmp_path))
    unit = dataset.rows / 127.5 - 1
    np.testing.assert_allclose(dataset.summary.mean, unit.mean((0, 2, 3)))
    np.testing.assert_allclose(dataset.summary.std, unit.std((0, 2, 3)))
    for channel in range(3):
        expected, _ = np.histogram(dataset.rows[:, channel], 16, (0, 256))
        assert dataset.summary.histogram[channel] == expected.tolist()


def test_the_summary_is_plain_json(tmp_path, picture, save):
    save(tmp_path / "a" / "1.png", picture(1))
    save(tmp_path / "b" / "2.png", picture(2))
    summary = read(str(tmp_path)).summary
    again = json.loads(json.dumps(asdict(summary)))
    assert again["classes"] == {"a": 1, "b": 1}
    assert again["shape"] == [3, 8, 8]
    assert again["findings"][0]["kind"] == "small class"


def test_the_fingerprint_depends_on_pixels_labels_and_names_only(tmp_path, picture, save):
    def mark(folder, seed=1, classes=("x", "y"), names=("1", "2"), swap=False):
        for index, name in enumerate(names):
            save(tmp_path / folder / classes[(index + swap) % 2] / f"{name}.png", picture(seed + index))
        return read(str(tmp_path / folder)).summary.fingerprint

    base = mark("base")
    assert len(base) == len(hashlib.sha256().hexdigest())
    assert mark("files renamed", names=("7", "8")) == base
    assert mark("other pixels", seed=2) != base
    assert mark("other names", classes=("x", "z")) != base
    (tmp_path / "l").mkdir()
    pixels = np.stack([picture(1), picture(2)])
    prints = set()
    for labels in ([0, 1], [1, 0]):
        np.savez(tmp_path / "l.npz", images=pixels, labels=labels)
        prints.add(read(str(tmp_path / "l.npz")).summary.fingerprint)
    assert len(prints) == 2


def test_progress_is_told_for_both_passes(tmp_path, picture, save):
    for seed in range(3):
        save(tmp_path / f"{seed}.png", picture(seed))
    calls = []
    scanned(Scan(str(tmp_path), tick=lambda *call: calls.append(call)), DataRecipe(), Fields(), hold_back=True)
    assert ("headers", 3, 3) in calls
    assert ("images", 3, 3) in calls


# ---- memory


def test_large_arrays_go_to_the_cache_or_are_refused(tmp_path, picture, save, monkeypatch):
    for seed in range(4):
        save(tmp_path / "in" / f"{seed}.png", picture(seed))
    plain = read(str(tmp_path / "in"))
    monkeypatch.setattr(memory, "available", lambda: 4 * 192 * 2 - 2)  # half of it is one byte short
    with pytest.raises(ResourceError, match="half of the available memory"):
        read(str(tmp_path / "in"))
    mapped = read(str(tmp_path / "in"), cache=tmp_path / "cache")
    assert isinstance(mapped.rows, np.memmap)
    np.testing.assert_array_equal(mapped.rows, plain.rows)
    assert mapped.summary.fingerprint == plain.summary.fingerprint
    assert str(tmp_path / "cache") in mapped.summary.chosen["memory"]
    assert not any((tmp_path / "cache").iterdir()), "nothing is left behind"
    monkeypatch.setattr(memory, "available", lambda: 4 * 192 * 2)
    assert not isinstance(read(str(tmp_path / "in"), cache=tmp_path / "cache").rows, np.memmap)


def test_a_full_disk_is_refused_before_it_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 10)
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda path: type("usage", (), {"free": 99}))
    with pytest.raises(ResourceError, match="free space"):
        memory.allocate((100,), tmp_path)


def test_available_memory_is_a_plausible_number():
    assert 2**20 < memory.available() < 2**50


# ---- what a user may get wrong


def test_things_that_hold_no_images(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"bad")
    (tmp_path / "file.txt").write_text("a")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "data_batch_1").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    expected = {
        "empty": "found nothing",
        "texts": r"a\.txt",
        "bad": r"1 unreadable \(a\.png\)",
        "file.txt": "not a file that ebb reads",
        "absent": "does not exist",
        "x" * 5000: "does not exist",
        "pickled": "binary version",
        "pipe": "neither a folder nor a file",
    }
    for name, message in expected.items():
        with pytest.raises(DataError, match=message) as caught:
            read(str(tmp_path / name))
        assert name in caught.value.what
        assert caught.value.hint
    with pytest.raises(DataError, match=r"ebb train FOLDER.*\.png"):
        read(str(tmp_path / "empty"))


def test_an_empty_name_is_not_the_folder_that_one_is_in(tmp_path, picture, save, monkeypatch):
    save(tmp_path / "a.png", picture(0))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="empty name"):
        read("")


def test_pictures_that_are_all_of_another_format_are_told_the_way_out(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(DataError, match="1 HEIC") as caught:
        read(str(tmp_path))
    assert caught.value.hint == "convert them to .png or .jpg"


def test_nothing_left_after_decoding_is_an_error_too(tmp_path, picture, save):
    data = save(tmp_path / "a.png", picture(0, 32, 32)).read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="1 unreadable"):
        read(str(tmp_path))


# ---- what a crop loses, and what ebb itself made


def test_what_is_mostly_cut_off_is_counted_with_its_share(tmp_path, save, finding):
    for index in range(3):
        save(tmp_path / f"{index}.png", Image.new("RGB", (2000, 20), (index, 90, 0)))
    save(tmp_path / "square.png", Image.new("RGB", (20, 20), "red"))
    found = finding(read(str(tmp_path)), "mostly cut off")
    assert (found.count, found.examples) == (3, ("0.png", "1.png", "2.png"))
    assert found.action == "kept: resized to 16×16, 99% of the area cut off"
    for index in range(3):
        save(tmp_path / f"{index}.png", Image.new("RGB", (24 + index, 20), (index, 90, 0)))
    assert finding(read(str(tmp_path)), "mostly cut off") is None


def sample(path, image, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(Image.fromarray(image), path, {"run": "photos", "seed": seed})


def test_samples_of_ebb_among_pictures_are_left_out_and_hide_no_labels(tmp_path, picture, save, finding):
    for name in ("cat", "dog"):
        save(tmp_path / name / "1.png", picture(ord(name[0])))
    alone = read(str(tmp_path))
    sample(tmp_path / "samples.png", picture(5, 20, 20))
    sample(tmp_path / "cat" / "edited.png", picture(6))
    dataset = read(str(tmp_path))
    assert dataset.summary.fingerprint == alone.summary.fingerprint
    assert dataset.names == ("cat", "dog")
    assert finding(dataset, "made by ebb").examples == ("cat/edited.png", "samples.png")
    assert "left out" in finding(dataset, "made by ebb").action


def test_a_folder_of_nothing_but_samples_of_ebb_is_trained_on_and_it_is_said(tmp_path, picture, finding):
    for index in range(3):
        sample(tmp_path / f"{index:06}.png", picture(index), index)
    dataset = read(str(tmp_path))
    assert len(dataset.rows) == 3
    assert finding(dataset, "made by ebb").action == "kept: there is nothing else"
    assert finding(dataset, "made by ebb").count == 3


def test_a_zip_with_samples_of_ebb_is_read_alike(tmp_path, picture, save, finding):
    save(tmp_path / "in" / "1.png", picture(1))
    sample(tmp_path / "in" / "samples.png", picture(2))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in sorted((tmp_path / "in").iterdir()):
            archive.write(file, file.name)
    dataset = read(str(tmp_path / "a.zip"))
    assert len(dataset.rows) == 1
    assert finding(dataset, "made by ebb").examples == ("samples.png",)
