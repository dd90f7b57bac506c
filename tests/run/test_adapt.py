"""From a run to an adapter of it: what it learns is its own, the base stays to the bit, and what cannot be is refused."""

from __future__ import annotations

import json
import shutil
from contextlib import closing

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from ebb.adapt.low_rank import LowRank
from ebb.data.of_run import data_of, reading
from ebb.doctor.diagnose import diagnose
from ebb.doctor.run_adapter import check_base_missing
from ebb.doctor.run_subject import RunSubject
from ebb.errors import DataError, Exit, UsageError
from ebb.events import Update, finished
from ebb.recipe.document import from_yaml, validated
from ebb.recipe.recipe import AdapterRecipe, AutoencoderRecipe, DiffusionRecipe, FewStepRecipe
from ebb.run.adapting import beside_base
from ebb.run.train import train
from ebb.store import checkpoint
from ebb.store.earlier import save_earlier
from ebb.system.system import load
from tests.command import ebb

SMALL = {"batch": 8, "precision": "fp32", "sheets": 1, "steps": 2}
NETWORK = {"width": 32, "depth": 1}


def pictures(folder, count, seed):
    """Pictures of noise as files."""
    folder.mkdir(parents=True)
    for i, one in enumerate(np.random.default_rng(seed).integers(0, 255, (count, 8, 8), dtype=np.uint8)):
        Image.fromarray(one).save(folder / f"{i}.png")
    return folder


def adapted(root, data="sevens", base="base", run=None, **options):
    """An adapter's run of a few updates."""
    asked = AdapterRecipe(adapts=str(root / base), **SMALL | {"prior": 8} | options)
    return finished(train(root / data, asked, run=run or beside_base(root / base, str(root / data))))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("adapt"), np.random.default_rng(0)
    np.savez(root / "data.npz", images=rng.integers(0, 255, (24, 8, 8), dtype=np.uint8), labels=np.arange(24) % 2)
    for name, seed in (("base", 0), ("other", 1)):
        asked = DiffusionRecipe(network=NETWORK, sample={"steps": 2}, seed=seed, **SMALL)
        finished(train(root / "data.npz", asked, run=root / name))
    pictures(root / "sevens", 24, 1)
    pictures(root / "eights", 6, 2)
    adapted(root)
    adapted(root, "eights", addition={"rank": 2})
    return root


@pytest.mark.parametrize(
    ("chosen", "asked", "scale"),
    [
        ({"guidance": 1.5}, {}, 1.5),
        ({"guidance": 1.5}, {"sample": {"steps": 3}}, 1.0),
        ({"guidance": 1.5, "guides": ["auto"]}, {}, 1.0),
    ],
)
def test_alone_it_samples_as_its_base_has_chosen(home, tmp_path, chosen, asked, scale):
    """Unless it is told how, and by no earlier average of the base's."""
    base = shutil.copytree(home / "base", tmp_path / "guided")
    save_earlier(base, load(base).model.module.state_dict(), 1)
    (base / "sampling.json").write_text(json.dumps({"sampling": load(base).sampling.model_dump() | chosen}))
    run = adapted(home, base=base, run=tmp_path / "run", **asked)
    assert load(run).sampling == from_yaml(run / "run.yaml")[0].sample
    assert load(run).sampling.guidance == scale
    if scale != 1:
        assert load(run).sampling == load(base).sampling
        assert load(run).sampling == load(base, adapters=[run]).sampling


def drawn(system, **how):
    return system.sample(4, seed=3, **how)


def numbers(folder, part="ema"):
    """How many numbers a part of a checkpoint has."""
    return sum(tensor.numel() for tensor in checkpoint.read(checkpoint.newest(folder / "checkpoints"), part).values())


