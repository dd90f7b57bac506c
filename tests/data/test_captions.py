"""Captions: read from metadata.jsonl and from .txt files, kept beside their images, and what may be wrong with them."""

from __future__ import annotations

import hashlib
import json
import zipfile

import numpy as np
import pytest

from ebb.data.captions import LARGEST
from ebb.data.scan import read
from ebb.errors import DataError
from ebb.events import Message
from ebb.recipe.groups import TextRecipe
from ebb.run.folder import data_overview
from ebb.run.prepare import text_of


def metadata(folder, texts):
    """A metadata.jsonl; a text that is None is left out."""
    rows = [{"file_name": name} | ({} if text is None else {"text": text}) for name, text in texts.items()]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")


def told(pixels):
    """The caption that the tests below give an image: what its first value is."""
    return f"the first value is {pixels.flatten()[0]}"


def aligned(images, captions=None):
    """Whether every image has its own caption."""
    return all(map(lambda pixels, text: told(pixels) == text, images.rows, captions or images.captions))


@pytest.mark.parametrize("sidecars", [False, True])
def test_captions_stay_with_their_images_through_skips_and_the_split(tmp_path, picture, save, sidecars):
    texts = {}
    for at in range(210):
        image = picture(at, channels=1)
        image[0, 0] = at
        save(tmp_path / f"{at:03}.png", image)
        texts[f"{at:03}.png"] = told(image)
        if sidecars:
            (tmp_path / f"{at:03}.txt").write_text(told(image) + "\n")
    if not sidecars:
        metadata(tmp_path, texts)
    (tmp_path / "007.png").write_bytes(b"damaged")
    dataset = read(str(tmp_path))
    assert len(dataset.captions) == len(dataset.rows) == 199
    assert len(dataset.held_out.captions) == 10
    assert aligned(dataset)
    assert aligned(dataset.held_out)
    assert not aligned(dataset, dataset.captions[1:] + dataset.captions[:1])
    assert dataset.summary.captions == dataset.summary.captions_distinct == 199
    assert (
        dataset.summary.chosen["captions"] == f"from {'the .txt beside each image' if sidecars else 'metadata.jsonl'}"
    )


def test_sources_without_captions_have_none(tmp_path, picture, save):
    save(tmp_path / "a.png", picture())
    metadata(tmp_path, {"a.png": None})
    dataset = read(str(tmp_path))
    assert dataset.captions is None
    assert (dataset.summary.captions, dataset.summary.caption_lengths) == (0, (0, 0))
    assert "captions" not in dataset.summary.chosen


def test_metadata_goes_before_the_file_beside_and_the_rest_is_ignored(tmp_path, picture, save, finding):
    for name in "abcd":
        save(tmp_path / f"{name}.png", picture(ord(name)))
        (tmp_path / f"{name}.txt").write_bytes(b"\xef\xbb\xbf  of the file\r\n" if name != "d" else b" \n")
    (tmp_path / "notes.txt").write_text("notes")
    metadata(tmp_path, {"a.png": "of the table", "b.png": ""})
    dataset = read(str(tmp_path))
    assert dataset.captions == ("of the table", "of the file", "of the file", "")
    assert (dataset.summary.captions, dataset.summary.captions_distinct) == (3, 2)
    assert dataset.summary.caption_lengths == (11, 12)
    assert finding(dataset, "not an image").examples == ("notes.txt",)
    assert finding(dataset, "without a caption").examples == ("d.png",)


def test_missing_captions_are_counted_and_five_are_named(tmp_path, picture, save, finding):
    names = [f"{at}.png" for at in range(8)]
    for at, name in enumerate(names):
        save(tmp_path / name, picture(at))
    metadata(tmp_path, {name: "one" if name == "0.png" else None for name in names})
    dataset = read(str(tmp_path))
    found = finding(dataset, "without a caption")
    assert (found.count, found.examples) == (7, tuple(names[1:6]))
    assert dataset.captions == ("one", *[""] * 7)


def test_odd_captions_are_kept_as_they_are(tmp_path, picture, save, finding):
    texts = {
        "a.png": "x" * 10_000,
        "b.png": "красный круг 赤い円",
        "c.png": "caf\ufffd",
        "d.png": "a\0b",
        "e.png": "a\nb",
    }
    for at, name in enumerate(texts):
        save(tmp_path / name, picture(at))
    metadata(tmp_path, texts)
    dataset = read(str(tmp_path))
    assert dataset.captions == tuple(texts.values())
    assert finding(dataset, "long caption").examples == ("a.png",)
    assert finding(dataset, "odd characters in a caption").examples == ("c.png", "d.png")
    assert dataset.summary.caption_lengths == (3, 10_000)


