from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import ebb
from ebb.data.images import to_pixels
from ebb.encode.conditioner import Conditioner, part
from ebb.encode.labels import Labels
from ebb.evaluate import drawn as module
from ebb.evaluate.drawn import draw
from ebb.events import finished, ignored
from ebb.process.predict import PREDICTIONS
from ebb.recipe.names import parse
from ebb.recipe.recipe import Sampling
from ebb.system.families.diffusion import DiffusionModel
from ebb.system.sampler import Sampler
from ebb.system.system import System

COUNT = 22
GIVEN = {"label": ["ab"[i % 2] for i in range(COUNT)]}


@pytest.fixture(scope="module")
def system():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ebb.UNet(1, width=8, depth=1, ports={"label": "classes(count=2)"})
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    denoiser = ebb.NetworkDenoiser(network, ebb.Linear(), parse("velocity", PREDICTIONS, "prediction"))
    how = Sampling(solver="ddim", steps=2, guidance=2.0, precision="fp32")
    return System(
        DiffusionModel(denoiser.requires_grad_(False)), (1, 8, 8), Conditioner({"label": Labels(("a", "b"))}), how
    )


@pytest.fixture(autouse=True)
def shards_of_eight(monkeypatch):
    monkeypatch.setattr(module, "SHARD", 8)


@pytest.fixture
def calls(monkeypatch):
    """How many samples each call of a `Sampler` made; `calls.stop` is the call that is interrupted."""

    class Calls(list):
        stop = None

    made, right = Calls(), Sampler.__call__

    def sampled(self, request):
        if made.stop == len(made):
            raise KeyboardInterrupt
        made.append(len(request))
        return right(self, request)

    monkeypatch.setattr(Sampler, "__call__", sampled)
    return made


def drawn(system, home, count=COUNT, seed=3, facts=None, sink=ignored, **settings):
    system = replace(system, sampling=system.settled(**settings))
    request = system.request(part(GIVEN, 0, count), count, seed)
    return finished(draw(system, home, request, facts or {"weights": "abc"}), sink)


def test_the_samples_are_those_of_the_system(system, tmp_path):
    found = drawn(system, tmp_path)
    once = to_pixels(system.sample(COUNT, label=GIVEN["label"], seed=3))
    assert found.rows.dtype == np.uint8
    assert np.abs(found.rows.astype(int) - once).max() <= 1  # rounding differs with the batch
    assert found.evaluations == 2 * 2
    assert found.seconds > 0


def test_an_interrupted_set_goes_on_at_the_next_shard(system, tmp_path, calls):
    whole = drawn(system, tmp_path / "whole").rows
    assert calls == [8, 8, 6]
    calls.clear()
    calls.stop = 2
    with pytest.raises(KeyboardInterrupt):
        drawn(system, tmp_path / "halves")
    calls.stop = None
    again = drawn(system, tmp_path / "halves")
    assert calls == [8, 8, 6]
    assert np.array_equal(again.rows, whole)


def test_a_finished_set_is_used_again_with_what_it_cost(system, tmp_path, calls):
    first = drawn(system, tmp_path)
    again = drawn(system, tmp_path)
    assert calls == [8, 8, 6]
    assert np.array_equal(first.rows, again.rows)
    assert (first.seconds, first.evaluations) == (again.seconds, again.evaluations)


def test_a_larger_count_begins_with_the_smaller(system, tmp_path, calls):
    small = drawn(system, tmp_path, 12).rows
    large = drawn(system, tmp_path).rows
    assert calls == [8, 4, 8, 6]  # the shard that was cut short is drawn again
    assert np.abs(large[:12].astype(int) - small).max() <= 1
    assert np.array_equal(drawn(system, tmp_path, 12).rows, large[:12])
    assert calls == [8, 4, 8, 6]


@pytest.mark.parametrize("other", [{"seed": 4}, {"steps": 3}, {"facts": {"weights": "abd"}}, {"guidance": 1.0}])
def test_other_settings_are_another_set_and_replace_the_old_once_whole(system, tmp_path, calls, other):
    old = drawn(system, tmp_path)
    calls.stop = len(calls) + 1
    with pytest.raises(KeyboardInterrupt):
        drawn(system, tmp_path, **other)
    assert old.folder.is_dir()
    calls.stop = None
    new = drawn(system, tmp_path, **other)
    assert new.folder != old.folder
    assert list(tmp_path.iterdir()) == [new.folder]
    assert not np.array_equal(new.rows, old.rows) or "facts" in other


def cut(folder):
    file = folder / "00001.npy"
    file.write_bytes(file.read_bytes()[:-5])


def lost(folder):
    (folder / "00001.npy").unlink()


def unlisted(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["shards"]["00001.npy"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def foreign(folder):
    np.save(folder / "00001.npy", np.zeros((8, 1, 8, 8), np.float32))


@pytest.mark.parametrize("damage", [cut, lost, unlisted, foreign])
def test_a_damaged_shard_is_drawn_again_and_no_other(system, tmp_path, calls, damage):
    first = drawn(system, tmp_path)
    damage(first.folder)
    again = drawn(system, tmp_path)
    assert calls == [8, 8, 6, 8]
    assert np.array_equal(first.rows, again.rows)


def test_a_manifest_that_cannot_be_read_costs_the_samples_and_no_more(system, tmp_path, calls):
    first = drawn(system, tmp_path)
    (first.folder / "manifest.json").write_text("{")
    assert np.array_equal(drawn(system, tmp_path).rows, first.rows)


def test_the_progress_says_how_many_and_how_long(system, tmp_path):
    said = []
    drawn(system, tmp_path, sink=said.append)
    assert [(event.what, event.done, event.of) for event in said] == [("sampling", at, 22) for at in (8, 16, 22)]
    assert said[0].left > 0
    assert said[-1].left == 0
    said.clear()
    drawn(system, tmp_path, sink=said.append)
    assert {event.left for event in said} == {None}
