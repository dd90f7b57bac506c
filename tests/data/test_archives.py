"""Zips and tars: the same layouts inside, and members that must not be trusted."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ebb.data.scan import read
from ebb.errors import DamagedError, DataError, EbbError


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def pack(tmp_path):
    def write(members, name="set.zip", compression=zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / name, "w", compression) as archive:
            for member, data in members.items():
                archive.writestr(member, data)
        return tmp_path / name

    return write


@pytest.mark.parametrize("top", ["", "top/", "./top/", "top\\", "/top/"])
def test_a_zip_reads_like_its_folder(pack, picture, tmp_path, save, top):
    members = {f"{top}{folder}/{seed}.png": png(picture(seed)) for folder, seed in (("b", 0), ("a", 1), ("a", 2))}
    path = pack(members | {"__MACOSX/._1.png": b"", f"{top}.DS_Store": b""})
    for folder, seed in (("b", 0), ("a", 1), ("a", 2)):
        save(tmp_path / "plain" / folder / f"{seed}.png", picture(seed))
    zipped, plain = read(str(path)), read(str(tmp_path / "plain"))
    assert zipped.summary.kind == "zip of class folders"
    assert zipped.summary.name == "set"
    assert zipped.summary.fingerprint == plain.summary.fingerprint
    assert {f.kind for f in zipped.summary.findings} == {"small class"}


def test_a_zip_is_known_by_content_not_by_suffix(pack, picture):
    assert len(read(str(pack({"a.png": png(picture())}, "photos.data"))).rows) == 1


def test_a_zip_with_splits_and_metadata(pack, picture):
    members = {
        "d/train/a.png": png(picture(1)),
        "d/train/metadata.jsonl": '{"file_name": "a.png", "label": "x", "text": "t"}',
        "d/test/b.png": png(picture(2)),
        "d/test/metadata.jsonl": '{"file_name": "b.png", "label": "x"}',
    }
    dataset = read(str(pack(members)))
    assert dataset.summary.kind == "zip of imagefolder"
    assert dataset.names == ("x",)
    assert dataset.held_out.labels.tolist() == [0]
    assert (dataset.summary.captions, dataset.held_out.summary.captions) == (1, 0)


def test_names_that_point_outside_are_not_read_and_it_is_said(pack, picture, tmp_path, finding):
    path = pack({"../evil.png": png(picture(1)), "good.png": png(picture(2))})
    dataset = read(str(path))
    assert len(dataset.rows) == 1
    assert finding(dataset, "points out of the archive").examples == ("../evil.png",)
    assert [entry.name for entry in tmp_path.iterdir()] == ["set.zip"]


def test_a_member_without_a_name_is_passed_over(pack, picture):
    path = pack({"a.png": png(picture(1)), "b.png": png(picture(2))}, compression=zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"b.png", b"\0.png"))
    assert len(read(str(path)).rows) == 1


def test_an_archive_that_is_encrypted_throughout_asks_for_its_password(pack, picture):
    path = pack({"a.png": png(picture(1))}, compression=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="1 x encrypted") as caught:
        read(str(path))
    assert "password" in caught.value.hint


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_are_one_image_and_it_is_said(tmp_path, picture, finding):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for seed, name in enumerate(("a.png", "b.png", "a.png", "./b.png")):
            archive.writestr(name, png(picture(seed)))
    dataset = read(str(tmp_path / "set.zip"))
    assert len(dataset.rows) == 2
    assert finding(dataset, "several members of one name").count == 2


def test_archives_among_pictures_are_said_and_alone_are_refused_with_the_way_out(
    tmp_path, picture, save, pack, finding
):
    (tmp_path / "d").mkdir()
    pack({"a.png": png(picture(1))}, "d/more.zip")
    (tmp_path / "d" / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="2 x may hold pictures") as caught:
        read(str(tmp_path / "d"))
    assert "unpack" in caught.value.hint
    save(tmp_path / "d" / "b.png", picture(2))
    assert finding(read(str(tmp_path / "d")), "may hold pictures").examples == ("more.zip", "train.parquet")


def test_suspected_bombs_are_skipped_and_named(pack, picture, finding):
    bomb = bytes(11 * 2**20)
    dataset = read(str(pack({"good.png": png(picture()), "bomb.png": bomb})))
    assert len(dataset.rows) == 1
    assert finding(dataset, "suspected bomb").examples == ("bomb.png",)
    with pytest.raises(DataError, match="1 x suspected bomb"):
        read(str(pack({"bomb.png": bomb})))


def patched(path, at_local, at_central, value):
    """Rewrite a 32-bit field of the first member's two headers."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\3\4") + at_local, value)
    struct.pack_into("<I", data, data.index(b"PK\1\2") + at_central, value)
    path.write_bytes(data)
    return path


def test_a_member_declared_too_large_is_refused_before_reading(pack, picture, finding):
    path = patched(pack({"a.png": png(picture(1)), "b.png": png(picture(2))}), 22, 24, 2**28 + 1)
    patched(path, 18, 20, 2**27)  # its ratio alone would pass
    dataset = read(str(path))
    assert len(dataset.rows) == 1
    assert finding(dataset, "suspected bomb").examples == ("a.png",)


