"""Captions: read from metadata.jsonl and from .txt files, kept beside their images, and what may be wrong with them."""

from __future__ import annotations

import hashlib
import json
import zipfile

import numpy as np
import pytest

from ebb.data.captions import LARGEST
from ebb.data.scan import read
from ebb.errors import DamagedError, DataError


def metadata(folder, texts):
    """A metadata.jsonl; a text that is None is left out."""
    rows = [{"file_name": name} | ({} if text is None else {"text": text}) for name, text in texts.items()]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")


def told(pixels):
    """The caption that the tests below give an image: what its first value is."""
    return f"the first value is {pixels.flatten()[0]}"


def aligned(images, captions=None):
    """Whether every image has its own caption."""
    return all(map(lambda pixels, text: told(pixels) == text, images.pixels, captions or images.captions))


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
    images = read(str(tmp_path))
    assert len(images.captions) == len(images.pixels) == 199
    assert len(images.held_out.captions) == 10
    assert aligned(images)
    assert aligned(images.held_out)
    assert not aligned(images, images.captions[1:] + images.captions[:1])
    assert images.summary.captions == images.summary.captions_distinct == 199
    assert images.summary.chosen["captions"] == f"from {'the .txt beside each image' if sidecars else 'metadata.jsonl'}"


def test_sources_without_captions_have_none(tmp_path, picture, save):
    save(tmp_path / "a.png", picture())
    metadata(tmp_path, {"a.png": None})
    images = read(str(tmp_path))
    assert images.captions is None
    assert (images.summary.captions, images.summary.caption_lengths) == (0, (0, 0))
    assert "captions" not in images.summary.chosen


def test_metadata_goes_before_the_file_beside_and_the_rest_is_ignored(tmp_path, picture, save, finding):
    for name in "abcd":
        save(tmp_path / f"{name}.png", picture(ord(name)))
        (tmp_path / f"{name}.txt").write_bytes(b"\xef\xbb\xbf  of the file\r\n" if name != "d" else b" \n")
    (tmp_path / "notes.txt").write_text("notes")
    metadata(tmp_path, {"a.png": "of the table", "b.png": ""})
    images = read(str(tmp_path))
    assert images.captions == ("of the table", "of the file", "of the file", "")
    assert (images.summary.captions, images.summary.captions_distinct) == (3, 2)
    assert images.summary.caption_lengths == (11, 12)
    assert finding(images, "not an image").examples == ("notes.txt",)
    assert finding(images, "without a caption").examples == ("d.png",)


def test_missing_captions_are_counted_and_five_are_named(tmp_path, picture, save, finding):
    names = [f"{at}.png" for at in range(8)]
    for at, name in enumerate(names):
        save(tmp_path / name, picture(at))
    metadata(tmp_path, {name: "one" if name == "0.png" else None for name in names})
    images = read(str(tmp_path))
    found = finding(images, "without a caption")
    assert (found.count, found.examples) == (7, tuple(names[1:6]))
    assert images.captions == ("one", *[""] * 7)


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
    images = read(str(tmp_path))
    assert images.captions == tuple(texts.values())
    assert finding(images, "long caption").examples == ("a.png",)
    assert finding(images, "odd characters in a caption").examples == ("c.png", "d.png")
    assert images.summary.caption_lengths == (3, 10_000)


def test_captions_in_split_folders_and_in_class_folders(tmp_path, picture, save):
    save(tmp_path / "train" / "cat" / "1.png", picture(1))
    save(tmp_path / "train" / "dog" / "1.png", picture(2))
    save(tmp_path / "test" / "dog" / "1.png", picture(3))
    (tmp_path / "train" / "cat" / "1.txt").write_text("a cat")
    (tmp_path / "test" / "dog" / "1.txt").write_text("a dog")
    images = read(str(tmp_path))
    assert images.names == ("cat", "dog")
    assert images.captions == ("a cat", "")
    assert images.held_out.captions == ("a dog",)


# ---- the fingerprint


def plain(images):
    """The fingerprint as it has always been: shape and names, labels, pixels."""
    out = hashlib.sha256(json.dumps([images.pixels.shape, images.names]).encode())
    out.update(b"" if images.labels is None else images.labels.astype("<i8").tobytes())
    out.update(images.pixels.tobytes())
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
        images = read(str(tmp_path))
        assert plain(images) == plain(without)
        prints.add(images.summary.fingerprint)
    assert len(prints) == 5


def test_arrays_keep_theirs(tmp_path, picture):
    np.savez(tmp_path / "a.npz", images=np.stack([picture(0), picture(1)]), labels=[0, 1])
    images = read(str(tmp_path / "a.npz"))
    assert images.summary.fingerprint == plain(images)
    assert images.captions is None


# ---- what cannot be used


@pytest.mark.parametrize("text", ["3", '["a"]', "true", '{"en": "a"}', '"\\ud83d"'])
def test_a_caption_that_is_not_text_names_the_line(tmp_path, picture, save, text):
    save(tmp_path / "a.png", picture())
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n\n{"file_name": "a.png", "text": ' + text + "}")
    with pytest.raises(DataError, match=r"metadata\.jsonl, line 3.*caption"):
        read(str(tmp_path))


def test_bytes_that_are_not_utf8_name_the_line_or_the_file(tmp_path, picture, save):
    save(tmp_path / "a.png", picture())
    (tmp_path / "a.txt").write_bytes(b"Caf\xe9")
    with pytest.raises(DataError, match=r"a\.txt, line 1 is not UTF-8") as caught:
        read(str(tmp_path))
    assert caught.value.hint == "save the file as UTF-8"
    (tmp_path / "a.txt").unlink()
    (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "b.png"}\n{"file_name": "a.png", "text": "Caf\xe9"}\n')
    with pytest.raises(DataError, match=r"metadata\.jsonl, line 2 is not UTF-8"):
        read(str(tmp_path))


def test_a_file_too_large_for_a_caption_is_refused(tmp_path, picture, save):
    save(tmp_path / "a.png", picture())
    (tmp_path / "a.txt").write_bytes(b"x" * (LARGEST + 1))
    with pytest.raises(DataError, match=r"a\.txt has 1,048,577 bytes"):
        read(str(tmp_path))


def test_a_damaged_member_of_a_zip(tmp_path, picture, save):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(save(tmp_path / "a.png", picture()), "a.png")
        archive.writestr("a.txt", "a red circle")
    data = (tmp_path / "a.zip").read_bytes()
    assert read(str(tmp_path / "a.zip")).captions == ("a red circle",)
    (tmp_path / "a.zip").write_bytes(data.replace(b"a red circle", b"a bad circle"))
    with pytest.raises(DamagedError, match=r"a\.txt cannot be read"):
        read(str(tmp_path / "a.zip"))
