import numpy as np
import pytest
import torch
from PIL import Image

from ebb.data.images import save_png, settings_of, sheet, to_pixels
from ebb.encode.labels import Labels
from ebb.errors import UsageError


def test_labels_by_name_then_by_number():
    labels = Labels(("cat", "owl", "dog"))
    assert [labels.index(x) for x in ("cat", "dog", 2, "1", 0)] == [0, 2, 2, 1, 0]
    assert Labels(("3", "7")).index(7) == 1
    with pytest.raises(UsageError, match="no label 1"):  # where names are numbers, a number is a name
        Labels(("3", "7")).index(1)
    assert labels([None, "owl", 2]).tolist() == [3, 1, 2]
    with pytest.raises(UsageError, match=r"(?s)no label 'dgo'.*did you mean 'dog'"):
        labels.index("dgo")
    with pytest.raises(UsageError, match="trained without labels"):
        Labels().index("7")


def test_values_become_pixels():
    x = torch.tensor([-1.0, 0.0, 1.0, 2.0]).reshape(1, 1, 2, 2)
    assert to_pixels(x).flatten().tolist() == [0, 128, 255, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_shows_every_picture_once(channels):
    pixels = np.stack([np.full((channels, 8, 8), 20 * i, dtype=np.uint8) for i in range(6)])
    drawn = np.asarray(sheet(pixels, columns=3))
    assert {20 * i for i in range(6)} <= set(np.unique(drawn).tolist())
    assert drawn.shape[1] > drawn.shape[0]


def test_settings_travel_in_the_png(tmp_path):
    settings = {"seed": 3, "label": "ä<b>", "guidance": 1.5}
    save_png(Image.new("L", (4, 4)), tmp_path / "deep" / "a.png", settings)
    assert settings_of(tmp_path / "deep" / "a.png") == settings
    Image.new("L", (4, 4)).save(tmp_path / "b.png")
    with pytest.raises(UsageError, match="carries no settings"):
        settings_of(tmp_path / "b.png")
