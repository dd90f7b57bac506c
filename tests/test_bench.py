"""What the scripts of bench count and compute, without training anything."""

import itertools
import math
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ebb.networks.text_encoder import TextEncoder

from .understand.test_concepts import system

QUALITY = Path(__file__).parents[1] / "bench" / "quality"
NAMES = ("contenders", "run", "table", "train")


@pytest.fixture(scope="module")
def quality():
    """The scripts, as modules by name."""
    sys.path.insert(0, str(QUALITY))
    try:
        yield {name: import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(QUALITY))
        for name in NAMES:
            sys.modules.pop(name, None)


def line(name, seed, asked, n, distance, floor=0.1):
    distances = {"Fréchet distance": {"value": distance, "floor": floor}}
    return {
        "data": "mnist", "contender": name, "seed": seed, "asked": asked, "n": n, "seconds": 1.1 * asked,
        "settings": {"row": "tuned" if "tuned" in name else "default"}, "training": {"distances": distances},
    }  # fmt: skip


def test_a_line_that_is_there_is_not_made_again(quality):
    """Every part of its key counts: another seed, mark, number of samples or contender is still to do."""
    (run,) = quality["run"].schedule(["mnist"], 1, ["diffusers"], (10, 20, 30), [60, 120])
    assert run.left([]) == {"60": [10], "120": [20]}
    others = [("diffusers", 1, 60.0, 10), ("diffusers", 0, 30.0, 10), ("diffusers", 0, 60.0, 20), ("ebb", 0, 60.0, 10)]
    assert run.left([line(*key, 1.0) for key in others]) == run.left([])
    assert run.left([line("diffusers", 0, 60.0, 10, 1.0)]) == {"120": [20]}
    assert run.left([line("diffusers", 0, 60.0, 10, 1.0), line("diffusers", 0, 120.0, 20, 1.0)]) == {}


def test_lines_of_another_machine_are_neither_counted_nor_compared(quality):
    run, table = quality["run"], quality["table"]
    mine = run.here("cpu")
    machines = (mine, {"cpu": "another"}, {"cpu": "another"}, {"cpu": "another", "gpu": "a"}, mine | {"gpu": "a"})
    names = ("ebb", "ebb", "diffusers", "ebb", "ebb")
    lines = [
        line(name, 0, 60.0, 10, 1.0) | {"machine": on, "date": "2026-01-01"}
        for name, on in zip(names, machines, strict=True)
    ]
    found = table.by_machine(lines)
    assert sorted(map(len, found.values())) == [1, 1, 1, 2]
    assert next(iter(found)) == "another"
    assert found[run.machine_of({"machine": mine})] == lines[:1]


def test_contenders_alternate_within_a_seed_and_ebb_runs_once_for_each_budget(quality):
    run = quality["run"]
    runs = list(run.schedule(["mnist"], 2, ["ebb", "diffusers"], (10, 20, 30)))
    assert [r.seed for r in runs] == sorted(r.seed for r in runs)
    ours = [r for r in runs if r.name == "ebb" and r.seed == 1]
    assert [r.marks for r in ours] == [(budget,) for budget in run.BUDGETS["mnist"]]
    assert [r.counts for r in ours] == [((20,),)] * (len(ours) - 1) + [((20, 30),)]
    (peer,) = (r for r in runs if r.name == "diffusers" and r.seed == 1)
    assert peer.marks == run.MARKS["mnist"]
    assert peer.counts == ((10,),) * 3 + ((20,),)
    assert len({r.folder for r in runs}) == len(runs)
    *_, alike = run.schedule(["mnist"], 1, ["ebb"], (10, 20, 20))
    assert alike.counts == ((20,),)


def test_time_to_a_distance_is_exact_on_a_power_law(quality):
    """distance = 100/seconds², read between marks; linear interpolation would be off by a quarter."""
    curve = [(t, 100 / t**2) for t in (1.0, 4.0, 16.0)]
    how, seconds = quality["table"].seconds_to(curve, 100 / 7**2)
    assert how == "="
    assert math.isclose(seconds, 7)
    assert quality["table"].seconds_to(curve, 200.0) == ("<", 1.0)
    assert quality["table"].seconds_to(curve, 0.1) == (">", 16.0)


