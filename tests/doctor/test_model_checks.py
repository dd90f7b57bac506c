"""Every check of a model fires on a planted fault, and none on its healthy twin: a network that is exactly right."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import ebb
from ebb.doctor import model_checks as checks
from ebb.doctor import model_noise
from ebb.doctor.diagnose import diagnose
from ebb.doctor.finding import BRINGS_ABOUT, called
from ebb.doctor.model_noise import readings
from ebb.doctor.model_subject import NSR, ModelSubject
from ebb.networks.mmdit import MMDiT
from ebb.process.denoiser import fraction
from ebb.process.path import PATHS, spread
from ebb.process.predict import PREDICTIONS
from ebb.recipe.starting import suited

SHAPE, CLASSES, S, SIGMA_DATA = (2, 4, 4), 3, 0.4, 0.5


class Right(nn.Module):
    """The best answer for data N(mean of the label, S²), in the target asked for, so that nothing about it is wrong."""

    def __init__(self, path, prediction, clock):
        super().__init__()
        self.path, self.prediction, self.clock = path, prediction, clock
        self.means = nn.Parameter(torch.tensor([-0.8, 0.0, 0.8]))
        self.first = nn.Linear(SHAPE[-1], SHAPE[-1], bias=False)
        self.last = nn.Linear(SHAPE[-1], SHAPE[-1], bias=False)
        for layer in (self.first, self.last):
            nn.init.eye_(layer.weight)

    def forward(self, x, told, cond):
        x = self.last(self.first(x))
        nsr = torch.exp(4 * told.double()) if self.clock is ebb.quarter_log_nsr else None
        t = told.double() * self.path.end if nsr is None else self.path.time(nsr)
        t = torch.clamp(t, max=self.path.end * (1 - 1e-7))
        x = x / spread(1 / torch.hypot(SIGMA_DATA * self.path.alpha(t), self.path.sigma(t)), x)
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        mean = self.means[cond["label"]].double() if cond else torch.zeros_like(t)
        gain = alpha * S**2 / (alpha**2 * S**2 + sigma**2)
        x0 = spread(mean, x) + spread(gain, x) * (x - spread(alpha * mean, x))
        a, b = self.prediction(self.path, t)
        return spread(a, x) * x0 + spread(b, x) * (x - spread(alpha, x) * x0) / spread(sigma, x)


class Around(nn.Module):
    """A network with something done to its input or its output."""

    def __init__(self, network, change):
        super().__init__()
        self.network, self.change = network, change

    def forward(self, x, told, cond):
        return self.change(self.network, x, told, cond)


def healthy(path="linear", prediction=None):
    parts = suited(path)[0]
    path, prediction = PATHS[path], PREDICTIONS[prediction or parts["prediction"]]
    clock = {"fraction": fraction, "quarter_log_nsr": ebb.quarter_log_nsr}[parts["clock"]]
    return ebb.NetworkDenoiser(Right(path, prediction, clock), path, prediction, clock, SIGMA_DATA)


def around(change, **where):
    """The healthy denoiser with its network changed."""
    denoiser = healthy(**where)
    denoiser.network = Around(denoiser.network, change)
    return denoiser


def with_nan():
    denoiser = healthy()
    denoiser.network.means.data[1] = math.nan
    return denoiser


def with_batch_norm():
    denoiser = healthy()
    denoiser.network.norm = nn.BatchNorm2d(2)
    return denoiser


def halved_inside():
    """float16 ends at 65,504: the values between the two layers are beyond it, and right again after them."""
    denoiser = healthy()
    denoiser.network.first.weight.data *= 1e6
    denoiser.network.last.weight.data /= 1e6
    return denoiser


def unscaled():
    path = PATHS["variance_exploding"]
    return ebb.NetworkDenoiser(
        Around(None, lambda _, x, told, cond: x / (1 + told.exp()[:, None, None, None])), path, PREDICTIONS["noise"]
    )


class Squeezed(nn.Module):
    """The healthy network behind a map of the four places of a row onto two numbers, and back."""

    def __init__(self, network):
        super().__init__()
        self.network, self.narrow, self.back = network, nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)
        nn.init.orthogonal_(self.narrow.weight)
        self.back.weight.data = self.narrow.weight.data.T.clone()

    def forward(self, x, told, cond):
        return self.network(self.back(self.narrow(x)), told, cond)


def squeezed():
    denoiser = healthy()
    denoiser.network = Squeezed(denoiser.network)
    return denoiser


class Told(nn.Module):
    """A block that adds the time, which so far has no weight."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x, told):
        return x + self.scale * spread(told, x)


