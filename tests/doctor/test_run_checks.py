"""The doctor on runs: every finding is made where its fault is planted, none on the healthy twin; oracles of figures."""

import io
import json
import math
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from ebb.cli.parse import given_in
from ebb.cli.parse import verb as verb_of
from ebb.cli.train import overlaid
from ebb.doctor import remedies
from ebb.doctor.diagnose import diagnose
from ebb.doctor.finding import BRINGS_ABOUT, Diagnosis, Finding, NothingToExamineError, Round, called, causes_first
from ebb.doctor.looks import contrast, fine_share, variety
from ebb.doctor.run_checks import RUN_CHECKS
from ebb.doctor.run_subject import PARTS, Gradients, RunSubject, significance
from ebb.doctor.run_training import alone, risen, smoothed
from ebb.encode.autoencoder import KL
from ebb.encode.latent import LatentSpace
from ebb.errors import Exit, UsageError
from ebb.judge import fit
from ebb.networks.mlp import MLP
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import PATHS
from ebb.process.predict import PREDICTIONS, determinant
from ebb.process.times import DENSITIES
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import Sampling, difference, flat
from ebb.report.run_report import write_report
from ebb.sample.solvers import SOLVERS
from ebb.store import checkpoint
from ebb.system.families.variational import LatentPrior
from ebb.system.model import scheme_of
from ebb.system.system import System
from ebb.terminal import command, duration

from .planted import PLANTED, RECIPE, again, data_of, healthy, logged, rewritten, sampled, trained

OF = {"brightness shift": "colour shift", "guidance too strong": "out of range"}
"""Findings that a check of another name makes."""

CHECKS = {called(check): check for check in RUN_CHECKS}


@pytest.fixture(scope="module")
def well(tmp_path_factory):
    """A healthy run; to be copied, not changed."""
    return healthy(tmp_path_factory.mktemp("well"))


@pytest.fixture
def run(well, tmp_path):
    """A copy of the healthy run."""
    return shutil.copytree(well, tmp_path / "run")


def found_in(run, *names):
    """What the checks of these names (all, without names) find in a run, and what they could not or need not check."""
    subject, seen = RunSubject(run), Round()
    seen.examine(lambda: subject, [CHECKS[name] for name in names] if names else RUN_CHECKS, "the run")
    return seen.findings, seen.unchecked + seen.inapplicable


def test_a_healthy_run_is_left_in_peace(well):
    assert found_in(well) == ([], [])


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name, run):
    PLANTED[name](run)
    findings, unchecked = found_in(run, OF.get(name, name))
    assert unchecked == []
    [finding] = findings
    assert finding.name == name
    assert any(letter.isdigit() for letter in finding.evidence)
    assert finding.cause
    assert finding.advice
    for line in finding.commands:
        read_by_the_command_line(line, run)


def test_every_check_has_a_fault_that_it_finds():
    assert {OF.get(name, name) for name in PLANTED} == set(CHECKS)


def test_a_run_is_diagnosed_and_the_diagnosis_kept(run):
    PLANTED["guidance untrained"](run)
    found = diagnose(run)
    assert found.kind == "run"
    assert [finding.name for finding in found.findings] == ["guidance untrained"]
    assert json.loads((run / "doctor.json").read_text())["findings"][0]["severity"] == "error"
    assert found.way.crossing.of == RunSubject(run).system.sampling.steps
    assert list(found.way.ranges) == ["data", *(f"samples at τ = {tau}" for tau in ("0.5", "1", "1.5"))]
    assert found.way.ranges["samples at τ = 0.5"].deviation < found.way.ranges["samples at τ = 1.5"].deviation
    assert "one bad step" in str(found)
    assert (run / "evaluation" / "temperatures.png").is_file()
    page = write_report(run).read_text()
    assert "The way of a sample" in page
    assert "noise equals signal" in page


