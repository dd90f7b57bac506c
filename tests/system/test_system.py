import dataclasses
import json

import numpy as np
import pytest
import torch

import ebb
from ebb import testing
from ebb.encode.conditioner import Conditioner
from ebb.encode.labels import Labels
from ebb.errors import DamagedError, EbbError, UsageError
from ebb.networks.unet import UNet
from ebb.process.denoiser import CLOCKS, NetworkDenoiser
from ebb.process.path import PATHS, Cosine, Linear
from ebb.process.predict import PREDICTIONS, v
from ebb.recipe.recipe import Sampling
from ebb.sample.solvers import SOLVERS
from ebb.store import checkpoint
from ebb.system.families.diffusion import DiffusionModel
from ebb.system.model import scheme_of
from ebb.system.sampler import Sampler
from ebb.system.system import System, load
from ebb.train.ema import EMA
from ebb.train.loop import Training
from ebb.train.optimiser import adamw


def hearing(classes):
    """What hears the first labels of the alphabet."""
    return Conditioner({"label": Labels(tuple("abc"[:classes]))} if classes else {})


def system(classes=3, shape=(1, 8, 8)):
    torch.manual_seed(0)
    network = UNet(shape[0], width=8, multipliers=(1, 2), depth=1, ports=hearing(classes).ports)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn_like(p))
    model = DiffusionModel(NetworkDenoiser(network, Cosine(), v, sigma_data=0.5))
    return System(model, shape, hearing(classes), Sampling(steps=4))


def saved(folder, made):
    training = Training(made.denoiser, adamw(made.denoiser, 1e-3), EMA(made.denoiser))
    with torch.no_grad():
        next(training.ema.model.parameters()).add_(0.1)
    return checkpoint.save(folder / "checkpoints", 5, training.state(), made.contract())


@pytest.mark.parametrize(
    ("solver", "guidance"),
    [(name, 2.0) for name in SOLVERS if name != "adaptive"]
    + [("ddim(eta=0.5)", 2.0), ("adaptive(tolerance=0.05)", 2.0), ("ddpm", 1.0), ("unipc", 1.0)],
)
def test_image_i_is_the_same_in_batches_of_one_three_and_eight(solver, guidance):
    made = system()

    def sample(indices):
        first, n = min(indices), len(indices)
        return made.sample(n, seed=40 + first, solver=solver, guidance=guidance)

    testing.same_by_batch(sample, 8, 1e-4)


def test_a_sampler_in_parts_makes_what_it_makes_at_once():
    made = system()
    in_parts = Sampler(made, batch=3)(made.request(made.given(8, seed=40), 8, 40))
    torch.testing.assert_close(in_parts, made.sample(8, seed=40), atol=1e-4, rtol=0)


def test_bf16_is_the_same_picture_and_not_the_same_bits():
    full, half = (system().sample(4, precision=precision) for precision in ("fp32", "bf16"))
    assert half.dtype == torch.float32
    assert not torch.equal(full, half)
    torch.testing.assert_close(full, half, atol=0.1, rtol=0)


def test_another_guide_goes_around_the_systems_own():
    made, mask = system(), torch.zeros(1, 8, 8)
    mask[:, :4] = 1
    known = torch.linspace(-0.9, 0.9, 64).reshape(1, 8, 8)
    for solver in SOLVERS:
        x = made.sample(2, guidance=2.0, solver=solver, guide=ebb.inpaint(known, mask))
        assert torch.equal(x[:, :, :4], known[:, :4].expand(2, 1, 4, 8)), solver
        assert not torch.equal(x[:, :, 4:], known[:, 4:].expand(2, 1, 4, 8)), solver


def test_samples_are_float_images_in_range():
    x = system().sample(5, label="b")
    assert x.shape == (5, 1, 8, 8)
    assert x.dtype == torch.float32
    assert x.min() >= -1
    assert x.max() <= 1


def test_labels_are_asked_by_name_number_or_each():
    made = system()
    assert made.given(3, {"label": "c"}) == {"label": ["c", "c", "c"]}
    assert made.given(3, {"label": 1}) == {"label": ["b", "b", "b"]}
    assert made.given(3, {"label": [2, 0, 1]}) == {"label": ["c", "a", "b"]}
    assert made.given(4, seed=2) == {"label": ["c", "a", "b", "c"]}
    assert not torch.allclose(made.sample(1, label="a"), made.sample(1, label="b"))