def test_captions_in_split_folders_and_in_class_folders(tmp_path, picture, save):
    save(tmp_path / "train" / "cat" / "1.png", picture(1))
    save(tmp_path / "train" / "dog" / "1.png", picture(2))
    save(tmp_path / "test" / "dog" / "1.png", picture(3))
    (tmp_path / "train" / "cat" / "1.txt").write_text("a cat")
    (tmp_path / "test" / "dog" / "1.txt").write_text("a dog")
    dataset = read(str(tmp_path))
    assert dataset.names == ("cat", "dog")
    assert dataset.captions == ("a cat", "")
    assert dataset.held_out.captions == ("a dog",)


# ---- the fingerprint


def plain(images):
    """The fingerprint as it has always been: shape and names, labels, pixels."""
    out = hashlib.sha256(json.dumps([images.rows.shape, images.names]).encode())
    out.update(b"" if images.labels is None else images.labels.astype("<i8").tobytes())
    out.update(images.rows.tobytes())
    return out.hexdigest()


def test_captions_are_in_the_fingerprint_only_where_there_are_any(tmp_path, picture, save):
    for kind in ("x", "y"):
        save(tmp_path / kind / "1.png", picture(ord(kind)))
    without = read(str(tmp_path))
    assert without.summary.fingerprint == plain(without)
    prints = {without.summary.fingerprint}
    for texts in (("one", "two"), ("two", "one"), ("onetwo", ""), ("one", "two!")):
        for kind, text in zip("xy", texts, strict=True):
            (tmp_path / kind / "1.txt").write_text(text)
        dataset = read(str(tmp_path))
        assert plain(dataset) == plain(without)
        prints.add(dataset.summary.fingerprint)
    assert len(prints) == 5


def test_arrays_keep_theirs(tmp_path, picture):
    np.savez(tmp_path / "a.npz", images=np.stack([picture(0), picture(1)]), labels=[0, 1])
    dataset = read(str(tmp_path / "a.npz"))
    assert dataset.summary.fingerprint == plain(dataset)
    assert dataset.captions is None


# ---- what cannot be used


