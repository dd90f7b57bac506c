"""A run's earlier average: saved once, of the right update, without a trace in the run, and guided by under its name."""

import dataclasses
import json
import shutil

import pytest
import torch

import ebb
from ebb.edit.editor import Editor
from ebb.errors import DamagedError, UsageError
from ebb.events import Message, Update, finished
from ebb.guide.autoguide import autoguide
from ebb.recipe.recipe import Recipe
from ebb.run import marks
from ebb.run.export import export
from ebb.run.tidy import tidied
from ebb.run.train import train
from ebb.store import checkpoint
from ebb.store.earlier import EARLIER, forget_later, read_earlier, save_earlier
from ebb.system.families.diffusion import DiffusionFamily
from ebb.understand.cost import counted

from .. import toys

STEPS, QUARTER = 8, 2
ASKED = {"network": {"width": 16, "depth": 1}, "batch": 8, "precision": "fp32", "sheets": 1, "sample": {"steps": 2}}


def training(data, run, steps=STEPS, **asked):
    return train(str(data), Recipe(**ASKED | asked, steps=steps), run=run)


def weights(run):
    return {part: checkpoint.read(checkpoint.newest(run / "checkpoints"), part) for part in ("model", "ema")}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toys.write(tmp_path_factory.mktemp("data") / "skies")


@pytest.fixture(scope="module")
def messages():
    return []


@pytest.fixture(scope="module")
def run(data, tmp_path_factory, messages):
    folder = tmp_path_factory.mktemp("runs") / "skies"
    return finished(
        training(data, folder), lambda event: messages.append(event) if isinstance(event, Message) else None
    )


def closed_at(step, work):
    """Training that is left after an update, with a checkpoint of it."""
    for event in work:
        if isinstance(event, Update) and event.step == step:
            work.close()


def check_the_quarter(run, data, folder):
    closed_at(QUARTER, training(data, folder))
    average = {name: value.half() for name, value in weights(folder)["ema"].items()}
    assert same(read_earlier(run / EARLIER), average)


def test_it_is_the_average_after_a_quarter_of_the_updates(run, data, tmp_path, messages):
    check_the_quarter(run, data, tmp_path / "left")
    line = next(event.text for event in messages if event.text.startswith(EARLIER))
    size = (run / EARLIER).stat().st_size
    assert f"({size / 1e6:.1f} MB): the average after {QUARTER} updates" in line
    assert size < 0.6 * (checkpoint.newest(run / "checkpoints") / "ema.safetensors").stat().st_size


@pytest.mark.parametrize("share", [0.5, 1.0], ids=["after half", "never"])
def test_an_average_of_another_update_is_caught(data, tmp_path, monkeypatch, share):
    monkeypatch.setattr(marks, "EARLY", share)
    wrong = finished(training(data, tmp_path / "wrong"))
    with pytest.raises((AssertionError, DamagedError)):
        check_the_quarter(wrong, data, tmp_path / "left")


def test_a_run_is_what_it_was_without_and_goes_on_bit_for_bit(run, data, tmp_path, monkeypatch):
    for at in (1, 5):
        halves = tmp_path / f"halves-{at}"
        closed_at(at, training(data, halves))
        finished(training(data, halves))
        assert same(read_earlier(halves / EARLIER), read_earlier(run / EARLIER))
        assert all(same(weights(halves)[part], tensors) for part, tensors in weights(run).items())
    monkeypatch.setattr(DiffusionFamily, "autoguided", False)
    without = finished(training(data, tmp_path / "without"))
    assert not (without / EARLIER).exists()
    assert all(same(weights(without)[part], tensors) for part, tensors in weights(run).items())


def test_what_a_run_has_gone_back_behind_is_forgotten(tmp_path):
    save_earlier(tmp_path, {"w": torch.ones(3), "n": torch.tensor(7)}, 10)
    forget_later(tmp_path, 10)
    found = read_earlier(tmp_path / EARLIER)
    assert (found["w"].dtype, int(found["n"])) == (torch.float16, 7)
    forget_later(tmp_path, 9)
    assert not (tmp_path / EARLIER).exists()