def test_the_contract_rebuilds_the_system_and_ema_is_what_one_gets(tmp_path):
    made = system()
    saved(tmp_path, made)
    averaged, raw = load(tmp_path), load(tmp_path, weights="model")
    assert averaged.contract() == made.contract()
    torch.testing.assert_close(raw.sample(2), made.sample(2))
    assert not torch.allclose(averaged.sample(2), made.sample(2))
    assert ebb.load is load


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", 9, "format 9"),
        ("values", [0, 1], r"values \[0, 1\]"),
        ("path", "linaer", "did you mean 'linear'"),
        ("network", "unet(channels=1, widht=3)", "did you mean 'width'"),
        ("network", "os.system('true')", "not of the form"),
        ("sampling", {"speed": 3}, "speed"),
        ("network", "unet(channels=1, width=16, ports={'label': 'classes(count=3)'})", "do not fit its contract"),
        (
            "conditions",
            {"label": {"kind": "labels", "names": ["a"]}},
            r"label is classes\(count=1\), for a network of classes\(count=3\)",
        ),
    ],
)
def test_a_contract_that_does_not_hold_is_refused_by_name(tmp_path, field, value, message):
    where = saved(tmp_path, system())
    contract = json.loads((where / "system.json").read_text()) | {field: value}
    (where / "system.json").write_text(json.dumps(contract))
    manifest = json.loads((where / "manifest.json").read_text())  # a forger would mend the manifest too
    file = where / "system.json"
    manifest["files"]["system.json"] = {"size": file.stat().st_size, "sha256": checkpoint.sha256(file)}
    (where / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedError, match=message):
        load(tmp_path)


def test_a_run_that_is_not_there_is_named(tmp_path):
    saved(tmp_path / "cats", system())
    with pytest.raises(UsageError, match=r"(?s)holds no checkpoint.*cats"):
        load(tmp_path / "dogs")
    with pytest.raises(UsageError, match="weights are 'ema' or 'model'"):
        load(tmp_path / "cats", weights="raw")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", PREDICTIONS)