class Chain(nn.Module):
    """The healthy network behind three blocks, of which the second is told nothing."""

    def __init__(self, network):
        super().__init__()
        self.network, self.blocks = network, nn.ModuleList(Told() for _ in range(3))

    def forward(self, x, told, cond):
        for number, block in enumerate(self.blocks):
            x = block(x, told if number != 1 else torch.ones_like(told))
        return self.network(x, told, cond)


def cut_off():
    denoiser = healthy()
    denoiser.network = Chain(denoiser.network)
    return denoiser


def divided(network, x, told, cond):
    return network(x, told, cond) / (told > 1e-3)[:, None, None, None]


PLANTED = {
    "parameters not finite": with_nan,
    "batch norm": with_batch_norm,
    "wrong shape": lambda: around(lambda net, x, told, cond: net(x, told, cond)[..., 1:]),
    "output dead": lambda: around(lambda net, x, told, cond: 0 * net(x, told, cond)),
    "time ignored": lambda: around(lambda net, x, told, cond: net(x, torch.full_like(told, 0.5), cond)),
    "condition ignored": lambda: around(lambda net, x, told, cond: net(x, told, {"label": 0 * cond["label"] + 1})),
    "block cut off": cut_off,
    "not finite at the ends": lambda: around(divided),
    "samples mixed": lambda: around(lambda net, x, told, cond: net(x - 0.1 * x.mean(0), told, cond)),
    "chance while sampling": lambda: around(lambda net, x, told, cond: F.dropout(net(x, told, cond), 0.1)),
    "input scale": unscaled,
    "end not noise": lambda: ebb.Gaussian(ebb.EDM(10.0), torch.zeros(4), torch.eye(4) / 4),
    "bottleneck": squeezed,
    "noise left": lambda: around(lambda net, x, told, cond: -net(x, told, cond)),
}


def examined(model):
    if isinstance(model, ebb.Gaussian):
        return diagnose(model, shape=(4,))
    return diagnose(model, shape=SHAPE, cond={"label": torch.arange(CLASSES)})


def names(diagnosis):
    return {finding.name for finding in diagnosis.findings}


def test_every_check_has_a_planted_fault():
    assert set(PLANTED) == {called(check) for check in checks.MODEL_CHECKS}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_and_nothing_else_but_what_it_brings_about(name):
    """So that a finding leads to its cause: what comes of it stands behind and gives no advice of its own."""
    finding, *others = examined(PLANTED[name]()).findings
    assert finding.name == name
    assert all((finding.symptom, finding.evidence, finding.cause, finding.advice))
    for other in others:
        assert other.name in BRINGS_ABOUT[name]
        assert finding.symptom in other.cause
        assert other.advice == "mend that first"


def regrouped(denoiser):
    denoiser.network.norm = nn.GroupNorm(2, 2)


def heard(denoiser):
    """The same network, asked as it should be."""
    denoiser.network = denoiser.network.network


def scaled(denoiser):
    denoiser.sigma_data = 0.5


def read_as_said(denoiser):
    said = examined(denoiser).findings[0].advice
    denoiser.prediction = dict(readings())[said.removeprefix("read it as ").split(":")[0]]


CURES = {
    "batch norm": regrouped,
    "output dead": heard,
    "time ignored": heard,
    "condition ignored": heard,
    "samples mixed": heard,
    "chance while sampling": heard,
    "not finite at the ends": heard,
    "wrong shape": heard,
    "input scale": scaled,
    "bottleneck": heard,
    "noise left": read_as_said,
}
"""What the advice of a finding says, done to the planted model."""


@pytest.mark.parametrize("name", CURES)
def test_a_finding_does_not_survive_its_own_cure(name):
    model = PLANTED[name]()
    CURES[name](model)
    assert name not in names(examined(model))


@pytest.mark.parametrize("prediction", ["data", "v"])
def test_an_output_that_is_misread_is_named(prediction):
    """A network that is right, read as another target than it was made for."""
    model = healthy(prediction=prediction)
    model.prediction = PREDICTIONS["velocity"]
    finding = next(each for each in examined(model).findings if each.name == "noise left")
    assert f"read as {prediction}, it leaves no noise" in finding.cause


def test_a_network_that_has_learnt_nothing_is_not_said_to_be_misread():
    model = around(lambda net, x, told, cond: 0.01 * net(x, told, cond))
    finding = next(each for each in examined(model).findings if each.name == "noise left")
    assert "learnt too little" in finding.cause