def test_a_lying_header_cannot_expand_further(pack, picture, finding):
    path = patched(pack({"a.png": bytes(50 * 2**20), "b.png": png(picture(2))}), 22, 24, 1000)
    dataset = read(str(path))
    assert len(dataset.rows) == 1
    assert finding(dataset, "unreadable").examples == ("a.png",)


def test_encrypted_and_corrupt_members_are_skipped(pack, picture, finding):
    path = pack({"a.png": png(picture(1)), "b.png": png(picture(2))}, compression=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\3\4") + 6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    found = finding(read(str(path)), "encrypted")
    assert found.examples == ("a.png",)
    assert "password" in found.action
    path = pack({"a.png": png(picture(1)), "b.png": png(picture(2))}, compression=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 255
    path.write_bytes(data)
    assert finding(read(str(path)), "unreadable").examples == ("a.png",)


def test_a_zip_that_is_not_one_is_damaged(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(DamagedError, match=r"a\.zip"):
        read(str(tmp_path / "a.zip"))
    (tmp_path / "b.zip").write_bytes(b"")
    with pytest.raises(DamagedError, match=r"b\.zip"):
        read(str(tmp_path / "b.zip"))


def test_an_empty_zip_holds_no_images(pack):
    with pytest.raises(DataError, match="found nothing"):
        read(str(pack({})))


def test_a_tar_of_images_is_to_be_unpacked(tmp_path, picture):
    import tarfile

    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        data = png(picture())
        member = tarfile.TarInfo("a.png")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    with pytest.raises(DataError, match="unpack it"):
        read(str(tmp_path / "a.tar.gz"))


def test_a_tar_member_declared_too_large_is_refused(tmp_path):
    import tarfile

    member = tarfile.TarInfo("data_batch_1.bin")
    member.size = 2**28 + 1
    (tmp_path / "a.tar").write_bytes(member.tobuf())
    with pytest.raises(DataError, match="limit"):
        read(str(tmp_path / "a.tar"))
    (tmp_path / "b.tar.gz").write_bytes(b"\x1f\x8b nonsense")
    with pytest.raises(DamagedError, match=r"b\.tar\.gz"):
        read(str(tmp_path / "b.tar.gz"))


def mutate(data, draw_at, value, cut):
    data = bytearray(data)
    for at, new in zip(draw_at, value, strict=False):
        data[at % len(data)] = new
    return bytes(data[: max(1, len(data) - cut)])


changes = {
    "at": st.lists(st.integers(0, 2**16), max_size=4),
    "value": st.lists(st.integers(0, 255), min_size=4, max_size=4),
    "cut": st.one_of(st.just(0), st.integers(0, 2000)),
}
fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(**changes)
def test_a_damaged_zip_is_an_error_of_ours_or_a_skip(tmp_path, picture, at, value, cut):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for seed in range(2):
            archive.writestr(f"c{seed}/a.png", png(picture(seed)))
    (tmp_path / "a.zip").write_bytes(mutate(file.getvalue(), at, value, cut))
    try:
        dataset = read(str(tmp_path / "a.zip"))
    except EbbError:
        return
    assert 1 <= len(dataset.rows) <= 2


@fuzz
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@given(**changes)
def test_a_damaged_image_is_a_skip(tmp_path, picture, kind, at, value, cut):
    file = io.BytesIO()
    Image.fromarray(picture(1)).save(file, kind)
    suffix = kind.lower()
    (tmp_path / f"bad.{suffix}").write_bytes(mutate(file.getvalue(), at, value, cut))
    (tmp_path / "good.png").write_bytes(png(picture(2)))
    dataset = read(str(tmp_path), size=8, channels=3)
    np.testing.assert_array_equal(dataset.rows[-1], picture(2).transpose(2, 0, 1))
    assert 1 <= len(dataset.rows) <= 2


# ---- real data


def test_the_emoji_zip(shared):
    dataset = read(shared("emoji64.zip"))
    assert dataset.rows.shape == (3599, 3, 64, 64)
    assert dataset.held_out.rows.shape == (189, 3, 64, 64)
    assert dataset.labels is None
    assert (dataset.summary.captions, dataset.held_out.summary.captions) == (3599, 189)
    with zipfile.ZipFile(shared("emoji64.zip")) as archive:
        rows = map(json.loads, archive.read("emoji64/metadata.jsonl").decode().splitlines())
        texts = {row["file_name"]: row["text"] for row in rows}
        first = np.asarray(Image.open(archive.open("emoji64/1f004.png")).convert("RGB")).transpose(2, 0, 1)
    captions = dataset.captions + dataset.held_out.captions
    assert {*captions} == {*texts.values()}
    (at,) = np.flatnonzero((np.concatenate([dataset.rows, dataset.held_out.rows]) == first).all((1, 2, 3)))
    assert captions[at] == texts["1f004.png"]
    assert dataset.summary.kind == "zip of imagefolder"


def test_part_of_the_cifar_zip(shared, pack):
    with zipfile.ZipFile(shared("cifar10-train.zip")) as archive:
        names = [name for name in archive.namelist() if name.endswith(("0001.jpg", "0002.jpg"))]
        small = pack({name: archive.read(name) for name in names}, "cifar10-train.zip")
    dataset = read(str(small))
    assert dataset.rows.shape == (20, 3, 32, 32)
    assert dataset.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert dataset.names[0] == "airplane"
    assert dataset.summary.chosen["size"] == "32×32: all images have it"
