"""The guard decides as its formula says, a skipped update leaves no trace, and a healthy run never hears of it."""

import math
import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing import get_context

from ebb.data.loader import Batch
from ebb.networks.mlp import MLP
from ebb.process.bins import BINS, tally
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import Linear
from ebb.process.predict import velocity
from ebb.train.ema import EMA
from ebb.train.guard import FAINT, LEAST, RATE, WIDE, Circumstances, Guard, Skip, explain, poisoned, unsound
from ebb.train.loop import Descent, Training, updates
from ebb.train.muon import muon
from ebb.train.objectives.denoising import Denoising
from ebb.train.objectives.objective import Loss
from ebb.train.objectives.weights import WEIGHTS
from ebb.train.optimiser import WarmupDecay, adamw

from ..toys import Reads

NAN, INF = float("nan"), float("inf")


def series(seed, count=400, spikes=True):
    """Losses and gradient norms of a run that learns, with spikes, NaN and Inf in it."""
    rng = np.random.default_rng(seed)
    steps = np.arange(count)
    values = np.stack([1.5 / (1 + steps / 30) + 0.15, 5 / (1 + steps / 10) + 0.2]) * rng.lognormal(0, 0.3, (2, count))
    if spikes:
        for at in rng.choice(np.arange(0, count), 40, replace=False):
            values[rng.integers(2), at] = rng.choice([NAN, INF, 1e4, 30.0, 1e-3])
    return values.T


def by_the_formula(values):
    """The rule, in plain floats."""
    mean, deviation, count, found = [0.0, 0.0], [0.5, 0.5], 0, []
    for pair in values:
        now = [math.log(abs(v) + FAINT) for v in pair]
        above = [y - m if count else y - y for y, m in zip(now, mean, strict=True)]
        good = all(z <= max(WIDE * d, LEAST) for z, d in zip(above, deviation, strict=True))
        if good:
            rate = max(1 / (count + 1), RATE)
            mean = [m + rate * (y - m) for m, y in zip(mean, now, strict=True)]
            deviation = [d + RATE * (abs(z) - d) for d, z in zip(deviation, above, strict=True)]
            count += 1
        found.append(not good)
    return found


def decided(guard, values):
    return [bool(guard(*torch.tensor(pair, dtype=torch.float32))) for pair in values]


@pytest.mark.parametrize("seed", range(3))
def test_it_decides_as_its_formula_says(seed):
    values = series(seed)
    expected = by_the_formula(values)
    assert decided(Guard(), values) == expected
    assert 10 < sum(expected) < 40  # falls are not spikes


class Learns(Guard):
    """The mutant that takes bad updates into its running means, clamped so that they stay finite."""

    def __call__(self, loss, norm):
        bad = super().__call__(loss, norm)
        if bad:
            now = torch.log(torch.stack((loss, norm)).nan_to_num(1e6, 1e6) + FAINT)
            self.memory[:2].lerp_(now, RATE)
        return bad


class Trusts(Guard):
    """The mutant for which what is not finite is fine."""

    def __call__(self, loss, norm):
        return super().__call__(loss.nan_to_num(1, 1), norm.nan_to_num(1, 1))


class Narrow(Guard):
    """The mutant that sees an outlier in any large change, also in a fall."""

    def __call__(self, loss, norm):
        mean, deviation = self.memory[:2].clone(), self.memory[2:4].clone()
        low = (torch.log(torch.stack((loss, norm)) + FAINT) - mean < -WIDE * deviation).any()
        return super().__call__(loss, norm) | low


@pytest.mark.parametrize("mutant", [Learns, Trusts, Narrow])
def test_another_rule_is_told_apart(mutant):
    assert any(decided(mutant(), series(seed)) != by_the_formula(series(seed)) for seed in range(3))


def test_it_counts_bad_updates_in_a_row():
    guard, rows = Guard(), []
    for value in (1.0, NAN, NAN, 1.0, INF, NAN, 1e6, 1.0, NAN):
        guard(torch.tensor(value), torch.tensor(1.0))
        rows.append(guard.rows())
    assert rows == [(0, 0), (1, 1), (2, 2), (0, 2), (1, 2), (2, 2), (3, 3), (0, 3), (1, 3)]
    assert guard.usual() == pytest.approx((1.0, 1.0), rel=1e-3)