LABEL = {"label": f"classes(count={CLASSES})"}
WIDTHS = {
    "unet": lambda width: ebb.UNet(3, width=width, patch=4, depth=1, ports=LABEL),
    "dit": lambda width: ebb.DiT(3, width=width, patch=4, depth=1, ports=LABEL),
    "mmdit": lambda width: MMDiT(
        3, width=width, patch=4, depth=1, head=16, ports={**LABEL, "text": "pieces(vocabulary=300, length=2)"}
    ),
    "own": lambda width: Around(
        nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, width, 1), nn.Conv2d(width, 48, 1), nn.PixelShuffle(4)),
        lambda net, x, told, cond: net(x),
    ),
}


@pytest.mark.parametrize("kind", WIDTHS)
def test_a_network_too_narrow_for_its_patches_is_found_and_a_wider_one_is_not(kind):
    """48 values of each 4×4 place of a colour picture; the width that is advised is enough."""
    cond = {"label": torch.arange(CLASSES)} if kind != "own" else {}
    cond |= {"text": torch.zeros(1, 2).long()} if kind == "mmdit" else {}
    for width, narrow in ((32, True), (48, False), (64, False)):
        finding = checks.check_bottleneck(ModelSubject(WIDTHS[kind](width), (3, 16, 16), cond))
        assert (finding is not None) == narrow
        if finding is not None:
            assert "512 of a sample's 768 numbers fit" in finding.evidence
            assert "1.5 times as wide" in finding.advice
            assert ("width 64 instead of 32" in finding.advice) == (kind != "own")


def test_who_predicts_the_data_may_be_narrow():
    """No noise is left in: the answer does not hold x but through the network."""
    network = WIDTHS["unet"](32)
    for prediction, narrow in (("velocity", True), ("noise", True), ("v", True), ("edm", True), ("data", False)):
        model = ebb.NetworkDenoiser(network, ebb.Linear(), PREDICTIONS[prediction])
        found = checks.check_bottleneck(ModelSubject(model, (3, 16, 16), {"label": torch.arange(CLASSES)}))
        assert (found is not None) == narrow


@pytest.mark.parametrize(
    ("path", "prediction"),
    [(path, None) for path in PATHS]
    + [("cosine", "noise"), ("ddpm_linear", "noise"), ("linear", "data"), ("edm", "noise")],
)
def test_what_is_right_is_left_alone(path, prediction):
    found = examined(healthy(path, prediction))
    assert found.findings == []
    assert found.unchecked == []
    assert found.checked == [called(check) for check in checks.MODEL_CHECKS]


def test_half_precision_that_overflows_is_a_warning():
    (finding,) = examined(halved_inside()).findings
    assert (finding.name, finding.severity) == ("not finite at the ends", "warning")
    assert "float16" in finding.symptom


@pytest.mark.parametrize(
    "network", [ebb.UNet(2, width=8, ports=LABEL), ebb.DiT(2, width=16, depth=1, patch=2, ports=LABEL)]
)
def test_a_fresh_network_is_silent_and_wired(network):
    """Its output is 0, which is said; that time and label are wired is seen on a shaken copy."""
    assert names(examined(network)) == {"output dead"}


def test_a_fresh_network_whose_time_is_not_wired():
    network = ebb.UNet(2, width=8)
    found = diagnose(Around(network, lambda net, x, told, cond: net(x, 0 * told, cond)), shape=SHAPE)
    assert names(found) == {"output dead", "time ignored"}


def test_learned_variance_may_answer_twice_as_wide():
    inner = around(lambda net, x, told, cond: net(x, told, cond).repeat(1, 2, 1, 1))
    assert examined(ebb.LearnedVariance(inner)).findings == []
    assert "wrong shape" in names(examined(inner))


def test_closed_forms_guides_and_plain_networks_are_models_too():
    humps = ebb.Mixture(
        ebb.Cosine(), torch.tensor([[-0.5, 0.0], [0.5, 0.2]]), torch.full((2,), 0.2), torch.full((2,), 0.5)
    )
    assert diagnose(humps, shape=(2,)).findings == []
    null = {"label": torch.tensor([1])}
    assert examined(ebb.cfg(2.0, null)(healthy())).findings == []
    plain = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 2, 3, padding=1))
    assert names(diagnose(plain, shape=SHAPE)) == {"time ignored"}


def test_without_a_shape_only_the_layers_are_looked_at():
    found = diagnose(with_batch_norm())
    assert names(found) == {"batch norm"}
    assert "parameters not finite" in found.checked
    assert any(line.startswith("wrong shape: the shape of a sample is not known") for line in found.unchecked)


def test_a_check_that_fails_does_not_stop_the_others(monkeypatch):
    def check_the_weather(model):
        raise ZeroDivisionError("it rained")

    monkeypatch.setattr("ebb.doctor.diagnose.MODEL_CHECKS", [check_the_weather, *checks.MODEL_CHECKS])
    found = examined(PLANTED["samples mixed"]())
    assert found.unchecked == ["the weather: it rained"]
    assert names(found) == {"samples mixed"}


