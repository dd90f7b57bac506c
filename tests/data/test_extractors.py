"""What extractors find, where what there is to find is known: outlines of drawn shapes, means, greys, what stands out."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ebb.data.extractors import EXTRACTORS, Edges, LowResolution, Palette, SoftEdges, grey, mask
from ebb.data.scenes import COLOURS, FINE, SHAPES, tile, truth
from ebb.errors import UsageError
from ebb.recipe.names import parse


def near(lines, reach=1):
    """Places within `reach` of a line, bool [h, w]."""
    wide = torch.from_numpy(lines).float()[None, None]
    return torch.nn.functional.max_pool2d(wide, 2 * reach + 1, 1, reach)[0, 0].bool().numpy()


def outline(inside):
    """Places inside that have a neighbour outside, bool [h, w]."""
    padded = np.pad(inside, 1)
    held = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~held


def drawn(shape, colour, width, right, down, side=24):
    """A thing on black, and its exact outline."""
    pixels, cover = np.zeros((1, 3, side, side), np.uint8), np.zeros((side, side), bool)
    for target, name in ((pixels[0], colour), (None, "white")):
        found = tile(shape, name, width, right, down)
        at = (slice(4, 4 + found.shape[1]), slice(4, 4 + found.shape[2]))
        if target is None:
            cover[at] = found[0] > COLOURS["white"][0] // 2
        else:
            target[:, at[0], at[1]] = found
    return pixels, outline(cover)


THINGS = st.tuples(
    st.sampled_from(SHAPES), st.sampled_from(tuple(COLOURS)), st.integers(6 * FINE, 13 * FINE),
    st.integers(0, FINE - 1), st.integers(0, FINE - 1),
)  # fmt: skip


@given(THINGS)
def test_edges_are_the_outline_to_a_pixel_and_thin(thing):
    pixels, line = drawn(*thing)
    found = Edges()(pixels)[0, 0] == 255
    assert not (found & ~near(line)).any(), "an edge that is none"
    assert not (line & ~near(found, 2 if thing[0] == "triangle" else 1)).any(), "an edge that was missed"
    blocks = found[1:, 1:] & found[:-1, 1:] & found[1:, :-1] & found[:-1, :-1]
    assert blocks.sum() <= (3 if thing[0] == "triangle" else 0), "a thick line, other than at a sharp corner"


def test_the_outline_of_a_square_is_closed():
    pixels = np.zeros((1, 1, 20, 20), np.uint8)
    pixels[..., 5:14, 5:14] = 200
    found = Edges()(pixels)[0, 0] == 255
    inner = np.zeros((20, 20), bool)
    inner[5:14, 5:14] = True
    assert found.sum() >= 0.85 * outline(inner).sum()
    assert not (found & ~near(outline(inner))).any()


def step(height, side=16):
    """A step of so many levels from left to right."""
    pixels = np.zeros((1, 1, side, side), np.uint8)
    pixels[..., side // 2 :] = height
    return pixels


def test_steepness_is_the_height_of_a_step():
    for height in (255, 128, 20):
        assert SoftEdges()(step(height)).max() == pytest.approx(height, abs=1)
        assert SoftEdges(2.0)(step(height)).max() == pytest.approx(height, abs=1)


def test_thresholds_decide_and_weak_edges_need_a_strong_one():
    assert not Edges()(step(45)).any()
    assert Edges()(step(60)).any()
    falling = step(1) * np.linspace(120, 20, 16, dtype=np.uint8)[:, None]
    strong, linked = (Edges(low=low)(falling)[0, 0].any(1).sum() for low in (0.2, 0.1))
    assert strong == pytest.approx((falling.max((0, 1, 3)) > 51).sum(), abs=1)
    assert linked == pytest.approx((falling.max((0, 1, 3)) > 25).sum(), abs=1)


def test_edges_are_seen_where_only_the_colour_changes():
    """Red beside a green of the same grey."""
    pixels = np.zeros((1, 3, 16, 16), np.uint8)
    pixels[:, 0, :, :8], pixels[:, 1, :, 8:] = 200, 102
    assert np.ptp(grey(pixels)) <= 1
    assert Edges()(pixels)[0, 0, :, 6:10].any(1).all()


@pytest.mark.parametrize("name", EXTRACTORS)
def test_a_map_is_of_its_own_picture_and_of_its_size(name):
    scenes, extractor = truth(6, 5, side=26).pixels, EXTRACTORS[name]
    every = extractor(scenes)
    assert every.dtype == np.uint8
    assert every.shape[2:] == scenes.shape[2:]
    assert every.shape[1] == (3 if name in ("palette", "low_resolution") else 1)
    assert np.array_equal(every[3:4], extractor(scenes[3:4]))
    assert len(np.unique(every)) > 1
    for flat in (0, 77, 255):
        of_flat = extractor(np.full((1, 3, 9, 7), flat, np.uint8))
        assert of_flat.shape[2:] == (9, 7)
        assert np.ptp(of_flat) == 0
    assert extractor(scenes[:, :1]).shape == (6, 1, 26, 26)


def test_greys_are_pillows():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 30, 30), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(pixels[0].transpose(1, 2, 0)).convert("L"))
    assert np.abs(grey(pixels)[0, 0].astype(int) - wanted).max() <= 1


def test_palette_and_low_resolution_keep_means():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 24, 24), dtype=np.uint8)
    colours = Palette(4)(pixels)
    for row in range(4):
        for column in range(4):
            part = np.s_[:, :, 6 * row : 6 * row + 6, 6 * column : 6 * column + 6]
            assert np.ptp(colours[part], (2, 3)).max() == 0
            np.testing.assert_allclose(colours[part].mean((2, 3)), pixels[part].mean((2, 3)), atol=0.51)
    low = LowResolution()(pixels)
    np.testing.assert_allclose(low.mean((2, 3)), pixels.mean((2, 3)), atol=4)
    assert low.std() < 0.4 * pixels.std()


def test_a_mask_is_what_was_drawn():
    """On black, and on a bright ground with a gradient."""
    pixels, _ = drawn("circle", "green", 12 * FINE, 0, 0)
    inside = pixels[0].max(0) >= 90
    assert np.array_equal(mask(pixels)[0, 0] == 255, inside)
    ground = np.linspace(200, 230, 24, dtype=np.uint8)[None, None, None].repeat(24, 2).repeat(3, 1)
    assert np.array_equal(mask(np.where(pixels.max(1, keepdims=True) >= 90, pixels, ground))[0, 0] == 255, inside)


def test_names_and_fields():
    assert parse("edges(high=0.3)", EXTRACTORS, "extractor") == Edges(high=0.3)
    with pytest.raises(UsageError, match="no extractor called 'edgse'") as error:
        parse("edgse", EXTRACTORS, "extractor")
    assert "edges" in error.value.hint
    for wrong in ("edges(low=0.5)", "edges(sigma=0)", "palette(0)", "low_resolution(1)"):
        with pytest.raises(UsageError, match=r"expected thresholds|blur|cell|times lower"):
            parse(wrong, EXTRACTORS, "extractor")
