import numpy as np
import pytest

from ebb.data.scenes import truth
from ebb.errors import DataError, UsageError
from ebb.judge.scene_reader import agreement, cells_of, judge, quarters

SIDE = 24
"""Of scenes; those of `ebb train shapes` have 32."""


@pytest.fixture(scope="module")
def reader():
    """A judge that has drawn a quarter of the scenes of one that is used, and had fewer updates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebb.judge.scene_reader.JUDGED", 1500)
        return judge(SIDE, seconds=3)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """A ceiling told by fewer scenes."""
    monkeypatch.setattr("ebb.judge.scene_reader.REAL", 200)


def test_quarters_are_in_the_order_of_places():
    pixels = np.zeros((1, 3, 4, 4), np.uint8)
    pixels[:, :, :2, 2:] = 7  # top right
    assert [int(part.max()) for part in quarters(pixels)] == [0, 7, 0, 0]


def test_real_scenes_are_read_right(reader):
    scenes = truth(200, 5, side=SIDE)
    assert (cells_of(reader, scenes.pixels) == scenes.cells).mean() > 0.95
    found = agreement(reader, scenes.pixels, scenes.captions)
    assert found.share > 0.8
    assert found.things > 0.95
    assert found.ceiling > 0.8
    assert found.novel is None


def test_captions_of_other_scenes_are_not_obeyed(reader):
    scenes = truth(200, 5, side=SIDE)
    captions = [scene.caption for scene in scenes.scenes]
    found = agreement(reader, scenes.pixels, captions[1:] + captions[:1])
    assert found.share < 0.05
    assert found.things < 0.4


def test_a_thing_missing_and_a_thing_too_many_are_both_wrong(reader):
    scenes = truth(300, 6, side=SIDE)
    two = [i for i, scene in enumerate(scenes.scenes) if len(scene.objects) == 2][:40]
    less = scenes.pixels[two].copy()
    for row, i in zip(less, two, strict=True):
        at = int(np.flatnonzero(scenes.cells[i])[0])
        row[:, 12 * (at // 2) : 12 * (at // 2) + 12, 12 * (at % 2) : 12 * (at % 2) + 12] = 0
    captions = [scenes.scenes[i].caption for i in two]
    assert agreement(reader, less, captions).share < 0.05
    alone = [str(scenes.scenes[i].objects[0]) for i in two]
    assert agreement(reader, scenes.pixels[two], alone).share < 0.05
    assert agreement(reader, scenes.pixels[two], [f"a scene with {one}" for one in alone]).share > 0.8


def test_novel_pairs_are_counted_apart(reader):
    known, new = truth(60, 7, side=SIDE), truth(60, 8, novel=True, side=SIDE)
    pixels = np.concatenate([known.pixels, np.zeros_like(new.pixels)])
    found = agreement(reader, pixels, known.captions + new.captions)
    assert found.novel == 0
    assert 0.4 < found.share < 0.6


def test_captions_in_other_words_and_images_of_another_shape_are_refused(reader):
    with pytest.raises(UsageError, match="caption of shapes"):
        agreement(reader, truth(1, 5, side=SIDE).pixels, ["a dog"])
    with pytest.raises(DataError, match="scenes"):
        quarters(np.zeros((1, 1, 4, 4), np.uint8))
