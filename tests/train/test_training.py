import dataclasses
import errno
import json
import shutil

import pytest
import torch
from torch import nn

from ebb.data.loader import Batch
from ebb.errors import DamagedError, EbbError, ResourceError
from ebb.networks.mlp import MLP
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.exact import Gaussian
from ebb.process.path import Linear
from ebb.process.predict import velocity
from ebb.store import checkpoint
from ebb.train.ema import EMA
from ebb.train.loop import Descent, Training, updates
from ebb.train.objectives.denoising import Denoising
from ebb.train.objectives.objective import Loss
from ebb.train.optimiser import WarmupDecay, adamw


def fresh(dropout=0.0):
    torch.manual_seed(0)
    model = NetworkDenoiser(nn.Sequential(), Linear(), velocity)
    model.network = MLP(2, width=16, depth=1)
    model.network.out = nn.Sequential(nn.Dropout(dropout), nn.Linear(16, 2))  # uses torch's global generator
    return Training(model, adamw(model, 1e-2, 0.1), EMA(model, ramp=0.2))


def batches(step):
    return Batch(torch.randn(16, 2, generator=torch.Generator().manual_seed(step)) + 1, {})


def weights(training):
    return torch.cat([p.detach().flatten() for m in (training.model, training.ema.model) for p in m.parameters()])


def run(training, steps, accumulate=1):
    losses = [
        step.loss.item()
        for step in updates(
            training, Denoising(), batches, Descent(accumulate=accumulate), steps=steps, rate=WarmupDecay(1e-2, 30, 3)
        )
    ]
    return losses, weights(training)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("at", [1, 7, 11])
def test_resuming_equals_the_uninterrupted_run_bit_for_bit(tmp_path, at, accumulate):
    losses, final = run(fresh(dropout=0.2), 12, accumulate)
    first = fresh(dropout=0.2)
    before, _ = run(first, at, accumulate)
    checkpoint.save(tmp_path / "checkpoints", at, first.state(), {})
    torch.manual_seed(999)
    second = fresh(dropout=0.2)
    saved = checkpoint.newest(tmp_path / "checkpoints")
    checkpoint.verify(saved)
    second.restore({part: checkpoint.read(saved, part) for part in ("model", "ema", "optim", "rng")})
    assert (second.step, second.seen) == (at, at * 16 * accumulate)
    after, resumed = run(second, 12, accumulate)
    assert before + after == losses
    assert torch.equal(resumed, final)


@pytest.mark.parametrize("lost", ["optim", "rng", "ema"])
def test_a_resume_that_forgets_a_part_is_caught(lost):
    """The mutant: without the moments, the random state or the average, the run must come out different."""
    _, final = run(fresh(dropout=0.2), 8)
    first = fresh(dropout=0.2)
    run(first, 4)
    state = {part: {k: v.clone() for k, v in tensors.items()} for part, tensors in first.state().items()}
    if lost == "optim":
        state["optim"] = {k: torch.zeros_like(v) for k, v in state["optim"].items()}
    elif lost == "ema":
        state["ema"] = state["model"]
    else:
        state["rng"]["torch"] = torch.Generator().manual_seed(5).get_state()
    second = fresh(dropout=0.2)
    second.restore(state)
    assert not torch.equal(run(second, 8)[1], final)


def test_accumulating_k_batches_is_one_batch_k_times_as_large():
    class Mean:
        def __call__(self, model, batch, generator):
            return Loss(((model.raw(batch.x0, torch.full((len(batch.x0),), 0.5), {}) - 1) ** 2).mean())

    parts, whole = fresh(), fresh()
    list(updates(parts, Mean(), batches, Descent(accumulate=4), steps=3))
    joined = lambda step: Batch(torch.cat([batches(4 * step + i).x0 for i in range(4)]), {})  # noqa: E731
    list(updates(whole, Mean(), joined, steps=3))
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("steps", "most"), [(400, 0.25), pytest.param(1500, 0.15, marks=pytest.mark.full)])
def test_training_learns_the_exact_denoiser(steps, most):
    """Data N(1, I): the trained average must answer as the closed form does, over the whole path."""
    training, exact = fresh(), Gaussian(Linear(), torch.ones(2), torch.eye(2))
    for _ in updates(training, Denoising(), batches, steps=steps, rate=WarmupDecay(1e-2, steps, 10)):
        pass
    t = torch.linspace(0.1, 0.9, 200, dtype=torch.float64)
    x = Linear().mix(batches(1).x0.repeat(13, 1)[:200], torch.randn(200, 2), t)
    error = (training.ema.model(x, t, {}) - exact(x, t, {})).pow(2).mean().sqrt().item()
    assert error < most


