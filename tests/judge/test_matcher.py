"""The matcher of pictures and captions: what it finds, what chance finds, and that it is counted right."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from ebb.errors import DataError
from ebb.judge import matcher as module
from ebb.judge.matcher import Matcher, retrieval, train_matcher

COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250), "white": (250, 250, 250), "black": (0, 0, 0)}


def flags(count, seed):
    """Pictures of two colours, one above the other, with their captions."""
    rng = np.random.default_rng(seed)
    pixels, captions = rng.integers(0, 40, (count, 3, 16, 16), dtype=np.uint8), []
    for picture in pixels:
        upper, lower = rng.permutation([*COLOURS])[:2]
        for half, name in ((slice(0, 8), upper), (slice(8, 16), lower)):
            picture[:, half] = np.abs(picture[:, half].astype(int) - np.array(COLOURS[name])[:, None, None])
        captions.append(f"{upper} above {lower}")
    return pixels, captions


@pytest.fixture(scope="module")
def trained():
    return train_matcher(*flags(300, 0), seconds=0.6)


def test_pictures_are_found_by_their_captions(trained):
    pixels, captions = flags(100, 1)
    found = retrieval(trained, pixels, captions, pixels, among=10)
    assert found.share > 0.8
    assert found.ceiling == found.share
    assert found.count == 100
    others = retrieval(trained, pixels[np.random.default_rng(0).permutation(100)], captions, among=10)
    assert others.share < 0.25, "others' pictures are found by chance"
    assert others.ceiling is None


class Told(Matcher):
    """A matcher whose scores are given: pictures are their first pixel, texts their number."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def of_texts(self, texts):
        return torch.tensor([[1.0, float(text)] for text in texts])

    def of_pictures(self, x):
        return torch.stack([x[:, 0, 0, 0], torch.zeros(len(x))], 1)


def test_the_chance_is_that_of_every_choice():
    """Scores rise with the picture's brightness: by brute force, over every choice of the others."""
    n, among = 7, 3
    pixels = np.arange(0, 210, 30, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), np.uint8)
    found = retrieval(Told(), pixels, [str(k) for k in range(n)], among=among)
    wins = [
        np.mean([max(rest) < at for rest in combinations([k for k in range(n) if k != at], among - 1)])
        for at in range(n)
    ]
    assert found.share == pytest.approx(np.mean(wins))
    assert found.share == pytest.approx(1 / among)


def test_one_seed_gives_one_matcher_and_leaves_the_random_state_alone():
    before, data = torch.get_rng_state(), flags(64, 2)
    one, two = (train_matcher(*data, seconds=0.05) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_too_few_captions_are_refused(trained):
    pixels, captions = flags(50, 3)
    with pytest.raises(DataError, match="needs 40 captions to learn from, got 3"):
        train_matcher(pixels, [*captions[:3], *[" "] * 47])
    with pytest.raises(DataError, match="one among 20"):
        retrieval(trained, pixels, ["the same"] * 50)


def test_a_wrong_count_is_caught(monkeypatch):
    """A mutant that draws the others with replacement."""
    monkeypatch.setattr(module, "without_return", lambda count: np.zeros(count, np.int64))
    with pytest.raises(AssertionError):
        test_the_chance_is_that_of_every_choice()
