"""One picture of a user: which way up, in which colours, how large, whatever its format says or gets wrong."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, features

from ebb.data.decode import SUFFIXES, UnusableError, decode, head, read_picture, seems
from ebb.data.scan import read
from ebb.errors import DataError

from .profiles import CYAN, DISPLAY_P3, SRGB, cmyk_profile, grey_profile, in_srgb, lab_in_srgb, rgb_profile

FORMATS = ["PNG", "JPEG", "WEBP", "TIFF"] + (["AVIF"] if features.check("avif") else [])
WRITING = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 95}}


def quarters(width, height):
    """A picture whose quarters have four greys: no turn of it is another."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, width // 2 :], pixels[height // 2 :, : width // 2] = 80, 160
    pixels[height // 2 :, width // 2 :] = 240
    return Image.fromarray(pixels)


def xmp(orientation):
    inside = f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>{inside}</rdf:RDF></x:xmpmeta>'.encode()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def tagged(image, format, orientation, said):
    """A file that says its orientation in EXIF, in XMP, or, of a PNG, behind its pixels."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file, how = io.BytesIO(), dict(WRITING.get(format, {}))
    if said == "exif":
        how["exif"] = exif
    elif said == "xmp" and format == "TIFF":
        how["tiffinfo"] = {700: xmp(orientation)}
    elif said == "xmp" and format != "PNG":
        how["xmp"] = xmp(orientation)
    image.save(file, format, **how)
    if format != "PNG" or said == "exif":
        return file.getvalue()
    data, body = file.getvalue(), b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(orientation)
    behind = chunk(b"eXIf", exif.tobytes()[6:]) if said == "late exif" else chunk(b"iTXt", body)
    at = 33 if said == "xmp" else data.index(b"IEND") - 4  # 33: behind the IHDR
    return data[:at] + behind + data[at:]


WAYS = [(format, said) for format in FORMATS for said in ("exif", "xmp")] + [("PNG", "late exif"), ("PNG", "late xmp")]


@pytest.mark.parametrize(("format", "said"), WAYS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_in_the_header_and_the_pixels_agree_whichever_way_up(format, said, orientation):
    lying = quarters(24, 12)
    data = tagged(lying, format, orientation, said)
    turned = Image.new("RGB", (1, 1))
    exif = lying.getexif()
    exif[0x0112] = orientation
    turned = ImageOps.exif_transpose(lying)  # the oracle
    for small in (0, 10_000):
        found = head(io.BytesIO(data), f".{format.lower()}", small)
        assert (found.width, found.height) == turned.size, small
        pixels, done = decode(io.BytesIO(data), f".{format.lower()}", (3, found.height, found.width))
        assert np.abs(pixels.transpose(1, 2, 0).astype(int) - np.asarray(turned)).mean() < 4
        assert (("rotated", "turned upright") in done) == (orientation > 1)
        if small:
            assert np.array_equal(found.pixels, pixels)


def test_a_portrait_that_only_xmp_turns_is_not_cut(tmp_path):
    """Said of 20×40, whose half was cut off."""
    (tmp_path / "a.jpg").write_bytes(tagged(quarters(40, 20), "JPEG", 6, "xmp"))
    dataset = read(str(tmp_path))
    assert dataset.rows.shape[2:] == (40, 20)
    assert dataset.summary.chosen["size"] == "20×40: all images have it"


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF"]), st.binary(max_size=60), st.booleans())
def test_broken_tags_never_lose_the_picture(format, junk, begins_well):
    file = io.BytesIO()
    exif = (b"Exif\0\0MM\0*\0\0\0\x08" if begins_well else b"Exif\0\0") + junk
    how = {"tiffinfo": {700: junk}} if format == "TIFF" else {"exif": exif}
    quarters(24, 12).save(file, format, **how, **WRITING.get(format, {}))
    found = head(io.BytesIO(file.getvalue()), SUFFIX[format])
    pixels, _ = decode(io.BytesIO(file.getvalue()), SUFFIX[format], (3, found.height, found.width))
    assert sorted(pixels.shape[1:]) == [12, 24]
    small = head(io.BytesIO(file.getvalue()), SUFFIX[format], 10_000)
    assert (small.height, small.width) == (found.height, found.width)


SUFFIX = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif"}


@pytest.mark.parametrize("value", [0, 9, 65535, (0, 6)])
def test_an_orientation_that_is_none_is_ignored(tmp_path, value):
    exif = Image.Exif()
    exif[0x0112] = value
    quarters(24, 12).save(tmp_path / "a.jpg", exif=exif)
    assert read(str(tmp_path)).rows.shape[2:] == (12, 24)


# ---- colour profiles


def noise(size=8, channels=3, seed=0):
    shape = (size, size, channels) if channels > 1 else (size, size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_colours_of_another_profile_become_those_of_srgb(tmp_path, finding, suffix):
    pixels = noise()
    how = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", icc_profile=rgb_profile(DISPLAY_P3), **how)
    dataset = read(str(tmp_path))
    expected = in_srgb(pixels, DISPLAY_P3)
    assert np.abs(dataset.rows[0].transpose(1, 2, 0) - expected).max() <= 2
    assert np.abs(pixels - expected).max() > 20, "the profile changes something"
    assert finding(dataset, "colour profile").action == "converted to sRGB"


@pytest.mark.parametrize("profile", [ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), None])
def test_srgb_is_left_as_it_is(tmp_path, finding, profile):
    pixels = noise()
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile or rgb_profile(SRGB))
    dataset = read(str(tmp_path))
    assert np.array_equal(dataset.rows[0].transpose(1, 2, 0), pixels)
    assert dataset.summary.findings == () or finding(dataset, "colour profile") is None


@pytest.mark.parametrize("gamma", [1.0, 1.8])
def test_grey_stays_grey_by_its_own_curve(tmp_path, finding, gamma):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "a.png", icc_profile=grey_profile(gamma))
    dataset = read(str(tmp_path))
    linear = (ramp / 255) ** gamma
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert dataset.rows.shape == (1, 1, 16, 16)
    assert np.abs(dataset.rows[0, 0] - expected).max() <= 1.5
    assert finding(dataset, "colour profile").count == 1


def test_transparency_and_palettes_go_through_the_profile_too(tmp_path):
    pixels = np.dstack([noise(), np.full((8, 8), 255, np.uint8)])
    pixels[0, 0, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=rgb_profile(DISPLAY_P3))
    found = read(str(tmp_path)).rows[0].transpose(1, 2, 0)
    expected = in_srgb(pixels[..., :3], DISPLAY_P3)
    assert found[0, 0].tolist() == [255, 255, 255], "white is white, whatever the profile"
    assert np.abs(found.reshape(-1, 3)[1:] - expected.reshape(-1, 3)[1:]).max() <= 2
    flat = Image.new("P", (8, 8))
    flat.putpalette([200, 40, 90])
    flat.save(tmp_path / "a.png", icc_profile=rgb_profile(DISPLAY_P3))
    found = read(str(tmp_path)).rows[0, :, 0, 0]
    assert np.abs(found - in_srgb(np.uint8([200, 40, 90]), DISPLAY_P3)).max() <= 2


@pytest.mark.parametrize("profile", [b"not a profile", grey_profile(2.2), rgb_profile(SRGB)[:200]])
def test_a_profile_that_is_broken_or_of_another_kind_is_said_and_ignored(tmp_path, finding, profile):
    pixels = noise()
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    dataset = read(str(tmp_path))
    assert np.array_equal(dataset.rows[0].transpose(1, 2, 0), pixels)
    assert finding(dataset, "unusable colour profile").action == "ignored: read as sRGB"


@pytest.mark.parametrize("suffix", ["tif", "jpg"])
def test_cmyk_takes_the_colours_that_its_profile_gives_the_inks(tmp_path, finding, suffix):
    for name, inks in (("a", (255, 0, 0, 0)), ("b", (0, 0, 0, 0)), ("c", (0, 0, 0, 255))):
        Image.new("CMYK", (16, 16), inks).save(tmp_path / f"{name}.{suffix}", icc_profile=cmyk_profile())
    dataset = read(str(tmp_path))
    cyan, white, black = dataset.rows[:, :, 8, 8].astype(int)
    assert np.abs(cyan - lab_in_srgb(CYAN)).max() <= 3
    assert white.min() >= 253
    assert black.max() <= 3
    assert finding(dataset, "CMYK").count == finding(dataset, "colour profile").count == 3


def test_cmyk_with_a_profile_of_another_kind_is_read_without_it(tmp_path, finding):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.tif", icc_profile=rgb_profile(SRGB))
    dataset = read(str(tmp_path))
    assert dataset.rows[0, :, 0, 0].tolist() == [255, 0, 0]
    assert finding(dataset, "CMYK").count == finding(dataset, "unusable colour profile").count == 1


# ---- transparency


def test_a_picture_with_nothing_to_see_through_is_not_said_to_be_transparent(tmp_path, finding):
    pixels = np.dstack([noise(), np.full((8, 8), 255, np.uint8)])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    dataset = read(str(tmp_path))
    assert np.array_equal(dataset.rows[0].transpose(1, 2, 0), pixels[..., :3])
    assert finding(dataset, "transparency") is None


# ---- what is read, and what is not


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_suffix_is_read_in_its_own_format(tmp_path, suffix):
    quarters(16, 16).save(tmp_path / f"a{suffix}", SUFFIXES[suffix])
    dataset = read(str(tmp_path))
    assert dataset.rows.shape[0] == 1
    assert [finding.kind for finding in dataset.summary.findings] in ([], ["palette"])


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


def test_pictures_that_are_not_opened_or_not_named_so_are_told_from_other_files(tmp_path, finding):
    quarters(16, 16).save(tmp_path / "a.png")
    (tmp_path / "IMG_1.HEIC").write_bytes(HEIC)
    (tmp_path / "phone.jpg").write_bytes(HEIC)
    quarters(16, 16).save(tmp_path / "3f2a", "JPEG")
    quarters(16, 16).save(tmp_path / "b.dat", "PNG")
    (tmp_path / "notes.md").write_text("notes")
    dataset = read(str(tmp_path))
    assert finding(dataset, "in a format that ebb does not open").examples == ("IMG_1.HEIC",)
    assert "convert" in finding(dataset, "in a format that ebb does not open").action
    assert (finding(dataset, "HEIC").examples, finding(dataset, "HEIC").action) == (
        ("phone.jpg",),
        "skipped: convert them to .png or .jpg",
    )
    assert finding(dataset, "looks like a picture").examples == ("3f2a", "b.dat")
    assert finding(dataset, "not an image").examples == ("notes.md",)


@pytest.mark.parametrize(("name", "hint"), [("a.heic", "convert them to .png"), ("3f2a", "rename it")])
def test_a_folder_of_only_such_pictures_says_what_to_do(tmp_path, name, hint):
    (tmp_path / name).write_bytes(HEIC)
    with pytest.raises(DataError) as caught:
        read(str(tmp_path))
    assert hint in caught.value.hint


def test_a_named_file_says_what_it_is(tmp_path):
    (tmp_path / "my phone.heic").write_bytes(HEIC)
    with pytest.raises(DataError, match=r"a picture ebb can read: HEIC") as caught:
        read_picture(tmp_path / "my phone.heic")
    assert "magick" in caught.value.hint
    assert f"'{tmp_path}/my phone.heic'" in caught.value.hint
    (tmp_path / "nothing.png").write_bytes(b"")
    with pytest.raises(DataError, match="empty file"):
        read_picture(tmp_path / "nothing.png")


def test_what_begins_like_a_picture():
    starts = {"WEBP": b"RIFF\0\0\0\0WEBPVP8 ", "AVIF": b"\0\0\0\x20ftypavif\0\0\0\0", "JPEG": b"\xff\xd8\xff\xe0"}
    for name, start in starts.items():
        assert seems(start) == name
    for start in (b"", b"BMW is no bitmap!", b"\0\0\0\x20ftypisom\0\0\0\0", b"RIFF\0\0\0\0WAVEfmt "):
        assert seems(start) is None


def several(file, kind):
    frames = [Image.fromarray(noise(seed=seed)) for seed in range(3)]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])


LIMITS = {
    "tiny": lambda file: quarters(3, 20).save(file, "PNG"),
    "too large": lambda file: Image.new("1", (16_000_001, 4)).save(file, "PNG"),
    "empty file": lambda file: None,
    "unreadable": lambda file: file.write(tagged(quarters(64, 64), "PNG", 1, "exif")[:-40]),
    "values out of range": lambda file: Image.fromarray(np.full((8, 8), 1.5, np.float32)).save(file, "TIFF"),
}


@pytest.mark.parametrize("kind", LIMITS)
def test_what_cannot_be_used_is_left_out_by_name_in_a_folder_and_refused_alone(tmp_path, finding, kind):
    file = io.BytesIO()
    LIMITS[kind](file)
    quarters(16, 16).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(file.getvalue())
    dataset = read(str(tmp_path))
    assert len(dataset.rows) == 1
    assert finding(dataset, kind).examples == ("bad.png",)
    with pytest.raises(DataError, match=f"bad.png is not a picture ebb can read: {kind}"):
        read_picture(tmp_path / "bad.png")


@pytest.mark.parametrize(("kind", "suffix"), [("GIF", "gif"), ("TIFF", "tif"), ("PNG", "png"), ("WEBP", "webp")])
def test_of_several_frames_or_pages_the_first_is_used(tmp_path, finding, kind, suffix):
    several(tmp_path / f"a.{suffix}", kind)
    dataset = read(str(tmp_path))
    assert finding(dataset, "several frames").action == "first frame used"
    assert finding(dataset, "several frames").count == 1


@given(st.sampled_from(FORMATS), st.integers(0, 400), st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255))))
def test_damage_is_told_or_read_and_sizes_still_agree(format, cut, changes):
    data = bytearray(tagged(quarters(24, 12), format, 6, "exif"))
    for at, value in changes:
        data[at % len(data)] = value
    data = bytes(data[: max(1, len(data) - cut)])
    try:
        found = head(io.BytesIO(data), ".png")
        pixels, _ = decode(io.BytesIO(data), ".png", (3, found.height, found.width))
    except UnusableError:
        return
    assert pixels.shape == (3, found.height, found.width)
    assert pixels.dtype == np.uint8
