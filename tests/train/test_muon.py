"""Muon and AdamW against torch's own, Muon's matrices against the singular value decomposition too."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ebb.train import muon as room
from ebb.train.ema import EMA
from ebb.train.guard import update_unless
from ebb.train.loop import Training
from ebb.train.muon import matrices, muon, orthogonal
from ebb.train.optimiser import adamw


class Network(nn.Module):
    """An edge, a table, a wide and a tall matrix, a convolution and a norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(3, 32)
        self.table = nn.Embedding(40, 32)
        self.tall = nn.Linear(32, 64, bias=False)
        self.wide = nn.Linear(64, 32, bias=False)
        self.conv = nn.Conv2d(32, 32, 3, bias=False)
        self.norm = nn.LayerNorm(32)


def with_gradients(network, seed):
    draws = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        p.grad = torch.randn(p.shape, generator=draws)
    return network


def moved(network, optimizer, steps=4):
    for step in range(steps):
        with_gradients(network, step)
        optimizer.step()
    return [p.detach().clone() for p in network.parameters()]


def test_what_is_moved_as_a_matrix():
    network = Network()
    assert [id(p) for p in matrices(network)] == [id(m.weight) for m in (network.tall, network.wide, network.conv)]


@pytest.mark.parametrize("shape", [(2, 32, 64), (1, 64, 32), (3, 48, 48)])
def test_the_singular_vectors_stay_and_the_values_come_near_one(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, _, vt = torch.linalg.svd(x, full_matrices=False)
    values = (u.mT @ orthogonal(x).float() @ vt.mT).diagonal(dim1=-2, dim2=-1)
    rest = u.mT @ orthogonal(x).float() @ vt.mT - torch.diag_embed(values)
    assert rest.abs().max() < 0.05
    assert values.min() > 0.4
    assert values.max() < 1.3
    assert values.median() > 0.65


def agrees_with_torch(make):
    """Whether the matrices of a network go where `torch.optim.Muon` takes them."""
    ours, theirs = Network(), Network()
    rows = [theirs.tall.weight, theirs.wide.weight]
    peer = torch.optim.Muon(rows, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    moved(theirs, peer)
    moved(ours, make(ours))
    pairs = zip((ours.tall.weight, ours.wide.weight), rows, strict=True)
    return all(torch.allclose(a, b, atol=2e-3) for a, b in pairs)  # bf16, of updates of 0.02·0.2·8


def test_agreement_with_torch():
    assert agrees_with_torch(lambda network: muon(network, 0.02, 0.1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"orthogonal": lambda x: x / torch.linalg.matrix_norm(x, keepdim=True)},
        {"orthogonal": lambda x: -orthogonal(x)},
        {"COEFFICIENTS": (3.4445, 4.7750, 2.0315)},
    ],
    ids=["not orthogonal", "uphill", "a sign"],
)
def test_the_agreement_catches_mutants(monkeypatch, wrong):
    for name, value in wrong.items():
        monkeypatch.setattr(room, name, value)
    assert not agrees_with_torch(lambda network: muon(network, 0.02, 0.1))


def test_a_convolution_moves_as_the_matrix_of_everything_that_enters():
    network = with_gradients(Network(), 0)
    before, grad = network.conv.weight.detach().clone(), network.conv.weight.grad.clone()
    muon(network, 0.01).step()
    update = orthogonal(grad.reshape(1, 32, -1))[0].float().reshape(grad.shape)  # momentum only scales the first one
    expected = before - 0.01 * 0.2 * (32 * 9) ** 0.5 * update
    assert torch.allclose(network.conv.weight, expected, atol=1e-3)
    assert (before - network.conv.weight).abs().max() > 1e-3


def torchs_adamw(network):
    """With the groups and settings that ours is documented to have."""
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.99), fused=True)


def test_everything_else_moves_as_by_adamw():
    ours, theirs = Network(), Network()
    moved(ours, muon(ours, 0.01, 0.1))
    moved(theirs, torchs_adamw(theirs))
    for a, b in ((ours.stem, theirs.stem), (ours.table, theirs.table), (ours.norm, theirs.norm)):
        assert torch.equal(a.weight, b.weight)