def test_gradients_are_clipped():
    training = fresh()
    before = weights(training).clone()
    step = next(
        updates(training, lambda m, b, g: Loss(1e6 * m.raw(b.x0, torch.full((16,), 0.5), {}).sum()), batches, steps=1)
    )
    assert step.grad_norm > 1e3
    assert (weights(training) - before).abs().max() < 0.05


def test_ema_has_its_half_life_and_ramp():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = EMA(model, halflife=100, ramp=0.1)
    nn.init.ones_(model.weight)
    ema.update(model, 100, seen=10_000)  # one half-life
    assert ema.model.weight.item() == pytest.approx(0.5)
    ema.update(model, 10, seen=100)  # the ramp: half-life 10 images
    assert ema.model.weight.item() == pytest.approx(0.75)


def test_learning_rate_rises_and_falls():
    rate = WarmupDecay(1.0, 100, 10)
    assert [rate(0), rate(9), rate(100)] == [pytest.approx(0.1), 1.0, 0.0]
    assert rate(55) == pytest.approx(0.5)


@pytest.mark.parametrize(("decay", "level"), [(0.0, 100), (0.25, 75), (0.5, 50), (0.95, 10), (1.0, 10)])
def test_learning_rate_is_level_before_it_falls(decay, level):
    rate = WarmupDecay(2.0, 100, 10, decay)
    assert rate.level == level
    assert {rate(step) for step in range(9, level)} <= {2.0}
    assert [rate(level + step) for step in (0, 1)] == pytest.approx(
        [2.0, 2 - 2 / (100 - level)] if level < 100 else [0] * 2
    )
    assert rate(5) == pytest.approx(1.2)


def saved(folder, step=1, **kwargs):
    return checkpoint.save(folder / "checkpoints", step, fresh().state(), {"format": 1}, **kwargs)


def test_old_checkpoints_are_pruned_only_after_the_new_one(tmp_path):
    for step in (1, 2, 3):
        saved(tmp_path, step)
    assert [p.name for p in checkpoint.finished(tmp_path / "checkpoints")] == ["step-00000002", "step-00000003"]
    assert (tmp_path / "latest").read_text() == "step-00000003"


@pytest.mark.parametrize("file", ["ema.safetensors", "model.safetensors", "system.json", "rng.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damage_is_named(tmp_path, file, damage):
    target = saved(tmp_path) / file
    if damage == "delete":
        target.unlink()
    else:
        content = bytearray(target.read_bytes())
        content[len(content) // 2] ^= 1
        target.write_bytes(content if damage == "flip" else content[:-1])
    with pytest.raises(DamagedError, match=file if damage != "delete" else "not a whole checkpoint"):
        checkpoint.verify(target.parent)


@pytest.mark.parametrize("text", ["", "[]", '{"files": 3}', '{"files": {"ema.safetensors": 1}}'])
def test_a_broken_manifest_is_named(tmp_path, text):
    folder = saved(tmp_path)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(DamagedError, match="not a whole checkpoint"):
        checkpoint.verify(folder)


@pytest.mark.parametrize("when", ["rename", "write", "manifest"])
def test_dying_while_saving_leaves_the_last_checkpoint(tmp_path, monkeypatch, when):
    good = saved(tmp_path)

    def die(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {
        "rename": (checkpoint.Path, "rename"),
        "write": (checkpoint, "save_tensors"),
        "manifest": (checkpoint, "sha256"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*target[when], die)
        with pytest.raises(
            ResourceError, match=r"(?s)No space left.*free some space.*the same command resumes from step 1"
        ):
            saved(tmp_path, 2)
    assert checkpoint.newest(tmp_path / "checkpoints") == good
    checkpoint.verify(good)
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))


def test_a_folder_half_written_by_a_killed_process_is_not_a_checkpoint(tmp_path):
    good = saved(tmp_path)
    shutil.copytree(good, good.with_name("step-00000009.tmp"))
    assert checkpoint.newest(tmp_path / "checkpoints") == good
    assert saved(tmp_path, 9).name == "step-00000009"


def test_a_disk_without_room_is_refused_before_writing(tmp_path, monkeypatch):
    usage = dataclasses.make_dataclass("Usage", ["free"])(1000)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ResourceError, match="MB free"):
        saved(tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    training = fresh()
    with torch.no_grad():
        next(training.model.parameters())[0] = float("nan")
    with pytest.raises(EbbError, match="not finite"):
        checkpoint.save(tmp_path / "checkpoints", 1, training.state(), {})
    assert checkpoint.newest(tmp_path / "checkpoints") is None


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    state = fresh().state()
    state["model"] = {"other": torch.zeros(1)}
    with pytest.raises(DamagedError, match="does not fit the model"):
        fresh().restore(state)


def test_checkpoints_hold_tensors_and_json_only(tmp_path):
    folder = saved(tmp_path)
    assert {p.suffix for p in folder.iterdir()} == {".safetensors", ".json"}
    assert json.loads((folder / "manifest.json").read_text())["step"] == 1
