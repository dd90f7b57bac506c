"""Order and Loader are functions of the step: nothing is stored, so resuming is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebb.data.loader import Examples, Loader, Order, permutation
from ebb.data.pictures import to_unit
from ebb.data.scan import read
from ebb.errors import DataError


@pytest.fixture
def labelled(tmp_path, picture):
    pixels = np.stack([picture(seed) for seed in range(10)])
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.arange(10))
    return read(str(tmp_path / "a.npz"))


@given(st.integers(1, 30), st.integers(1, 50), st.integers(0, 2**32), st.integers(1, 4))
def test_every_epoch_sees_each_item_once(count, batch, seed, epochs):
    order = Order(count, batch, seed)
    steps = -(-count * epochs // batch)
    run = np.concatenate([order.indices(step) for step in range(steps)])
    assert all(len(order.indices(step)) == batch for step in range(steps))
    for epoch in range(epochs):
        assert sorted(run[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(st.integers(1, 30), st.integers(1, 50), st.integers(0, 1000))
def test_the_order_does_not_depend_on_the_batch_size(count, batch, step):
    alone = [Order(count, 1, 3).indices(step * batch + offset)[0] for offset in range(batch)]
    assert Order(count, batch, 3).indices(step).tolist() == alone


def test_epochs_and_seeds_differ():
    assert permutation(100, 0, 0).tolist() != permutation(100, 0, 1).tolist()
    assert permutation(100, 0, 0).tolist() != permutation(100, 1, 0).tolist()


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (5, -1)])
def test_an_order_over_nothing_is_refused(sizes):
    with pytest.raises(DataError, match="at least"):
        Order(*sizes, seed=0)


def test_bytes_map_onto_the_unit_range():
    x = to_unit(torch.tensor([0, 255, 51], dtype=torch.uint8))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, torch.tensor([-1.0, 1.0, -0.6]))


@pytest.mark.parametrize("flip", [False, True])
def test_a_batch_is_a_pure_function_of_its_step(labelled, flip):
    load, again = Loader(Examples.of(labelled), 4, 7, flip), Loader(Examples.of(labelled), 4, 7, flip)
    later = [load(step) for step in range(6)]
    for step in reversed(range(6)):
        torch.testing.assert_close(again(step).x0, later[step].x0, rtol=0, atol=0)
        assert again(step).cond["label"].tolist() == later[step].cond["label"].tolist()


def test_labels_belong_to_their_images(labelled):
    batch = Loader(Examples.of(labelled), 25, seed=1)(3)
    assert batch.x0.shape == (25, 3, 8, 8)
    assert batch.cond["label"].dtype == torch.int64
    expected = torch.from_numpy(labelled.rows[batch.cond["label"].numpy()])
    torch.testing.assert_close(batch.x0, expected / 127.5 - 1)


def test_flips_mirror_about_half_of_the_images_and_change_nothing_else(labelled):
    plain, flipped = Loader(Examples.of(labelled), 400, 5)(2), Loader(Examples.of(labelled), 400, 5, flip=True)(2)
    assert plain.cond["label"].tolist() == flipped.cond["label"].tolist()
    same = (flipped.x0 == plain.x0).flatten(1).all(1)
    mirrored = (flipped.x0 == plain.x0.flip(-1)).flatten(1).all(1)
    assert torch.logical_xor(same, mirrored).all()
    assert 140 < mirrored.sum() < 260


def test_each_step_draws_its_own_flips(labelled):
    draws = []
    for step in range(2):
        plain, flipped = (
            Loader(Examples.of(labelled), 64, 5)(step),
            Loader(Examples.of(labelled), 64, 5, flip=True)(step),
        )
        draws.append((flipped.x0 != plain.x0).flatten(1).any(1).tolist())
    assert draws[0] != draws[1]


def test_unlabelled_images_have_no_condition(tmp_path, picture, save):
    save(tmp_path / "a.png", picture())
    assert Loader(Examples.of(read(str(tmp_path))), 2)(0).cond == {}