def test_without_its_data_what_needs_none_is_still_checked(run):
    rewritten(run, steps=600)
    PLANTED["data gone"](run)
    findings, unchecked = found_in(run)
    assert [finding.name for finding in findings] == ["data gone", "stopped early"]
    assert Diagnosis(str(run), "run", [], findings, unchecked).code == Exit.UNCHECKED
    assert f"ebb doctor {run} --data" in findings[0].advice
    assert len(unchecked) >= 10
    assert all("/nowhere/at/all.npz" in line for line in unchecked)
    assert str(Diagnosis(str(run), "run", [], findings, unchecked)).count("is not at /nowhere") == 2


def test_data_that_was_moved_is_named_and_must_be_the_same(run, tmp_path):
    where = data_of(run)
    PLANTED["data gone"](run)
    shutil.copy(where, tmp_path / "moved.npz")
    assert CHECKS["data gone"](RunSubject(run, str(tmp_path / "moved.npz"))) is None
    arrays = np.load(where)
    np.savez(tmp_path / "other.npz", **{name: arrays[name][1:] for name in arrays.files})
    finding = CHECKS["data gone"](RunSubject(run, str(tmp_path / "other.npz")))
    assert "is not what" in finding.evidence
    with pytest.raises(UsageError, match="is no run"):
        diagnose(str(tmp_path), data=str(where))


def test_a_subject_that_cannot_be_had_is_an_error():
    seen = Round()
    seen.examine(lambda: (_ for _ in ()).throw(UsageError("no model", "train one")), [], "the model")
    [finding] = seen.diagnosis("it", "run").findings
    assert (finding.severity, finding.evidence, finding.advice) == ("error", "no model", "train one")


def test_without_a_checkpoint_or_a_log_the_reason_is_given(run):
    shutil.rmtree(run / "checkpoints")
    findings, unchecked = found_in(run, "damaged checkpoint", "grey", "diverged")
    assert findings == []
    assert len(unchecked) == 2
    assert all("holds no checkpoint" in line for line in unchecked)
    (run / "log.jsonl").unlink()
    assert "holds no line" in found_in(run, "diverged")[1][0]


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe",
        b"recipe: 3",
        pytest.param(b"recipe:\n\tsteps: 1", marks=pytest.mark.full),
        pytest.param(b"- recipe", marks=pytest.mark.full),
    ],
)
def test_a_recipe_that_cannot_be_read_is_an_error_and_hides_nothing_else(run, monkeypatch, text):
    monkeypatch.setattr("ebb.doctor.diagnose.MODEL_CHECKS", [])
    monkeypatch.setattr("ebb.doctor.diagnose.RUN_CHECKS", [CHECKS["damaged checkpoint"]])
    assert not any(finding.severity == "error" for finding in diagnose(run).findings)
    (run / "run.yaml").write_bytes(text)
    found = diagnose(run)
    [recipe] = [finding for finding in found.findings if finding.name == "the recipe missing"]
    assert recipe.severity == "error"
    assert "run.yaml" in recipe.evidence
    assert "damaged checkpoint" in {*found.checked, *(line.split(":")[0] for line in found.unchecked)}


def test_the_older_of_two_checkpoints_may_be_the_damaged_one(run):
    old = run / "checkpoints" / "step-00000100"
    shutil.copytree(checkpoint.newest(run / "checkpoints"), old)
    assert found_in(run, "damaged checkpoint") == ([], [])
    (old / "optim.safetensors").unlink()
    [finding], _ = found_in(run, "damaged checkpoint")
    assert (finding.severity, finding.commands) == ("warning", (f"rm -r {old}",))


def test_the_guard_s_own_account_is_believed(run):
    event = {"step": 40, "what": "rolled back", "cause": "the loss is 7e3, where 0.5 is usual"}
    (run / "guard.json").write_text(json.dumps([event | {"what": "skipped"}]))
    assert found_in(run, "diverged") == ([], [])
    (run / "guard.json").write_text(json.dumps([event, event | {"step": 60, "what": "stopped"}]))
    [finding], _ = found_in(run, "diverged")
    assert "at about step 40" in finding.symptom
    assert "where 0.5 is usual" in finding.evidence