def moves_as_torchs(make):
    """Whether AdamW takes every parameter where torch's own does, bit for bit, also from a state of its own."""
    ours, theirs = Network(), Network()
    optimizer, peer = make(ours), torchs_adamw(theirs)
    same = [torch.equal(a, b) for a, b in zip(moved(ours, optimizer), moved(theirs, peer), strict=True)]
    again = make(ours)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return all(same) and all(torch.equal(a, b) for a, b in zip(moved(ours, again), moved(theirs, peer), strict=True))


def test_adamw_is_torchs_bit_for_bit():
    assert moves_as_torchs(lambda network: adamw(network, 0.01, 0.1))


@pytest.mark.parametrize("wrong", [(0.01, 0.0), (0.01, 0.1, 0.999), (0.02, 0.1)], ids=["decay", "beta2", "rate"])
def test_that_catches_mutants(wrong):
    assert not moves_as_torchs(lambda network: adamw(network, *wrong))


COMPILER = """
import sys, torch
from torch import nn
from ebb.train.ema import EMA
from ebb.train.loop import Training
from ebb.train.muon import muon
from ebb.train.optimiser import adamw
for kind in (adamw, muon):
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2))
    training = Training(model, kind(model, 0.1), EMA(model))
    model(torch.ones(1, 64)).sum().backward()
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    training.restore(training.state())
    assert len(training.optimizer.state) == 4
sys.exit("torch._dynamo" in sys.modules)
"""


@pytest.mark.full
def test_training_does_not_load_the_compiler():
    """It is a second at the start of every run. In a process of its own, since other tests compile."""
    done = subprocess.run([sys.executable, "-c", COMPILER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or "torch._dynamo was imported"


def test_a_bad_update_changes_nothing_and_the_next_goes_on_as_if_it_had_not_been():
    network = Network()
    optimizer = muon(network, 0.01, 0.1)
    moved(network, optimizer)
    twin = copy.deepcopy(network)
    other = muon(twin, 0.01, 0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p in network.parameters():
        p.grad = torch.full_like(p, float("nan"))
    update_unless(torch.tensor(True), optimizer)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))
    for each, by in ((network, optimizer), (twin, other)):
        with_gradients(each, 9)
        update_unless(torch.tensor(False), by)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))


def test_what_is_restored_lies_where_the_parameter_does():
    """The count of updates too, which has not the parameter's shape: on a GPU it must not stay behind."""
    model = nn.Linear(3, 2, device="meta")
    optimizer = muon(model, 1e-3)
    state = {i: {"step": torch.tensor(3.0)} for i in range(2)}
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    assert {kept["step"].device.type for kept in optimizer.state.values()} == {"meta"}


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 32), nn.Linear(32, 32, bias=False), nn.LayerNorm(32))


def test_a_state_saved_by_an_earlier_version_goes_on_where_it_was():
    """The file holds the weights after four updates (as `moved` makes them), the memory, and the weights after six."""
    saved = load_file(Path(__file__).parent / "muon_before_groups.safetensors")
    later = [value for name, value in saved.items() if name.startswith("later.")]
    memory = {name.removeprefix("optim."): value for name, value in saved.items() if name.startswith("optim.")}

    def resumed(memory):
        network = small()
        network.load_state_dict({name: saved[f"weights.{name}"] for name in network.state_dict()})
        optimizer = muon(network, 0.01, 0.1)
        training = Training(network, optimizer, EMA(network))
        training.restore(training.state() | {"optim": memory})
        assert training.state()["optim"].keys() == memory.keys()
        for step in (4, 5):
            with_gradients(network, step)
            optimizer.step()
        return [saved_as.detach() for _, saved_as in sorted(network.named_parameters())]

    for there, then, forgetful in zip(resumed(memory), later, resumed({}), strict=True):
        torch.testing.assert_close(there, then, atol=1e-4, rtol=0)
        assert not torch.allclose(forgetful, then, atol=1e-3)


def test_a_copy_moves_as_the_original():
    """Model and optimiser copied together, as a training is to be tried out."""
    network = Network()
    optimizer = muon(network, 0.01)
    moved(network, optimizer, 2)
    twin, other = copy.deepcopy((network, optimizer))
    for mine, its in zip(moved(network, optimizer), moved(twin, other), strict=True):
        assert torch.equal(mine, its)