def reduced(rank, folder, answers):
    """One of two processes; only the second sees a NaN, and only the first a spike."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    guard = Guard()
    mine = {0: [1, 2, 1, 1e5, 1], 1: [1, 1, NAN, 1, 1]}[rank]
    found = [bool(guard(torch.tensor(float(v)), torch.tensor(1.0))) for v in mine]
    answers.put((found, guard.memory.tolist()))
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not hasattr(os, "fork") or not torch.distributed.is_gloo_available(), reason="needs fork and gloo")
def test_all_processes_decide_alike(tmp_path):
    context = get_context("fork")
    answers = context.SimpleQueue()
    workers = [context.Process(target=reduced, args=(rank, tmp_path, answers)) for rank in range(2)]
    for worker in workers:
        worker.start()
    first, second = answers.get(), answers.get()
    for worker in workers:
        worker.join(30)
    assert first == second
    assert first[0] == [False, False, True, True, False]


OPTIMISERS = {
    "adamw, fused": lambda model: adamw(model, 1e-2, 0.1),
    "muon": lambda model: muon(model, 1e-2, 0.1),
    "adam": lambda model: torch.optim.Adam(model.parameters(), 1e-2, foreach=False),
    "sgd with momentum": lambda model: torch.optim.SGD(model.parameters(), 1e-2, momentum=0.9),
}


def fresh(optimiser="adamw, fused", seed=0):
    torch.manual_seed(seed)
    model = NetworkDenoiser(MLP(2, width=32, depth=1), Linear(), velocity)  # 32: matrices for Muon
    return Training(model, OPTIMISERS[optimiser](model), EMA(model, ramp=0.2))


def batches(step):
    return Batch(torch.randn(16, 2, generator=torch.Generator().manual_seed(step)) + 1, {})


def copied(training):
    return {part: {k: v.clone() for k, v in tensors.items()} for part, tensors in training.state().items()}


def changed(before, after):
    """The names of the tensors that differ, bit by bit, without those that count."""
    counters = {"step", "seen", "guard"}
    return [
        f"{part} {name}"
        for part, tensors in after.items()
        for name, tensor in tensors.items()
        if (part, name) not in {("rng", counter) for counter in counters}
        and tensor.numpy().tobytes() != before[part][name].numpy().tobytes()
    ]


def struck(kind, value, at):
    """An objective and batches of which update `at` is bad: in its batch, its gradient, or a weight before it."""
    calls = iter(range(10**6))

    def objective(model, batch, generator):
        now = next(calls) == at
        if kind == "weight" and now:
            with torch.no_grad():
                list(model.parameters())[-2].view(-1)[0] = value
        loss = Denoising()(model, batch, generator)
        return loss._replace(value=loss.value * value if kind == "gradient" and now else loss.value)

    def data(step):
        batch = batches(step)
        if kind == "batch" and step == at:
            batch.x0[3, 1] = value
        return batch

    return objective, data


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("value", [NAN, INF, 1e4])
@pytest.mark.parametrize("kind", ["batch", "gradient"])
def test_a_skipped_update_leaves_no_trace(kind, value, optimiser):
    training = fresh(optimiser)
    objective, data = struck(kind, value, at=15)
    steps = updates(training, objective, data, steps=18)
    for _ in range(15):
        assert not next(steps).skipped
    before = copied(training)
    assert next(steps).skipped
    assert changed(before, training.state()) == []
    assert (training.step, training.seen) == (16, 16 * 16)
    assert not next(steps).skipped
    assert changed(before, training.state())
    assert unsound(training.state()) is None


def test_the_first_update_may_be_skipped_too():
    for optimiser in OPTIMISERS:
        training = fresh(optimiser)
        before = copied(training)
        step = next(updates(training, *struck("batch", NAN, at=0), steps=1))
        assert step.skipped
        moments = {f"optim {name}": tensor for name, tensor in training.state()["optim"].items()}
        assert {name for name in changed(before, training.state() | {"optim": {}})} == set()
        assert all(not tensor.any() for tensor in moments.values())


def test_without_the_guard_the_same_update_leaves_traces(monkeypatch):
    """The mutant: a guard that never says no."""
    monkeypatch.setattr(Guard, "__call__", lambda self, loss, norm: torch.tensor(False))
    training = fresh()
    objective, data = struck("batch", NAN, at=5)
    steps = updates(training, objective, data, steps=6)
    for _ in range(5):
        next(steps)
    before = copied(training)
    next(steps)
    found = changed(before, training.state())
    assert {name.split()[0] for name in found} == {"model", "ema", "optim"}
    assert unsound(training.state()) is not None


@pytest.mark.parametrize("value", [NAN, INF, 1e4])
def test_a_weight_that_is_lost_makes_every_update_bad_and_does_not_spread(value):
    training = fresh()
    objective, data = struck("weight", value, at=20)
    found = [bool(step.skipped) for step in updates(training, objective, data, steps=24)]
    assert found == [False] * 20 + [True] * 4
    assert training.guard.rows() == (4, 4)
    state = training.state()
    assert sum(int((~t.isfinite()).sum()) for t in state["model"].values()) == (0 if value == 1e4 else 1)
    assert unsound(state | {"model": {}}) is None
    assert (unsound(state) is None) == (value == 1e4)


class Waits(Guard):
    """The mutant that looks at its answer."""

    def __call__(self, loss, norm):
        return torch.tensor(bool(super().__call__(loss, norm)))


@pytest.mark.parametrize("optimiser", ["adamw, fused", "muon"])
def test_nothing_waits_for_the_guard(optimiser):
    reads = {}
    for guard in (Guard(), Waits()):
        training = fresh(optimiser)
        training.guard = guard
        steps = updates(training, *struck("batch", NAN, at=3), steps=5)
        next(steps)
        with Reads() as found:
            assert len(list(steps)) == 4
        reads[type(guard)] = found.count
    assert reads == {Guard: 0, Waits: 4}


@pytest.mark.parametrize("weight", ["unit", "vlb", pytest.param("min_snr", marks=pytest.mark.full)])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.full)])
def test_a_healthy_run_never_hears_of_it(seed, weight):
    """A high rate, a small batch, a loss of heavy tails, and a first step from scratch."""
    training, objective = fresh(seed=seed), Denoising(weight=WEIGHTS[weight])
    data = lambda step: Batch(batches(step + 1000 * seed).x0[:6], {})  # noqa: E731
    bad = [step.skipped for step in updates(training, objective, data, steps=120, rate=WarmupDecay(1e-2, 120, 12))]
    assert not torch.stack(bad).any()


def test_the_average_follows_by_its_formula_unless_told_to_stay():
    training = fresh()
    mine = [p.clone() for p in training.ema.model.parameters()]
    with torch.no_grad():
        for p in training.model.parameters():
            p.add_(torch.randn_like(p))
    training.ema.update(training.model, 16, 160, torch.tensor(True))
    assert all(torch.equal(a, b) for a, b in zip(mine, training.ema.model.parameters(), strict=True))
    training.ema.update(training.model, 16, 160, torch.tensor(False))
    share = 1 - 0.5 ** (16 / 32)
    for a, b, theirs in zip(mine, training.ema.model.parameters(), training.model.parameters(), strict=True):
        torch.testing.assert_close(b, a + share * (theirs - a))


def test_the_average_of_buffers_stays_too():
    model = nn.BatchNorm1d(2)
    ema = EMA(model)
    model.running_mean.fill_(NAN)
    ema.update(model, 1, 1, torch.tensor(True))
    assert torch.equal(ema.model.running_mean, torch.zeros(2))
    model.running_mean.fill_(3.0)
    ema.update(model, 1, 1)
    assert torch.equal(ema.model.running_mean, torch.full((2,), 3.0))


@pytest.mark.parametrize("part", ["model", "ema", "optim"])
def test_what_is_not_finite_is_named(part):
    training = fresh()
    for _ in updates(training, Denoising(), batches, steps=2):
        pass
    assert unsound(training.state()) is None
    name, tensor = [(n, t) for n, t in training.state()[part].items() if t.ndim > 1][-1]
    with torch.no_grad():
        tensor.view(-1)[0] = INF
    assert unsound(training.state()) == f"{part} {name}"


def test_levels_of_an_update_are_those_of_its_parts():
    training, seen = fresh(), []

    def objective(model, batch, generator):
        loss = Denoising()(model, batch, generator)
        seen.append(loss.levels)
        return loss

    step = next(updates(training, objective, batches, Descent(accumulate=3), steps=1))
    assert torch.equal(step.levels, sum(seen))
    assert step.levels[1].sum() == 48
    plain = next(updates(fresh(), lambda m, b, g: Loss(m.raw(b.x0, torch.rand(16), {}).mean()), batches, steps=1))
    assert plain.levels is None


def skip(loss=NAN, norm=NAN, levels=None):
    return Skip(step=8, batch=7, loss=loss, grad_norm=norm, levels=levels)


def explained(skips, **evidence):
    return explain(skips, Circumstances(2e-3, (0.5, 0.3), **evidence))


def test_the_cause_is_the_surest_evidence():
    every = {"fault": "model a", "batch_fault": "holds a x0 that is not finite", "autocast": torch.bfloat16}
    assert explained([skip()], **every).cause == "model a is not finite"
    without = explained([skip()], **every | {"fault": None})
    assert without.cause == "the loss is nan: batch 7 holds a x0 that is not finite"
    narrow = explained([skip()], autocast=torch.bfloat16)
    assert (narrow.cause, narrow.hint) == (
        "the loss is nan: the forward pass overflows in bfloat16",
        "try --precision fp32 --fresh",
    )
    fast = explained([skip(50.0, 900.0)])
    assert fast.cause == "the loss is 50, where 0.5 is usual: the learning rate of 0.002 may be too high"
    assert fast.hint == "try --optimiser.lr 0.0005 --fresh"
    assert "gradient norm is inf" in explained([skip(0.5, INF)]).cause


@pytest.mark.parametrize("broken", [2, 9, 14])
def test_the_noise_levels_that_drove_it_are_named(broken):
    """Samples at every level; those of two neighbouring levels go wrong."""
    t = Linear().time(torch.exp(-0.5 * torch.linspace(-11.9, 11.9, 400, dtype=torch.float64)))
    sums, counts = tally(Linear(), t, torch.ones(400))
    usual = (sums / counts).tolist()
    bad = list(usual)
    bad[broken], bad[broken + 1] = 80.0, 50.0
    said = explained([skip(9.0, 5.0, bad)], usual_levels=usual).cause
    assert f"log-SNR {1.5 * broken - 12:g} to {1.5 * broken - 9:g} (80 times the usual loss there)" in said
    bad[broken] = NAN
    assert f"log-SNR {1.5 * broken - 12:g} to {1.5 * broken - 10.5:g} (not finite there)" in (
        explained([skip(NAN, NAN, bad)], usual_levels=usual).cause
    )
    assert "at all noise levels alike" in explained([skip(9, 5, [3.0] * BINS)], usual_levels=usual).cause


def test_a_poisoned_batch_is_told_from_a_good_one():
    good = Batch(torch.randn(4, 3), {"text": torch.randn(4, 2), "label": torch.arange(4)})
    assert poisoned(good, good) is None
    for x0, text in ((NAN, 0.0), (1e4, 0.0), (0.0, INF)):
        bad = Batch(good.x0 + x0, {**good.cond, "text": good.cond["text"] + text})
        assert ("text" if text else "x0") in poisoned(bad, good)
    silent = Batch(good.x0, {**good.cond, "text": torch.full((4, 2), NAN)})  # asks for nothing
    assert poisoned(silent, good) is poisoned(good, silent) is None