@pytest.mark.parametrize("text", ["3", "[3]", "true", '{"en": "a"}', '"\\ud83d"', '"Caf\\udce9"'])
def test_a_caption_that_is_not_text_is_left_out_and_names_its_line(tmp_path, picture, save, finding, text):
    save(tmp_path / "a.png", picture())
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n\n{"file_name": "a.png", "text": ' + text + "}")
    dataset = read(str(tmp_path))
    assert dataset.captions is None
    assert "metadata.jsonl, line 3 " in finding(dataset, "broken row").examples[0]
    assert lost(dataset) >= {("captions", 0, 1)}


def lost(images):
    """The sources of which little was used: how much of how many, and of what."""
    return {(match.condition, match.used, match.count) for match in images.summary.matches if match.little}


def test_of_several_captions_the_first_is_used(tmp_path, picture, save, finding):
    save(tmp_path / "a.png", picture())
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": ["", "one", "two"]}')
    dataset = read(str(tmp_path))
    assert dataset.captions == ("one",)
    assert finding(dataset, "several captions").examples == ("a.png",)


@pytest.fixture
def forty(tmp_path, picture, save):
    """Forty images, each with a text beside it."""
    for at in range(40):
        save(tmp_path / f"{at:02}.png", picture(at))
        (tmp_path / f"{at:02}.txt").write_text(f"picture {at}")
    return tmp_path


@pytest.mark.parametrize(
    ("data", "why"), [(b"Caf\xe9", "not UTF-8"), (b"x" * (LARGEST + 1), "over 1,048,576 bytes"), (b"\xff\xfea", "not")]
)
def test_one_text_that_cannot_be_read_is_left_out_counted_and_named(forty, finding, data, why):
    (forty / "07.txt").write_bytes(data)
    dataset = read(str(forty))
    assert dataset.captions[6:9] == ("picture 6", "", "picture 8")
    found = finding(dataset, "unreadable caption")
    assert (found.count, found.action) == (1, "skipped")
    assert found.examples[0].startswith(f"07.txt ({why}")
    assert lost(dataset) == set()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_a_text_says_its_encoding(forty, encoding):
    (forty / "07.txt").write_text("café", encoding)
    assert read(str(forty)).captions[7] == "café"


def test_a_damaged_text_in_a_zip_is_left_out(tmp_path, picture, save, finding):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(save(tmp_path / "a.png", picture()), "a.png")
        archive.writestr("a.txt", "a red circle")
    data = (tmp_path / "a.zip").read_bytes()
    assert read(str(tmp_path / "a.zip")).captions == ("a red circle",)
    (tmp_path / "a.zip").write_bytes(data.replace(b"a red circle", b"a bad circle"))
    dataset = read(str(tmp_path / "a.zip"))
    assert finding(dataset, "unreadable caption").examples == ("a.txt (damaged)",)
    assert lost(dataset) == {("captions", 0, 1)}


# ---- captions under other names, and their loss


@pytest.mark.parametrize("end", [".caption", ".TXT", ".Txt", ".png.txt", ".caption.txt", ".png.Caption"])
def test_texts_beside_are_found_by_other_names(tmp_path, picture, save, end):
    for name in ("a", "b"):
        save(tmp_path / f"{name}.png", picture(ord(name)))
        (tmp_path / f"{name}{end}").write_text(f"of {name}")
    dataset = read(str(tmp_path))
    assert dataset.captions == ("of a", "of b")
    assert all(found.kind != "not an image" for found in dataset.summary.findings)


def test_texts_that_lie_beside_no_image_are_a_loss(tmp_path, picture, save):
    for at in range(8):
        save(tmp_path / "images" / f"{at}.png", picture(at))
        (tmp_path / f"caption-{at}.txt").write_text("a caption")
    dataset = read(str(tmp_path))
    assert lost(dataset) == {("captions", 0, 8)}
    (match,) = dataset.summary.matches
    assert match.examples == tuple(f"caption-{at}.txt" for at in range(5))
    assert "images/0.txt" in match.advice


def test_a_note_beside_captioned_images_is_none(forty):
    for name in ("README.txt", "notes.txt"):
        (forty / name).write_text("some words")
    assert lost(read(str(forty))) == set()


@pytest.mark.parametrize("name", ["captions.json", "labels.csv", "list.txt", "01.json", "train.parquet"])
def test_a_table_of_another_name_is_a_loss(tmp_path, picture, save, name):
    for at in range(3):
        save(tmp_path / f"{at:02}.png", picture(at))
    (tmp_path / name).write_text("01.png,a caption\n02.png,another\n")
    dataset = read(str(tmp_path))
    assert dataset.captions is None
    assert lost(dataset) == {("captions", 0, 1)}
    (tmp_path / name).rename(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"width": 32}')
    assert lost(read(str(tmp_path))) == set()


LISTS = {
    "trainLabels.csv": "id,label\nx1,cat\nx2,dog\n",
    "meta_cap.json": '{"x0": {"caption": "a"}, "/home/x1": {"caption": "b"}}',
    "list.txt": "x0 a cat\nx1 a dog\n",
    "metadata.yaml": "",
    "metadata.jsonl.gz": "",
    "labels.txt": "3\n7\n3\n",
    "x1.tags": "a cat",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_that_leave_out_the_suffix_and_other_tables_are_a_loss(tmp_path, picture, save, name):
    for at in range(3):
        save(tmp_path / f"x{at}.png", picture(at))
    (tmp_path / name).write_text(LISTS[name])
    assert lost(read(str(tmp_path))) == {("captions", 0, 1)}
    (tmp_path / name).rename(tmp_path / "settings.json")
    (tmp_path / "settings.json").write_text('{"x1": 32, "y": "x0"}')
    assert lost(read(str(tmp_path))) == set()


def test_what_lies_beside_images_that_have_a_caption_is_no_loss(forty):
    for at in range(40):
        (forty / f"{at:02}.json").write_text('{"url": "somewhere"}')
    assert lost(read(str(forty))) == set()


def test_captions_that_are_all_empty_are_a_loss(tmp_path, picture, save):
    for name in "ab":
        save(tmp_path / f"{name}.png", picture(ord(name)))
    metadata(tmp_path, {"a.png": " ", "b.png": ""})
    dataset = read(str(tmp_path))
    assert dataset.captions is None
    assert lost(dataset) == {("captions", 0, 2)}


def test_a_loss_is_said_before_training_and_captions_can_be_waived(tmp_path, picture, save):
    for name in "ab":
        save(tmp_path / f"{name}.png", picture(ord(name)))
    metadata(tmp_path, {"x.png": "one", "y.png": "two"})
    shown = {}
    for wanted in (True, False):
        events = list(data_overview(read(str(tmp_path)), captions=wanted))
        shown[wanted] = "\n".join(event.text for event in events if isinstance(event, Message) and event.warning)
    assert "metadata.jsonl: 0 of 2 rows name a picture that is here; not x.png, y.png" in shown[True]
    assert "--text.captions ignored" in shown[True]
    assert not shown[False]
    with pytest.raises(DataError, match=r"there are no captions; metadata\.jsonl: 0 of 2 rows"):
        text_of(TextRecipe(captions="required"), read(str(tmp_path)))