def test_a_model_is_left_as_it_was():
    denoiser = around(lambda net, x, told, cond: F.dropout(net(x, told, cond), 0.1))
    denoiser.network.train()
    denoiser.network.network.first.eval()
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    modes, state = [part.training for part in denoiser.modules()], torch.get_rng_state()
    examined(denoiser)
    assert [part.training for part in denoiser.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in denoiser.state_dict().items())


def gaussian(deviation):
    """N(0, deviation²) in many dimensions, so that means over elements are exact enough."""
    zero, one = torch.zeros(1, 4096), torch.ones(1, dtype=torch.float64)
    return ModelSubject(ebb.Mixture(ebb.Linear(), zero, deviation * one, one), (4096,))


def posterior(subject, nsr, deviation):
    """αs²σ/(α²s² + σ²), the share of ε in the posterior mean."""
    t = subject.path.time(torch.tensor([nsr], dtype=torch.float64))
    alpha, sigma = float(subject.path.alpha(t)), float(subject.path.sigma(t))
    return pytest.approx(alpha * deviation**2 * sigma / (alpha**2 * deviation**2 + sigma**2), rel=0.05)


@pytest.mark.parametrize("nsr", NSR)
@pytest.mark.parametrize("deviation", [0.3, 0.5])
def test_the_noise_in_an_answer_is_the_posterior_variance(nsr, deviation):
    subject = gaussian(deviation)
    assert model_noise.noise_in(subject, nsr) == posterior(subject, nsr, deviation)


@pytest.mark.parametrize("path", ["linear", "cosine", "ddpm_linear", "variance_exploding", "edm"])
@pytest.mark.parametrize("deviation", [0.1, 0.5, 1.0, 4.0])
def test_the_exact_denoiser_of_data_of_any_scale_keeps_no_noise(path, deviation):
    """It holds as much of the noise as is said to be right, and is left alone whether the deviation is known or not."""
    zero, one = torch.zeros(1, 1024), torch.ones(1, dtype=torch.float64)
    subject = ModelSubject(ebb.Mixture(PATHS[path], zero, deviation * one, one), (1024,))
    known = dataclasses.replace(subject, deviation=deviation)
    for nsr in NSR:
        assert model_noise.noise_in(known, nsr) == pytest.approx(model_noise.most_noise(deviation, nsr), rel=0.15)
    assert checks.check_noise_left(subject) is None
    assert checks.check_noise_left(known) is None
    mutant = dataclasses.replace(subject, deviation=0.5)  # as if all data had the deviation of pictures
    assert (checks.check_noise_left(mutant) is not None) == (deviation == 4)


@pytest.mark.parametrize("scale", [0.1, 4.0])
def test_noise_that_is_kept_is_found_whatever_the_scale_of_the_data(scale):
    """x̂0 = x/α·scale: in every direction all the noise."""

    @dataclasses.dataclass(frozen=True)
    class Keeps:
        path: ebb.Linear = ebb.Linear()

        def __call__(self, x, t, cond):
            return scale * x

    for deviation in (None, scale):
        found = checks.check_noise_left(ModelSubject(Keeps(), (64,), deviation=deviation))
        assert (found is not None) == (scale > model_noise.LEFT)


def test_a_regression_on_the_input_instead_of_the_noise_is_another_number():
    subject = gaussian(0.5)
    x = subject.noisy(1.0)
    mutant = float((subject.answer(x, subject.time(1.0), {}) * x).mean() / x.square().mean())
    assert mutant != posterior(subject, 1.0, 0.5)


MUTANTS = {
    "STIRRED": ("time ignored", 0.0, 10.0),
    "END_SNR": ("end not noise", 1.0, 0.0),
    "SCALES": ("input scale", (0.0, 1e9), (1.0, 1.0)),
}
"""threshold → (check, a value at which it sees nothing, a value at which it sees ghosts)"""


@pytest.mark.parametrize("threshold", MUTANTS)
def test_a_threshold_that_is_wrong_either_way_shows(threshold, monkeypatch):
    """At one value the planted fault passes, at the other its healthy twin does not: the tests above would notice."""
    name, blind, nervous = MUTANTS[threshold]
    monkeypatch.setattr(checks, threshold, blind)
    assert name not in names(examined(PLANTED[name]()))
    monkeypatch.setattr(checks, threshold, nervous)
    twin = healthy("ddpm_linear")
    twin.sigma_data = None if threshold == "SCALES" else twin.sigma_data
    assert examined(twin).findings


def test_a_run_or_data_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ebb.DataError, match="does not exist"):
        diagnose(str(tmp_path / "nothing"))
