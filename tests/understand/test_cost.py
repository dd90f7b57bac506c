from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import ebb
from ebb.encode.conditioner import Conditioner
from ebb.encode.labels import Labels
from ebb.process.predict import PREDICTIONS
from ebb.recipe.names import parse
from ebb.recipe.recipe import Sampling
from ebb.system.families.diffusion import DiffusionModel
from ebb.system.sampler import Sampler
from ebb.system.system import System
from ebb.understand.cost import ON_CPU, SEVERAL, Live, cost, counted, latency


class Keeper(Live):
    """Wrong: what is freed stays counted."""

    def freed(self, key, size):
        pass


class Forgetful(Live):
    """Wrong: an operation in place counts as new memory."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.known.clear()
        return super().__torch_dispatch__(func, types, (), kwargs) if not args else self.count(func, args, kwargs)

    def count(self, func, args, kwargs):
        out = func(*args, **(kwargs or {}))
        self.now += out.untyped_storage().nbytes()
        self.peak = max(self.peak, self.now)
        return out


def peak(kind, work):
    with kind() as live:
        work()
    return live.peak


def chain():
    x = torch.zeros(1000)
    for _ in range(5):
        x = x + 1


def in_place():
    x = torch.zeros(1000)
    for _ in range(5):
        x += 1


def views():
    x = torch.zeros(10, 100)
    return x.T.reshape(100, 10).flatten()[3:], x[2:5]  # the reshape copies


@pytest.mark.parametrize(("work", "tensors"), [(chain, 2), (in_place, 1), (views, 2)])
def test_the_peak_is_what_tensors_hold_at_once(work, tensors):
    assert peak(Live, work) == tensors * 4000


def test_a_wrong_count_of_memory_is_seen():
    assert peak(Keeper, chain) != 2 * 4000
    assert peak(Forgetful, in_place) != 4000


def test_memory_that_was_there_before_is_not_counted():
    x = torch.zeros(1000)
    assert peak(Live, lambda: x.add_(1)) == 0


def system(network, shape, names=(), **how):
    denoiser = ebb.NetworkDenoiser(network, ebb.Linear(), parse("velocity", PREDICTIONS, "prediction"))
    return System(
        DiffusionModel(denoiser),
        shape,
        Conditioner({"label": Labels(names)} if names else {}),
        Sampling(**{"solver": "ddim", "steps": 6, "guidance": 1.0} | how),
    )


class Affine(nn.Module):
    """One matrix [d, d]: 2·d² operations for each sample."""

    def __init__(self, d):
        super().__init__()
        self.layer = nn.Linear(d, d, bias=False)

    def forward(self, x, t, cond):
        return self.layer(x)


def test_the_cost_of_a_known_network():
    found = cost(system(Affine(50), (50,)), batch=32)
    assert found.evaluations == 6
    assert found.gflop == pytest.approx(6 * 2 * 50**2 / 1e9)
    assert found.seconds * found.images_per_second == pytest.approx(1)
    few = 4 * (50 * 50 + 32 * 50)  # weights, and one batch
    assert few < found.peak_mb * 1e6 < few + 8 * 4 * 32 * 50
    assert cost(system(Affine(50), (50,)), batch=32).peak_mb == pytest.approx(found.peak_mb, rel=1e-3)


def test_guidance_costs_two_evaluations():
    torch.manual_seed(0)
    network = ebb.UNet(1, width=8, depth=1, ports={"label": "classes(count=2)"})
    plain, guided = (cost(system(network, (1, 8, 8), ("a", "b"), guidance=g), batch=4) for g in (1.0, 3.0))
    assert (plain.evaluations, guided.evaluations) == (6, 12)
    assert guided.gflop == pytest.approx(2 * plain.gflop)
    assert guided.peak_mb > plain.peak_mb


def test_what_was_spent_before_is_taken_for_the_speed():
    found = cost(system(Affine(4), (4,)), batch=2, spent=(0.25, 9.0))
    assert (found.seconds, found.images_per_second, found.evaluations) == (0.25, 4.0, 9.0)
    assert found.gflop == pytest.approx(9 * 2 * 16 / 1e9)


def test_the_latency_is_that_of_requests_of_one_after_the_first(monkeypatch):
    took = [9.0, *(0.01 * k for k in range(1, 101))]
    found = timed(monkeypatch, took, patience=1e3)
    assert (found.p50, found.p99) == pytest.approx(np.quantile(took[1:], (0.5, 0.99)))
    assert found.count == 100
    assert timed(monkeypatch, [9.0] * 200, patience=20).count == SEVERAL


def timed(monkeypatch, took, patience):
    """The latency by a clock that moves while a sample is made, each as long as it `took`, and never else."""
    clock, durations = [0.0], iter(took)

    class Clocked(Sampler):
        def __call__(self, request):
            assert len(request) == self.batch == 1
            clock[0] += next(durations)
            return super().__call__(request)

    monkeypatch.setattr("ebb.understand.cost.Sampler", Clocked)
    monkeypatch.setattr("ebb.understand.cost.ALONE", 100)
    monkeypatch.setattr("ebb.understand.cost.PATIENCE", patience)
    monkeypatch.setattr("ebb.understand.cost.time.perf_counter", lambda: clock[0])
    return latency(system(Affine(4), (4,), steps=1))


def test_attention_counts_whichever_kernel_computes_it():
    q = torch.randn(2, 3, 16, 8)
    totals = []
    for backend in (SDPBackend.MATH, SDPBackend.FLASH_ATTENTION):
        with sdpa_kernel(backend), FlopCounterMode(display=False, custom_mapping=ON_CPU) as flop:
            nn.functional.scaled_dot_product_attention(q, q, q)
        totals.append(flop.get_total_flops())
    assert totals[0] == totals[1] == 2 * (2 * (2 * 3) * 16 * 16 * 8)  # QKᵀ, and its product with V


def test_the_network_is_left_as_it_was():
    network = Affine(4)
    with counted(network) as seen:
        network(torch.zeros(7, 4), None, None)
    network(torch.zeros(7, 4), None, None)
    assert seen == [7]
    assert not network._forward_pre_hooks