def test_skipped_updates_tell_of_a_rate_too_high(run):
    logged(run, lambda entry, share: {"skipped": int(entry["step"] == 100)})
    assert found_in(run, "rate too high") == ([], [])
    logged(run, lambda entry, share: {"skipped": int(entry["step"] % 50 == 0)})
    assert "skipped 5 of 250" in found_in(run, "rate too high")[0][0].evidence


def test_divergence_names_the_noise_levels_that_drove_it(run):
    PLANTED["diverged"](run)
    said = risen(RunSubject(run).log, RECIPE["steps"] * 2 // 3)
    assert all(place in said for place in ("+6.8 (9 times)", "+8.2 (9", "+9.8 (9"))
    assert risen([{"step": 1}, {"step": 2}], 1) == ""


CHOSEN = {"weight", "ema_halflife", "optimiser.lr", "steps", "condition_dropout"}
"""What a doctor may change in a run that trains again."""


def read_by_the_command_line(command, run):
    """What a pasted command asks for; a run that trains again is the old one but for what is CHOSEN, in a new place."""
    program, *words = shlex.split(command)
    if program == "rm":
        assert words[0] == "-r"
        assert Path(words[1]).is_relative_to(run)
        return None
    assert program == "ebb"
    verb = verb_of(words)
    if getattr(verb, "base", None) is not None:
        assert Path(verb.source).exists()
        before, _ = from_yaml(run / "run.yaml")
        after = overlaid(from_yaml(verb.base)[0], verb.recipe, given_in(words))
        changed = {line.split(":")[0] for line in difference(flat(before.model_dump()), flat(after.model_dump()))}
        assert changed <= CHOSEN | {"budget"}
        assert not verb.run.exists()
    return verb


def cured(run, finding):
    """The run that a finding's commands lead to, each done as the command line does it."""
    for line in finding.commands:
        verb = read_by_the_command_line(line, run)
        if verb is None:
            shutil.rmtree(shlex.split(line)[2])
            continue
        verb(Console(file=io.StringIO()), given_in(shlex.split(line)[1:]))
        run = getattr(verb, "run", None) or run
    return run


CURED = ("damaged checkpoint", "raw weights not finite", "guidance too strong", "too few steps")
"""Findings that end as soon as the advice is followed; bench/doctor.py does the others, which are trained anew."""


@pytest.mark.parametrize("name", CURED)
def test_a_finding_does_not_survive_its_own_cure(name, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where samples are written
    monkeypatch.setattr(remedies, "MEASURED", 10)
    monkeypatch.setattr(fit, "EPOCHS", 2)  # the judge is asked for a choice, not for a good one
    if name in ("damaged checkpoint", "raw weights not finite"):
        shutil.copytree(checkpoint.newest(run / "checkpoints"), run / "checkpoints" / "step-00000251")
    PLANTED[name](run)
    [finding], _ = found_in(run, OF.get(name, name))
    assert found_in(cured(run, finding), OF.get(name, name))[0] == []


def test_a_run_that_trains_again_is_the_same_but_for_what_changes(run):
    """Width, precision and data too, whatever the recipe would choose today; beside the old run and any other."""
    (run.parent / "run-again").mkdir()
    command = RunSubject(run).again({"steps": 900, "optimiser.lr": 2e-4})
    verb = read_by_the_command_line(command, run)
    recipe = overlaid(from_yaml(verb.base)[0], verb.recipe, given_in(shlex.split(command)[1:]))
    assert (recipe.steps, recipe.budget, recipe.optimiser.lr) == (900, None, 2e-4)
    assert (recipe.network.width, recipe.network.patch, recipe.sigma_data) == (16, 2, 0.4559)
    assert verb.run == run.parent / "run-again-2"


def test_another_network_has_the_time_that_the_run_had(run):
    """Where its length was a budget; where it was a number of updates, as many."""
    assert "--budget" not in RunSubject(run).again({"network.width": 32})
    document = (run / "run.yaml").read_text()
    (run / "run.yaml").write_text(document.replace("  steps: 250\n", "", 1))
    assert "--network.width 32 --budget 10s" in RunSubject(run).again({"network.width": 32})


def test_commands_are_quoted(run):
    strange = run.rename(run.parent / "my run $HOME")
    subject = RunSubject(strange)
    for line in (subject.again(), subject.resume, command("sample", strange)):
        assert str(strange) in " ".join(shlex.split(line))
        read_by_the_command_line(line, strange)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 second"), (40, "40 seconds"), (300, "5 minutes"), (7200, "2 hours"), (400_000, "5 days")],
)
def test_how_long_is_said_in_words(seconds, words):
    assert duration(seconds) == words


def test_longer_training_says_how_long(run):
    logged(run, lambda entry, share: {"seconds": entry["images"] / 100})
    said, [command] = remedies.longer(RunSubject(run))
    assert said == "train longer: 32,000 images, about 5 minutes at this run's speed"
    assert "--steps 1000" in command


def test_fine_detail_is_measured_as_stated():
    """White noise has the share of the spectrum's area, a slope none, a checkerboard all; brightness counts nothing."""
    noise = torch.randn(400, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    wave = torch.cos(torch.arange(32) * 2 * math.pi / 32).expand(1, 1, 32, 32)
    for share in (fine_share, lambda x: fine_share(x + 5)):
        assert share(noise) == pytest.approx(1 - math.pi / 16, abs=0.01)
        assert share(board.expand(1, 1, 8, 8)) == pytest.approx(1)
        assert share(wave) == pytest.approx(0, abs=1e-9)

    def along_one_axis(images):
        power = torch.fft.fft2(images.double()).abs().square().sum((0, 1))
        power[0, 0] = 0
        return float(power[:, torch.fft.fftfreq(images.shape[-1]).abs() > 0.25].sum() / power.sum())

    assert along_one_axis(noise) != pytest.approx(1 - math.pi / 16, abs=0.01)  # a mutant, which the oracle rejects


def test_contrast_is_within_images_and_variety_between_them():
    flat = torch.tensor([-1.0, 1.0])[:, None, None, None].expand(2, 1, 4, 4)
    striped = torch.tensor([-1.0, 1.0]).repeat(8).reshape(1, 1, 4, 4).expand(2, 1, 4, 4)
    assert (contrast(flat), variety(flat)) == (0, pytest.approx(math.sqrt(2)))
    assert (contrast(striped), variety(striped)) == (1, 0)


def test_signal_and_noise_of_gradients_are_unbiased():
    """Batches of a Gaussian gradient with known mean and covariance; taking |mean|² for the signal is rejected."""
    rng, size, mean = np.random.default_rng(0), 16.0, np.array([0.3, -0.1, 0.2])
    spread = np.array([1.0, 2.0, 0.5])
    found = []
    for _ in range(3000):
        batches = mean + rng.standard_normal((PARTS, 3)) * spread / math.sqrt(size)
        found.append(Gradients(size, float((batches**2).sum(1).mean()), float((batches.mean(0) ** 2).sum())))
    signal, noise = (mean**2).sum(), (spread**2).sum()
    assert np.mean([each.signal for each in found]) == pytest.approx(signal, rel=0.05)
    assert np.mean([each.noise for each in found]) == pytest.approx(noise, rel=0.05)
    assert np.mean([each.together for each in found]) != pytest.approx(signal, rel=0.05)


@pytest.mark.parametrize(("path", "prediction"), [("linear", "velocity"), ("cosine", "v"), ("edm", "edm")])
def test_the_best_answer_place_by_place_is_the_exact_one(path, prediction):
    """Against what the exact denoiser of independent Gaussians loses on samples of them."""
    generator = torch.Generator().manual_seed(0)
    scale, mean = torch.tensor([0.1, 0.5, 1.5]), torch.tensor([0.2, -0.5, 0.0])
    real = mean + scale * torch.randn(20_000, 3, generator=generator)
    model = NetworkDenoiser(MLP(3), PATHS[path], PREDICTIONS[prediction])
    u = (torch.arange(len(real), dtype=torch.float64) + 0.5) / len(real)
    t = DENSITIES["uniform"](model.path, u)
    alpha, sigma = model.path.alpha(t)[:, None], model.path.sigma(t)[:, None]
    eps = torch.randn(real.shape, generator=generator)
    gain = alpha * scale**2 / (alpha**2 * scale**2 + sigma**2)
    clean = mean + gain * (alpha * real + sigma * eps - alpha * mean)
    det = determinant(model.path, t, *model.prediction(model.path, t))[:, None]
    loss = float((det / sigma * (clean - real)).square().mean())
    assert alone(model, DENSITIES["uniform"], real) == pytest.approx(loss, rel=0.03)
    assert alone(model, DENSITIES["uniform"], real) != pytest.approx(
        float((clean - real).square().mean()), rel=0.03
    )  # x̂0's error, not F's


def test_smoothing_and_significance():
    assert smoothed(np.array([1.0, 1, 90, 1, 1, 1, 1])).tolist() == [1, 1, 1]
    assert significance(torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(2 / (1 / math.sqrt(3)))


NOISY = {"ddpm", "churn", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_2s_sde", "euler_maruyama", "predictor_corrector",
         "restart"}  # fmt: skip


def test_solvers_that_add_noise_are_known_by_what_they_ask_for():
    model = NetworkDenoiser(MLP(1), PATHS["linear"], PREDICTIONS["velocity"])

    def asks(solver):
        return scheme_of(model, Sampling(solver=solver, steps=16)).stochastic

    assert {solver for solver in SOLVERS if asks(solver)} == NOISY
    assert asks("ddim(eta=0.5)")


def test_two_numbers_of_steps_of_a_noisy_solver_are_not_compared(run):
    sampled(run, solver="ddpm", steps=4)
    findings, [reason] = found_in(run, "too few steps")
    assert findings == []
    assert "ddpm adds noise" in reason


def test_figures_of_raw_weights_are_fine_where_these_are_as_good(run):
    where = checkpoint.newest(run / "checkpoints").name
    (run / "evaluation.json").write_text(json.dumps({"settings": {"weights": "model", "checkpoint": where}}))
    assert found_in(run, "raw weights measured") == ([], [])


def test_a_verdict_of_an_evaluation_is_taken_over(run):
    where = checkpoint.newest(run / "checkpoints").name
    kept = {"verdict": "most samples are copies: 60 %", "spaces": [{"chance": 1e-9}], "pairs": [[3, 7, 0.0]]}
    for settings, due in (({"checkpoint": "step-00000001"}, False), ({"checkpoint": where}, True)):
        (run / "evaluation.json").write_text(json.dumps({"settings": settings, "memorisation": kept}))
        findings, _ = found_in(run, "memorised")
        assert bool(findings) == due
    assert "60 %" in findings[0].evidence


def test_an_overfitting_check_needs_validations(run):
    logged(run, lambda entry, share: {"validation_ema": None})
    findings, [reason] = found_in(run, "overfitting")
    assert (findings, "no validation losses" in reason) == ([], True)


def test_a_finding_says_it_all_in_one_piece():
    said = str(Finding("a", "b", "c", "d", "e", "error", ("ebb doctor x", "ebb doctor y")))
    assert said.split("\n") == ["error: b", "  c", "  because d", "  → e", "    ebb doctor x", "    ebb doctor y"]


def test_what_a_cause_brings_about_stands_behind_it_without_advice_of_its_own():
    findings = [Finding(name, f"{name}!", "", "", "do", "warning", ("ebb",)) for name in ("grainy", "memorised")]
    assert causes_first(findings) == findings
    cause = Finding("bottleneck", "narrow", "", "", "widen", "error", ("ebb train",))
    short = Finding("too short", "short", "", "", "longer")
    first, other, *behind = causes_first([short, *findings, cause])
    assert (first, other) == (cause, findings[1])
    assert [each.name for each in behind] == ["too short", "grainy"]
    assert all("narrow" in each.cause and not each.commands for each in behind)


def test_samples_of_a_model_that_learnt_one_image_may_be_alike(run, monkeypatch):
    subject = RunSubject(run)
    monkeypatch.setitem(subject.__dict__, "real", subject.real[:1])
    with pytest.raises(NothingToExamineError, match="one image"):
        CHECKS["samples alike"](subject)
    assert alone(subject.system.denoiser, subject.density, subject.real) == 0
    assert significance(torch.ones(1)) == 0
    assert variety(subject.real) == 0


def test_more_steps_are_advised_where_they_help_and_else_longer_training(run):
    subject = RunSubject(run)
    settings = {"steps": 4 * subject.system.sampling.steps}
    assert remedies.helping(subject, lambda drawn: False) == settings
    said, commands = remedies.remedy(subject, lambda drawn: False)
    assert f"steps {settings['steps']}" in said
    assert commands[0] == f"ebb sample {run} --steps {settings['steps']}"
    assert remedies.remedy(subject, lambda drawn: True) == remedies.longer(subject)
    sampled(run, guidance=5.0)
    scales = []
    remedies.helping(RunSubject(run), lambda drawn: scales.append(drawn.samples.mean()) or True)
    assert len(scales) == 3
    assert len(set(scales)) == 3


def test_an_autoencoder_is_not_said_to_be_dead():
    found = diagnose(System(LatentPrior(LatentSpace(KL(1, width=8), (0.0,) * 4, (1.0,) * 4)), (1, 8, 8)))
    assert found.findings == []
    assert "no denoiser" in found.inapplicable[0]


def test_a_layer_too_narrow_is_found_first_with_the_width_that_is_enough(run, monkeypatch):
    """Of a run: 16 values of a grey patch of 4 through 8 channels; the command names what cures it."""
    again(run, steps=2, network={"width": 8, "depth": 1, "patch": 4, "multipliers": (1,)})
    first, *others = diagnose(run).findings
    assert first.name == "bottleneck"
    assert others
    assert all(other.advice == "mend that first" for other in others if other.name in BRINGS_ABOUT["bottleneck"])
    [command] = first.commands
    verb = verb_of(shlex.split(command)[1:])
    recipe = overlaid(from_yaml(verb.base)[0], verb.recipe, given_in(shlex.split(command)[1:]))
    assert (recipe.network.width, recipe.network.patch, recipe.steps) == (32, 4, 2)
    trained(run, data_of(run), steps=2, network=recipe.network.model_dump(exclude_none=True))
    monkeypatch.setattr(
        "ebb.doctor.diagnose.RUN_CHECKS", [CHECKS["damaged checkpoint"]]
    )  # a model is asked for this one
    assert "bottleneck" not in [finding.name for finding in diagnose(run).findings]


def test_a_log_too_short_for_a_course_is_said_to_be(run):
    lines = (run / "log.jsonl").read_text().splitlines()[:5]
    (run / "log.jsonl").write_text("\n".join(lines) + '\n{"step": 6, "lo')
    assert len(RunSubject(run).log) == 5
    with pytest.raises(UsageError, match="5 lines"):
        CHECKS["rate too high"](RunSubject(run))