def test_runs_that_cannot_use_it_have_none(data, tmp_path):
    encoder = {"kind": "autoencoder", "autoencoding": {"factor": 2, "latent": 3, "width": 16}}
    other = Recipe(**{name: ASKED[name] for name in ("batch", "precision", "sheets")}, **encoder, steps=4)
    assert not (finished(train(str(data), other, run=tmp_path / "codes")) / EARLIER).exists()
    assert not marks.earlier_steps(Recipe(steps=3), 1)
    assert marks.earlier_steps(Recipe(steps=1030), 2) == range(258, 516)


def test_auto_is_autoguidance_by_it(run):
    system = ebb.load(run)
    weak = dataclasses.replace(system).earlier()
    assert same(weak.state_dict(), {name: value.float() for name, value in read_earlier(run / EARLIER).items()})
    by_name = system.sample(3, guidance=2.5, guides=("auto",))
    torch.testing.assert_close(by_name, system.sample(3, guide=autoguide(weak, 2.5)))
    assert not torch.equal(by_name, system.sample(3))
    assert not torch.equal(by_name, system.sample(3, guidance=2.5))
    assert system.sample(3, guidance=1.0).equal(system.sample(3))
    with counted(*system.networks(system.settled(guidance=2.5, guides=("auto",)))) as seen:
        system.sample(3, guidance=2.5, guides=("auto",))
    assert seen == [2 * 2 * 3], "two steps of two networks"
    how = system.settled(guidance=2.5, guides=("auto",))
    assert Editor.of(system, guidance=2.5, guides=("auto",)).sampling == how, "nothing need be asked for"


def test_it_is_read_when_it_is_asked_for(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / EARLIER).write_bytes(b"no tensors")
    system = ebb.load(copy)
    assert system.sample(1).shape == (1, *system.shape)
    with pytest.raises(DamagedError, match=f"{EARLIER} cannot be read"):
        system.sample(1, guidance=2.0, guides=("auto",))
    save_earlier(copy, {"w": torch.ones(3)}, 2)
    with pytest.raises(DamagedError, match="does not fit the run"):
        ebb.load(copy).sample(1, guidance=2.0, guides=("auto",))


def test_without_it_auto_is_refused_with_the_way_out(run, data, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / EARLIER).unlink()
    with pytest.raises(UsageError, match=r"(?s)there is none.*ebb sample RUN --guidance 2 --guide auto"):
        ebb.load(copy).sample(1, guidance=2.0, guides=("auto",))
    with pytest.raises(UsageError, match=r"(?s)auto is of guidance, which is off.*--guidance 2"):
        ebb.load(run).sample(1, guides=("auto",))
    with pytest.raises(UsageError, match="there is none"):
        finished(training(data, tmp_path / "run", sample={"guidance": 2.0, "guides": ("auto",)}))


def test_what_is_shared_and_tidied_is_not_guided_by_it(run, tmp_path):
    """A run that samples by it is exported without: classifier-free guidance would be another thing."""
    copy = shutil.copytree(run, tmp_path / "copy")
    how = ebb.load(run).settled(guidance=2.0, guides=("auto", "temperature(0.9)"))
    (copy / "sampling.json").write_text(json.dumps({"sampling": how.model_dump()}))
    assert ebb.load(copy).sampling == how
    export(copy, tmp_path / "shared")
    alone = ebb.load(tmp_path / "shared")
    assert (alone.sampling.guidance, alone.sampling.guides) == (1.0, ("temperature(0.9)",))
    assert "auto" not in (tmp_path / "shared" / "card.md").read_text()
    torch.testing.assert_close(alone.sample(1), ebb.load(run).sample(1, guides=("temperature(0.9)",)))
    tidied(copy, ("earlier",))
    assert not (copy / EARLIER).exists()
