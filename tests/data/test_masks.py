"""Masks mean what was drawn: white on black, strokes on nothing, a hole in something."""

import numpy as np
import pytest
from PIL import Image

from ebb.data.masks import read_mask
from ebb.errors import DataError

WHERE = np.zeros((12, 16), bool)
WHERE[3:8, 5:14] = True


def painted(ground, drawn):
    """RGBA with `drawn` where the mask is meant, on `ground`."""
    pixels = np.zeros((*WHERE.shape, 4), np.uint8)
    pixels[...], pixels[WHERE] = ground, drawn
    return Image.fromarray(pixels)


def photograph(hole):
    pixels = np.random.default_rng(0).integers(0, 256, (*WHERE.shape, 4), dtype=np.uint8)
    pixels[..., 3] = np.where(hole, 0, 255)
    return Image.fromarray(pixels)


def sky(hole):
    """A photograph as bright as strokes are, of one hue that changes from top to bottom."""
    pixels = np.full((*WHERE.shape, 4), (120, 180, 250, 255), np.uint8)
    pixels[..., :2] -= (6 * np.arange(len(WHERE)) + np.arange(WHERE.shape[1])[:, None]).T[..., None].astype(np.uint8)
    pixels[..., 3] = np.where(hole, 0, 255)
    return Image.fromarray(pixels)


def both():
    """Black and white strokes on nothing; the white ones are meant."""
    image = np.asarray(painted((0, 0, 0, 0), (255, 255, 255, 255))).copy()
    image[9:, :] = (0, 0, 0, 255)
    return Image.fromarray(image)


def alpha_alone():
    image = Image.new("LA", WHERE.shape[::-1], (255, 0))
    image.putalpha(Image.fromarray(np.where(WHERE, 255, 0).astype(np.uint8)))
    return image


DRAWN = {
    "white on black": (painted((0, 0, 0, 255), (255, 255, 255, 255)), "what is white"),
    "white on black, without alpha": (painted((0, 0, 0, 0), (255, 255, 255, 0)).convert("RGB"), "what is white"),
    "one bit": (Image.fromarray(WHERE), "what is white"),
    "one of 0 and 1": (Image.fromarray(WHERE.astype(np.uint8)), "what is brightest"),
    "dark grey on black": (Image.fromarray(np.where(WHERE, 100, 0).astype(np.uint8)), "what is brightest"),
    "red on black": (painted((0, 0, 0, 255), (255, 0, 0, 255)).convert("RGB"), "what is brightest"),
    "strokes of half a white": (painted((0, 0, 0, 0), (255, 255, 255, 100)), "what is drawn on"),
    "dark red strokes on nothing": (painted((0, 0, 0, 0), (100, 0, 0, 255)), "what is drawn on"),
    "a hole in red": (painted((230, 0, 0, 255), (0, 0, 0, 0)), "what is transparent"),
    "a hole in a photograph of the sky": (sky(WHERE), "what is transparent"),
    "white strokes on nothing": (painted((0, 0, 0, 0), (255, 255, 255, 255)), "what is drawn on"),
    "white strokes on white nothing": (painted((255, 255, 255, 0), (255, 255, 255, 255)), "what is drawn on"),
    "red strokes on nothing": (painted((0, 0, 0, 0), (230, 0, 0, 255)), "what is drawn on"),
    "alpha alone, of white": (alpha_alone(), "what is drawn on"),
    "black and white strokes on nothing": (both(), "what is drawn white"),
    "a hole in black": (painted((0, 0, 0, 255), (0, 0, 0, 0)), "what is transparent"),
    "a hole in grey": (painted((90, 90, 90, 255), (255, 255, 255, 0)), "what is transparent"),
    "a hole in a photograph": (photograph(WHERE), "what is transparent"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_mask_means_what_was_drawn(tmp_path, name):
    image, words = DRAWN[name]
    image.save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png")
    assert np.array_equal(mask.marked >= 128, WHERE)
    assert mask.words.startswith(words)
    assert mask.size == WHERE.shape


def test_a_palette_with_a_transparent_colour_is_read_alike(tmp_path):
    image = Image.fromarray(WHERE.astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "mask.png", transparency=0)
    mask = read_mask(tmp_path / "mask.png")
    assert np.array_equal(mask.marked >= 128, WHERE)


def test_a_mask_lies_as_its_picture_does(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    painted((0, 0, 0, 0), (255, 255, 255, 255)).save(tmp_path / "mask.png", exif=exif)
    mask = read_mask(tmp_path / "mask.png")
    assert np.array_equal(mask.marked >= 128, np.rot90(WHERE, -1))
    assert mask.done == [("rotated", "turned upright")]


def test_nothing_drawn_marks_nothing(tmp_path):
    Image.new("RGBA", (8, 8), (255, 255, 255, 0)).save(tmp_path / "mask.png")
    assert not read_mask(tmp_path / "mask.png").marked.any()


def test_what_is_no_picture_is_no_mask(tmp_path):
    (tmp_path / "mask.png").write_text("no")
    with pytest.raises(DataError, match=r"mask.png is not a picture"):
        read_mask(tmp_path / "mask.png")


def test_a_dark_picture_marks_nothing(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 100, WHERE.shape, dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    assert not (read_mask(tmp_path / "mask.png").marked >= 128).any()


def test_a_mask_that_is_a_folder_or_not_there_is_told_so(tmp_path):
    with pytest.raises(DataError, match="Is a directory"):
        read_mask(tmp_path)
    with pytest.raises(DataError, match="No such file"):
        read_mask(tmp_path / "mask.png")