def test_the_table_takes_medians_the_best_peer_and_the_fewest_samples(quality):
    lines = [line("ebb", seed, 60.0, n, d) for seed, d in enumerate((1.0, 2.0, 9.0)) for n in (20, 30)]
    lines += [line("ebb", seed, 15.0, 20, 32.0) for seed in range(3)]
    lines += [line(name, 0, 60.0, 20, d) for name, d in (("a", 50.0), ("b", 8.0), ("c, tuned", 4.0))]
    lines.append(line("c, tuned", 0, 60.0, 30, 5.0))
    for each in lines:
        each["training"]["distances"]["Fréchet distance"]["value"] *= 1 if each["n"] == 20 else 100
    (first, last) = quality["table"].curve(lines, "ebb")
    assert (first.seconds, first.distance.value) == (16.5, 32.0)
    assert (last.distance.value, last.distance.low, last.distance.high, last.distance.count) == (2.0, 1.0, 9.0, 3)
    rows = quality["table"].goals(lines, "training")
    assert "against b after" in rows[0][0]
    assert rows[0][1].endswith("0.25×")
    assert rows[1][1] == "33 s (29 s – > 66 s): 2× sooner"  # each seed on its own curve; one never comes there
    assert "against c, tuned after" in rows[2][0]
    assert rows[2][1].endswith("0.5×")
    assert rows[4] == ("the same at N = 30", "200 (100 – 900) against 500: 0.4×")
    assert rows[5][1].endswith("20×")
    assert rows[6][1].endswith("2e+03×")


def test_learning_rates_begin_peak_and_end_where_they_should(quality):
    factor = quality["train"].factor
    assert [factor("constant", step, 0, 0.5) for step in (0, 10_000)] == [1, 1]
    assert [factor("cosine", step, 0, 0) for step in (0, 250, 500, 5000)] == [0, 0.5, 1, 1]
    assert math.isclose(factor("cosine", 10**6, 50, 0), 0.5)
    assert factor("cosine", 10**6, 100, 0) == 0
    shape = [factor("budget", 10**6, 0, spent) for spent in (0, 0.025, 0.05, 0.75, 0.875, 1, 1.1)]
    np.testing.assert_allclose(shape, [0, 0.5, 1, 1, 0.5, 0, 0], atol=1e-12)


def test_a_pass_sees_every_image_once_and_the_next_in_another_order(quality):
    found = quality["train"].batches(12, 4, np.random.default_rng(0))
    first, second = (np.concatenate(list(itertools.islice(found, 3))) for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(12))
    assert list(first) != list(second)


def test_every_peer_has_a_default_and_a_tuned_row_on_both_data_sets(quality):
    for data, peers in quality["contenders"].PEERS.items():
        assert set(peers) == set(quality["run"].NAMES) - {"ebb"}, data
        for name, settings in peers.items():
            assert name == settings.package + (", tuned" if settings.row == "tuned" else "")
            assert settings.fast == (settings.rate == "budget") == (settings.row == "tuned")


def script(name, beside):
    """A script of bench as a module, with another beside it that it imports."""
    folder = str(QUALITY.parent)
    sys.path.insert(0, folder)
    try:
        yield import_module(name)
    finally:
        sys.path.remove(folder)
        for module in (name, beside):
            sys.modules.pop(module, None)


@pytest.fixture(scope="module")
def words():
    """The script of remedies."""
    yield from script("words", "scenes")


@pytest.fixture(scope="module")
def few_peers():
    """The script of few steps by others."""
    yield from script("few_peers", "few")


def answering(answer):
    """A network of diffusers' form, whose F(x, t) is given."""
    return lambda x, t, labels: SimpleNamespace(sample=answer(x, t))


def test_the_preconditioning_of_a_peer_is_edms(few_peers):
    """Without a network it is the denoiser of N(0, 0.5²), at which EDM's loss is 1 at every noise level."""
    torch.manual_seed(0)
    x0, labels = 0.5 * torch.randn(4000, 1, 4, 4), torch.zeros(4000)
    silent = answering(lambda x, t: torch.zeros_like(x))
    assert float(few_peers.Preconditioned(silent).denoising(x0, labels)) == pytest.approx(1, rel=0.02)
    assert float(few_peers.Preconditioned(silent, std=1.0).denoising(x0, labels)) != pytest.approx(1, rel=0.1)