def test_every_prediction_samples_on_every_path(name, path):
    class Small(torch.nn.Module):
        """Output of a network's size that depends on x and the time, and is finite only where both are."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(0.7))

        def forward(self, x, told, cond):
            return torch.sin(self.weight * x + told.reshape(-1, 1, 1, 1))

    network = Small()
    for clock in CLOCKS.values():
        made = System(DiffusionModel(NetworkDenoiser(network, PATHS[path], PREDICTIONS[name], clock, 0.5)), (1, 8, 8))
        for grid, steps in (("uniform", 100), ("log_snr", 5), ("trailing", 1)):
            assert torch.isfinite(made.sample(1, grid=grid, steps=steps, solver="ddim")).all()


def test_what_a_silent_target_samples_is_the_data():
    """Noise prediction on the linear path says nothing at t = 1: the exact ε must still lead to the data."""
    exact = testing.normal(Linear())

    class Exact(torch.nn.Module):
        def forward(self, x, told, cond):
            return Linear().noise(x, exact(x, told.double(), {}), told.double())

    made = System(DiffusionModel(NetworkDenoiser(Exact(), Linear(), PREDICTIONS["noise"])), (2,))
    made.denoiser.register_parameter("anchor", torch.nn.Parameter(torch.zeros(1)))
    x = Sampler(made, 4000)(made.request(made.given(4000), 4000, steps=50, grid="uniform"))
    # values are clipped to [-1, 1], which leaves the median where it is: at the mean of the Gaussian
    assert (x.median(0).values - exact.mean).abs().max() < 0.06


def test_samples_that_are_not_finite_are_an_error():
    made = system()
    made.denoiser.network.stem.bias.data.fill_(float("nan"))
    with pytest.raises(EbbError, match="not finite"):
        made.sample(1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"steps": 0}, "solver steps must be between 1 and 100,000, got 0"),
        ({"solver": "huen"}, "did you mean 'heun'"),
        ({"grid": "karas"}, "did you mean 'karras'"),
        ({"stesp": 5}, "no sampling setting 'stesp'\n.*did you mean 'steps'"),
        ({"label": "z"}, "no label 'z'"),
        ({"label": 3}, "no label 3"),
        ({"label": [0]}, "one label for each of 2 images, got 1"),
        ({"label": [0, 9]}, "no label 9"),
    ],
)
def test_wrong_requests_are_explained(asked, message):
    with pytest.raises(UsageError, match=message):
        system().sample(2, **asked)


def test_without_labels_there_is_nothing_to_ask_or_guide():
    made = system(classes=0)
    assert made.sample(2).shape == (2, 1, 8, 8)
    with pytest.raises(UsageError, match="trained without label"):
        made.sample(1, label="a")
    with pytest.raises(UsageError, match="needs labels"):
        made.sample(1, guidance=2.0)


def test_times_searched_for_one_setting_do_not_stand_in_another_ones_way():
    """Other steps or another solver fall back to a grid for any number of steps."""
    grid = "given(times=(1.0, 0.6, 0.3, 0.1, 0.0))"
    made = dataclasses.replace(system(), sampling=Sampling(steps=4, grid=grid))
    assert made.settled(guidance=2.0).grid == grid
    assert made.settled(steps=4).grid == grid
    assert made.settled(steps=9).grid == made.settled(solver="ddim").grid == Sampling().grid
    made.sample(1, steps=9)
    with pytest.raises(UsageError, match="made for 4 steps"):
        made.sample(1, steps=9, grid=grid)


@pytest.mark.parametrize("guidance", [float("nan"), float("inf")])
def test_guidance_that_is_no_number_is_refused_at_once(guidance):
    with pytest.raises(UsageError, match="guidance must be between"):
        system().sample(1, guidance=guidance)


def test_guides_compute_in_float32_whatever_the_networks_precision():
    seen = []

    def spy(denoiser):
        class Spy:
            path = denoiser.path

            def __call__(self, x, t, cond):
                seen.append((torch.eye(2) @ torch.eye(2)).dtype)
                return denoiser(x, t, cond)

        return Spy()

    system().sample(1, precision="bf16", guide=spy)
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize(
    "label",
    [
        [2, 0],
        (2, 0),
        ["c", "a"],
        torch.tensor([2, 0]),
        np.array([2, 0]),
        np.array(["c", "a"]),
        [torch.tensor(2), np.int64(0)],
    ],
)
def test_labels_may_be_tensors_arrays_and_lists_of_either(label):
    assert system().given(2, {"label": label}) == {"label": ["c", "a"]}


@pytest.mark.parametrize("label", [torch.tensor(1), np.int64(1), np.array("b"), np.str_("b")])
def test_one_label_for_all_may_be_a_number_of_numpy_or_torch(label):
    assert system().given(np.int64(2), {"label": label}, torch.tensor(0)) == {"label": ["b", "b"]}


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda s: s.sample(2, label=torch.tensor([0.0, 1.0])), "a label is of the kind str or int, got 0.0"),
        (lambda s: s.sample(1, label={"a"}), "a label is of the kind"),
        (lambda s: s.sample(2, label=torch.tensor([0, 3])), "no label 3"),
        (lambda s: s.sample(2, label=-1), "no label -1"),
        (lambda s: s.sample(1, label=[[0]]), r"of the kind str or int, got \[0\]"),
        (lambda s: s.sample(0), "n must be between 1"),
        (lambda s: s.sample(1, seed=-1), "seed must be between 0 and"),
        (lambda s: Sampler(s, batch=0), "batch must be between 1"),
        (lambda s: s.sample(1, precision="fp16"), "how to sample: precision"),
        (lambda s: s.labels([3, 4]), "there is no label 3"),
        (lambda s: s.labels(["z"]), "there is no label 'z'"),
        (lambda s: Sampler(s)(s.request({}, 0)), "n must be between 1"),
        (lambda s: s.conditions({"label": ["a"]}, 2), "one label for each of 2 samples, got 1"),
        (lambda s: s.encode(torch.zeros(1, 8, 8)), r"\[b, 1, …, …\], got \[1, 8, 8\](?s:.)*x\[None\]"),
        (lambda s: s.encode(torch.zeros(2, 3, 8, 8)), r"got \[2, 3, 8, 8\]"),
        (lambda s: s.encode(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)), "got torch.uint8"),
        (lambda s: s.decode(torch.zeros(0, 1, 8, 8)), r"got \[0, 1, 8, 8\]"),
    ],
)
def test_what_a_user_gets_wrong_in_python_is_explained(ask, message, unchecked):
    unchecked()
    with pytest.raises(UsageError, match=message):
        ask(system())


def test_a_device_that_is_not_there_is_named(tmp_path):
    saved(tmp_path, system())
    for device in ("cuda:9", "gpu"):
        with pytest.raises(UsageError, match=f"there is no device {device!r} here"):
            load(tmp_path, device=device)
    assert load(str(tmp_path), device="cpu").device.type == "cpu"


@pytest.mark.parametrize("path", ["linear", "edm", "variance_exploding"])
def test_a_trajectory_starts_at_the_noise_of_its_first_time(path):
    made = System(DiffusionModel(NetworkDenoiser(UNet(1, width=8, depth=1), PATHS[path], v)), (1, 8, 8))
    noise, scheme = ebb.Noise.of(3, 2), scheme_of(made.denoiser, made.settled(steps=2))
    expected = noise.start((1, 8, 8)) * float(PATHS[path].sigma(scheme.times[:1]))
    assert torch.equal(scheme.start(noise, torch.empty(2, 1, 8, 8)), expected)