def test_the_bases_own_samples_are_learnt_where_nobody_asks_for_them(home, monkeypatch):
    """As many as where they are asked for: the same weights, and others than without any."""
    monkeypatch.setattr("ebb.recipe.few_numbers.LEARNT_BESIDES", 8)
    weights = {
        name: checkpoint.read(
            checkpoint.newest(
                adapted(home, run=home / f"prior-{name}", prior=prior, addition={"reach": "all"}) / "checkpoints"
            ),
            "ema",
        )
        for name, prior in (("open", None), ("asked", 8), ("none", 0))
    }
    one, same, other = (torch.cat([each.flatten() for each in weights[name].values()]) for name in weights)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_what_is_new_alone_changes_nothing_else(home):
    """Nobody asked, and all pictures are sevens: other labels, and none, are drawn to the bit; a few of both too."""
    run = adapted(home, run=home / "alone", prior=None, optimiser={"lr": 0.1})
    recipe, base = from_yaml(run / "run.yaml")[0], load(home / "base")
    assert (recipe.prior, recipe.addition.reach) == (0, "new")
    for system in (load(run), load(home / "base", adapters=[run])):
        for label in ("0", "1", None):
            given = {"given": {"label": [label] * 4}}
            assert torch.equal(drawn(system, **given), drawn(base, **given)), label
        mixed = drawn(system, label=["0", "sevens", "1", "sevens"])
        torch.testing.assert_close(mixed[::2], drawn(base, label=["0", "0", "1", "0"])[::2], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(mixed[1::2], drawn(base, given={"label": [None] * 4})[1::2], atol=1e-3)
    again = adapted(home, run=home / "alone", prior=None, optimiser={"lr": 0.1})
    assert again == run, "the same call finds it finished"


def test_only_what_is_put_on_is_trained_averaged_and_saved(home):
    base, run = load(home / "base"), load(home / "base-sevens")
    size = run.model.addition.size
    assert size <= 0.03 * sum(p.numel() for p in base.denoiser.parameters()), "the rank is chosen for that"
    assert numbers(home / "base-sevens") == numbers(home / "base-sevens", "model") == size
    assert numbers(home / "base-sevens", "optim") <= 2 * size + 1000
    assert from_yaml(home / "base-sevens" / "run.yaml")[1]["origins"][0]["role"] == "base"


def test_the_base_stays_as_it_was_and_an_adapter_of_nothing_is_the_base(home):
    base = load(home / "base")
    for amount in ("", ":1.0", ":0.5", ":0"):
        some = load(home / "base", adapters=[f"{home / 'base-sevens'}{amount}"])
        same = torch.equal(drawn(some, label="0"), drawn(base, label="0"))
        assert same == (amount == ":0"), amount
    whole = load(home / "base", adapters=[home / "base-sevens"])
    assert torch.equal(drawn(whole, label="sevens"), drawn(load(home / "base-sevens"), label="sevens"))


def test_a_changed_weight_is_computed_once_for_all_steps(home, monkeypatch):
    """And anew for the next draw, so that what was trained meanwhile is heard."""
    put, computed, first = load(home / "base", adapters=[home / "base-sevens"]), [], LowRank.changed
    monkeypatch.setattr(LowRank, "changed", lambda change, weight: computed.append(change) or first(change, weight))
    before = drawn(put, label="sevens", steps=3)
    layers = len(put.model.module.parts["low_rank"].changes)
    assert len(computed) == layers
    with torch.no_grad():
        for parameter in put.model.module.parameters():
            parameter.add_(0.1)
    assert not torch.equal(drawn(put, label="sevens", steps=3), before)
    assert len(computed) == 2 * layers


def test_several_bring_their_labels_and_add_up(home):
    both = [home / "base-sevens", home / "base-eights"]
    one, other = load(home / "base", adapters=both), load(home / "base", adapters=both[::-1])
    assert one.labels.names == ("0", "1", "sevens", "eights")
    assert other.labels.names == ("0", "1", "eights", "sevens")
    for label in ("1", "sevens", "eights", None):
        given = {"given": {"label": [label] * 4}}
        assert torch.allclose(drawn(one, **given), drawn(other, **given), atol=1e-5), label
    only = load(home / "base-sevens")
    assert not torch.allclose(drawn(one, label="sevens"), drawn(only, label="sevens"), atol=1e-3)


def test_what_was_stopped_goes_on_as_if_it_had_not_been(home):
    """Closed after an update it has saved that; the same call goes on from there."""
    whole = adapted(home, run=home / "whole", steps=3)
    asked = AdapterRecipe(adapts=str(home / "base"), **SMALL | {"prior": 8, "steps": 3})
    with closing(train(home / "sevens", asked, run=home / "stopped")) as events:
        next(event for event in events if isinstance(event, Update) and event.step == 1)
    assert checkpoint.newest(home / "stopped" / "checkpoints").name == "step-00000001"
    finished(train(home / "sevens", asked, run=home / "stopped"))
    one, other = (checkpoint.read(checkpoint.newest(run / "checkpoints"), "ema") for run in (whole, home / "stopped"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_label_that_the_base_knows_is_that_one(home):
    run = load(adapted(home, run=home / "ones", label="1", addition={"rank": 1, "form": "dora"}))
    assert run.labels.names == ("0", "1")


WRONG = {
    "another base": (lambda h: load(h / "other", adapters=[h / "base-sevens"]), "was made for .*base, whose weights"),
    "two of one name": (
        lambda h: load(h / "base", adapters=[h / "base-sevens"] * 2),
        "two adapters are called base-sev",
    ),
    "no adapter": (lambda h: load(h / "base", adapters=[h / "other"]), "is a model, and no adapter"),
    "nothing there": (lambda h: load(h / "base", adapters=[h / "none"]), "there is no adapter"),
    "rank 0": (lambda h: adapted(h, addition={"rank": 0}), "addition.rank must be between"),
    "new, and nothing is": (
        lambda h: adapted(h, run=h / "refused", label="1", prior=None, addition={"reach": "new"}),
        "labels that the run knows already",
    ),
    "new, and all beside": (
        lambda h: adapted(h, run=h / "refused", addition={"reach": "new"}),
        "nothing is learnt besides",
    ),
    "no run": (lambda h: adapted(h, base="none"), "there is no run"),
    "of an adapter": (lambda h: adapted(h, base="base-sevens"), "is an adapter already"),
    "no base": (lambda h: finished(train(h / "sevens", AdapterRecipe(), run=h / "x")), "put on a finished run"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_is_refused_in_a_line(home, wrong):
    act, why = WRONG[wrong]
    with pytest.raises((UsageError, ValidationError), match=why):
        act(home)


def test_a_picture_says_what_was_on_and_is_made_again(home, capsys, monkeypatch):
    monkeypatch.chdir(home)
    put = ("--adapter", "base-sevens:0.5", "--label", "sevens", "--n", 2, "--out")
    assert ebb("sample", "base", *put, "a.png") == 0
    assert ebb("show", "a.png") == 0
    assert "base-sevens:0.5" in capsys.readouterr().out
    assert ebb("sample", "--from", "a.png", "--out", "b.png") == 0
    assert (home / "a.png").read_bytes() == (home / "b.png").read_bytes()
    assert ebb("sample", "base-sevens", "--n", 1, "--out", "c.png") == 0
    assert ebb("evaluate", "base-sevens", "--n", 12, "--likelihood", 0) == 0


def test_the_verb(home, capsys, monkeypatch):
    monkeypatch.chdir(home)
    assert ebb("adapt", "base", "eights", "--steps", 1, "--batch", 8, "--prior", 0, "--run", "verb", "--rank", 1) == 0
    out = capsys.readouterr().out
    assert "ebb sample base --adapter verb" in out
    assert "% of base" in out
    assert ebb("adapt", "base", "eights", "--steps", 1, "--rank", 0) == 2
    assert ebb("adapt", "base", "eights", "--steps", 1, "--batch", 8, "--run", "new", "--rank", 1) == 0
    capsys.readouterr()
    assert ebb("export", "new", "given-away") == 2
    assert "--reach all" in capsys.readouterr().err


def test_a_base_that_moved_is_looked_for_beside_and_else_named(home, tmp_path):
    for name in ("base", "base-sevens"):
        shutil.copytree(home / name, tmp_path / "moved" / name)
    contract = json.loads(next((tmp_path / "moved" / "base-sevens").rglob("system.json")).read_text())
    assert contract["base"]["run"] == str(home / "base")
    load(tmp_path / "moved" / "base-sevens")
    shutil.copytree(home / "other", tmp_path / "alone" / "base")
    shutil.copytree(home / "base-sevens", tmp_path / "alone" / "base-sevens")
    load(tmp_path / "alone" / "base-sevens"), "where it was"
    shutil.move(home / "base", home / "gone")
    try:
        with pytest.raises(UsageError, match="which is not there"):
            load(tmp_path / "alone" / "base-sevens")
    finally:
        shutil.move(home / "gone", home / "base")


@pytest.mark.parametrize("instead", [None, "other"])
def test_the_doctor_finds_a_base_that_was_moved_away_or_is_another(home, instead):
    shutil.move(home / "base", home / "gone")
    try:
        if instead is not None:
            shutil.copytree(home / instead, home / "base")
        found = diagnose(home / "base-sevens")
        first, *brought = found.findings
        assert first.name == "base missing"
        assert first.advice.startswith("bring it back")
        assert all("it comes of what stands above" in each.cause for each in brought)
        assert found.code == Exit.ERROR
    finally:
        shutil.rmtree(home / "base", ignore_errors=True)
        shutil.move(home / "gone", home / "base")
    assert check_base_missing(RunSubject(home / "base-sevens")) is None


def test_an_adapter_of_an_autoencoder_is_refused(home):
    asked = AutoencoderRecipe(autoencoding={"width": 8, "factor": 2, "latent": 2}, **SMALL)
    codec = finished(train(home / "sevens", asked, run=home / "codec"))
    with pytest.raises(UsageError, match="--adapts is of a diffusion model"):
        adapted(home, base="codec")
    with pytest.raises(UsageError, match="was made for"):
        load(codec, adapters=[home / "base-sevens"])


CLUSTERS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "top": (0.0, 2.0)}
SPREAD = 0.15


def cluster(name, count, seed):
    """Points around a known place."""
    return np.random.default_rng(seed).normal(CLUSTERS[name], SPREAD, (count, 2))


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A model of two clusters with labels, and rows of a third without."""
    root = tmp_path_factory.mktemp("plane")
    rows = [f"{x},{y},{name}" for name in ("left", "right") for x, y in cluster(name, 300, len(name))]
    (root / "plane.csv").write_text("\n".join(["x,y,side", *rows]))
    (root / "top.csv").write_text("\n".join(["x,y", *(f"{x},{y}" for x, y in cluster("top", 50, 9))]))
    network = {"kind": "mlp", "width": 64, "depth": 2}
    asked = DiffusionRecipe(network=network, steps=400, batch=128, precision="fp32", sheets=1)
    finished(train(root / "plane.csv", asked, run=root / "base"))
    return root


def apart(system, name):
    """How far the mean of samples of a label is from where it was drawn around, in its deviations."""
    made = system.modality.stored(system.sample(200, label=name, seed=5))
    return np.linalg.norm(made.mean(0) - CLUSTERS[name]) / SPREAD


def test_a_third_cluster_is_learnt_and_the_two_others_stay_where_they_are(plane):
    """Known places: with samples of the base besides, all three; without them the others follow."""
    found = {}
    for prior in (128, 0):
        asked = AdapterRecipe(
            adapts=str(plane / "base"), steps=200, batch=64, prior=prior, precision="fp32", sheets=1,
            addition={"rank": 4},
        )  # fmt: skip
        found[prior] = load(finished(train(plane / "top.csv", asked, run=plane / f"top-{prior}")))
    system = found[128]
    assert system.labels.names == ("left", "right", "top")
    assert apart(system, "top") < 1
    stays = [max(apart(each, name) for name in ("left", "right")) for each in found.values()]
    assert stays[0] < 0.7
    assert stays[0] < stays[1] / 2, "what nobody rehearses is forgotten"


def test_rows_of_another_table_are_refused(plane):
    (plane / "other.csv").write_text("\n".join(["x,z", *(f"{x},{y}" for x, y in cluster("top", 20, 1))]))
    asked = AdapterRecipe(adapts=str(plane / "base"), **SMALL)
    with pytest.raises(DataError, match="has no column 'y'"):
        finished(train(plane / "other.csv", asked, run=plane / "other"))


def test_what_is_exported_needs_no_base(home, tmp_path, capsys, monkeypatch):
    """Changes, labels and what is told become weights of a model of its own, which answers as both together."""
    monkeypatch.chdir(home)
    assert ebb("export", "base-sevens", tmp_path / "whole.safetensors") == 0
    one, whole = load(home / "base-sevens"), load(tmp_path / "whole.safetensors")
    assert whole.labels == one.labels
    for label in ("0", "sevens", None):
        given = {"given": {"label": [label] * 4}}
        assert torch.allclose(drawn(one, **given), drawn(whole, **given), atol=1e-4), label
    data = data_of(tmp_path / "whole.safetensors", str(home / "sevens"))
    assert data.names == ("sevens",), "it is read as it was taught"


def test_what_a_control_is_found_by_goes_with_what_is_exported():
    """How the data of a run is read, from what an export has of it."""
    asked = AdapterRecipe(adapts="base", addition={"kind": "control", "extractor": "edges(sigma=2)"})
    again = validated(reading(asked, {"fingerprint": ""})["recipe"], "here")
    assert again.shown() == ((), ("edges(sigma=2)",))
    assert again.called("sevens", False) is None


def test_few_steps_are_an_adapter_of_their_teacher(home):
    """It begins as the teacher, lands in one step, adds to other adapters, and may be put on other weights."""
    asked = FewStepRecipe(teacher=str(home / "base"), adapter="lora", rank=2, **SMALL)
    run = finished(train(home / "data.npz", asked, run=home / "base-few-lora"))
    base, few = load(home / "base"), load(home / "base", adapters=[run])
    assert few.sampling.solver.startswith("jump")
    assert torch.equal(drawn(few, label="0", steps=1), drawn(load(run), label="0", steps=1))
    numbers = sum(p.numel() for p in base.denoiser.parameters())
    assert few.model.module.size < numbers / 2
    both = load(home / "base", adapters=[run, home / "base-sevens"])
    assert both.labels.names == ("0", "1", "sevens")
    drawn(both, label="sevens", steps=2, guidance=2)
    drawn(load(home / "other", adapters=[run]), label="1", steps=1)
    off = load(home / "base", adapters=[f"{run}:0"])
    x, t = torch.randn(2, 1, 8, 8), torch.full((2,), 0.5)
    cond = {"label": torch.tensor([0, 1])}
    told = {"way": torch.full((2,), 0.5), "guidance": torch.full((2,), 0.5)}
    assert torch.equal(off.denoiser(x, t, {**cond, **told}), base.denoiser(x, t, cond))
    several = [f"{run}:0.5", home / "base-sevens"]
    put = load(home / "base", adapters=several)
    own = put.alone()
    assert torch.allclose(drawn(put, label="sevens"), drawn(own, label="sevens"), atol=1e-4)
    halving = asked.model_copy(update={"method": "progressive"})
    with pytest.raises(UsageError, match="keeps copies"):
        finished(train(home / "data.npz", halving, run=home / "copies"))