def test_a_peer_is_consistent_where_all_noise_goes_to_one_picture(few_peers):
    """D = m has no loss and makes m in any number of steps, asked at the recipe's levels; D moving with t has one."""
    mean, asked = 0.3, []

    def towards(x, t, wave=0.0):  # F of D = m + wave·log σ, by hand: D = c_skip·x + c_out·F, x given as c_in·x
        sigma = (4 * t).exp()[:, None, None, None]
        asked.append(float(sigma[0]))
        both = (sigma**2 + 0.25).sqrt()
        return (mean + wave * t[:, None, None, None] - 0.25 / both * x) * both / (0.5 * sigma)

    model = few_peers.Preconditioned(answering(towards))
    x0 = torch.full((64, 1, 4, 4), mean)
    assert float(model.consistency(x0, torch.zeros(64))) < 1e-2
    moving = few_peers.Preconditioned(answering(lambda x, t: towards(x, t, 0.1)))
    assert float(moving.consistency(x0, torch.zeros(64))) > 0.1
    asked.clear()
    torch.testing.assert_close(model.sample(torch.zeros(64), (1, 4, 4), 2), x0, rtol=0, atol=1e-3)
    assert asked == pytest.approx([80.0, 0.821], rel=1e-4)


def test_a_remedy_of_what_was_missing_leaves_alone_what_is_there(words):
    made, texts = listener(), ["a red circle and a blue square", "a red square and a blue circle"]
    every = {remedy.name: remedy for remedy in words.remedies(made, texts, 2.0)}
    first, mended = next(iter(every.values())), every["a scale for each prompt: + 1 for what was missing"]
    x, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.full((2,), 0.5)
    cond = {"text": made.null()["text"].expand(2, -1)}
    there = np.ones((2, 2), bool)
    as_it_was = first.guide(there)(made.denoiser)(x, t, cond)
    torch.testing.assert_close(mended.guide(there)(made.denoiser)(x, t, cond), as_it_was)
    there[1, 0] = False
    changed = mended.guide(there)(made.denoiser)(x, t, cond)
    torch.testing.assert_close(changed[0], as_it_was[0])
    assert not torch.allclose(changed[1], as_it_was[1])


def test_a_louder_embedding_is_louder_while_it_lasts(words):
    made = listener()
    reader = next(module for module in made.denoiser.network.modules() if isinstance(module, TextEncoder))
    ids = made.conditions({"text": ["a red circle"]}, 1)["text"]
    before = reader(ids).rows
    with words.louder(made.denoiser.network, 3.0):
        loud = reader(ids).rows
    torch.testing.assert_close(loud[:, 1:], 3 * before[:, 1:])
    torch.testing.assert_close(loud[:, :1], before[:, :1])
    assert torch.equal(reader(ids).rows, before)


def listener():
    """A network of texts with weights that are no one's."""
    made = system()
    with torch.no_grad():
        for parameter in made.denoiser.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return made


def test_the_digit_that_a_run_is_to_be_taught_is_not_in_what_it_learns_from(tmp_path):
    sys.path.insert(0, str(QUALITY.parent))
    try:
        adapt = import_module("adapt")
    finally:
        sys.path.remove(str(QUALITY.parent))
    rows, labels, _ = adapt.written("digits", tmp_path, 7, None, 0)
    rest = np.load(tmp_path / "rest.npz")
    names = rest["label_names"].tolist()
    assert names == [str(digit) for digit in range(10) if digit != 7]
    assert len(rest["images"]) == (labels != 7).sum() == len(rows) - (labels == 7).sum()
    assert [int(names[at]) for at in rest["labels"]] == labels[labels != 7].tolist()
    shown = sorted((tmp_path / "sevens").iterdir())
    assert len(shown) == adapt.SHOWN
    assert all(labels[int(file.stem)] == 7 for file in shown)
    judge, _ = adapt.train_classifier(rows, labels, 10, seed=0, seconds=0.05)
    system = SimpleNamespace(
        modality=SimpleNamespace(stored=lambda x: x),
        sample=lambda count, label, seed: rows[labels == int(label)][:count],
    )
    assert adapt.right(system, "3", judge, 20).shape == (20,), "what a judge reads of samples"
    assert adapt.interval(np.array([1.0, 1.0, 0.0, 0.0])) == "50.0 ± 49.0"
