import contextlib
import dataclasses
import time

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ebb.cli.form import Form
from ebb.cli.train import overlaid
from ebb.data.scan import read
from ebb.errors import ResourceError, UsageError
from ebb.events import finished
from ebb.process.path import PATHS
from ebb.process.times import DENSITIES
from ebb.recipe.by_speed import ENOUGH, default_budget, suited_batch, suited_width
from ebb.recipe.document import from_yaml, options, to_yaml, validated
from ebb.recipe.few_numbers import adapting
from ebb.recipe.limits import LIMITS
from ebb.recipe.names import parse
from ebb.recipe.recipe import AdapterRecipe, Recipe, difference, flat, resolved, seconds
from ebb.recipe.starting import Facts, complete, shifted
from ebb.run.plan import fastest, resolve
from ebb.run.prepare import prepared
from ebb.system.families.families import FAMILIES

MNIST = Facts(60_000, (1, 28, 28), 0.6, conditioned=True)


@pytest.mark.parametrize(("text", "value"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("1d", 86400)])
def test_durations(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "10", "m", "ten minutes", "-1m", "0s"])
def test_other_durations_are_refused(text):
    with pytest.raises(UsageError, match="a budget is a number with s, m, h or d"):
        seconds(text)


def test_a_file_reads_back(tmp_path):
    recipe = Recipe(budget="10m", network={"width": 96, "multipliers": (1, 2)})
    (tmp_path / "r.yaml").write_text(to_yaml(recipe, data="x"))
    assert from_yaml(tmp_path / "r.yaml") == (recipe, {"data": "x"})


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"network": {"widht": 3}}, "no field network.widht, did you mean 'network.width'"),
        (
            {"network": {"positions": "learned"}},
            r"network\.positions is of dit; this network is of unet: --network\.kind dit",
        ),
        (
            {"kind": "autoencoder", "path": "linear"},
            "path is of diffusion, few_step and adapter; this recipe is of autoencoder: --kind diffusion",
        ),
        (
            {"autoencoding": {"codes": 3}},
            "autoencoding is of autoencoder; this recipe is of diffusion: --kind autoencoder",
        ),
        ({"kind": "autoencoder", "autoencoding": {"codes": 3}}, "codes is of vq; this autoencoding is of kl"),
        ({"kind": "gan"}, "no kind of recipe called 'gan'"),
        ({"network": {"kind": "cnn"}}, r"network\.kind: input should be one of 'unet', 'dit', 'mmdit'"),
        ({"batch": "many"}, "batch: input should be a valid integer"),
        ({"batch": 0}, "batch must be between 1"),
        ({"precision": "fp8"}, "precision: input should be 'fp32' or 'bf16'"),
        ({"network": {"attention": [99]}}, "network.attention must be between 0 and 16, got 99"),
        ([1], "expected a mapping"),
    ],
)
def test_wrong_fields_are_named(tree, message):
    with pytest.raises(UsageError, match=message):
        validated(tree, "r.yaml")


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda c: st.dictionaries(st.sampled_from(["network", "batch", "lr", "optimiser", "seed"]), c),
        max_leaves=8,
    )
)
def test_no_document_gives_anything_but_a_recipe_or_a_usage_error(tree):
    with contextlib.suppress(UsageError):
        validated(tree, "r.yaml")


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / "r.yaml").write_text("a: [1")
    with pytest.raises(UsageError, match=r"r\.yaml is not YAML"):
        from_yaml(tmp_path / "r.yaml")
    with pytest.raises(UsageError, match="cannot read"):
        from_yaml(tmp_path / "none.yaml")


def test_what_was_asked_is_what_differs_from_the_defaults():
    recipe = Recipe(seed=0, network={"width": 96})
    assert recipe.asked() == {"network.width": 96}
    assert difference({}, recipe.asked()) == ["network.width: chosen → 96"]


def test_a_budget_beside_steps_is_not_asked_for():
    """As of every run.yaml that one starts from: the command line takes one of them, and the steps decide."""
    assert Recipe(budget="10s").asked() == {"budget": "10s"}
    assert Recipe(budget="10s", steps=5).asked() == {"steps": 5}


def test_every_limit_belongs_to_a_field():
    assert set(LIMITS) <= set(options())


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 48, 20), (1, 256, 256)])
def test_everything_is_chosen_and_every_choice_has_a_reason(shape):
    recipe, reasons = complete(Recipe(), Facts(1000, shape, 0.5, conditioned=True))
    values = flat(recipe.model_dump())
    open_ones = {name for name, value in values.items() if value is None}
    assert open_ones <= {
        "data.window",
        "autoencoder",
        "beside",
        "reflow",
        "budget",
        "steps",
        "precision",
        "engine",
        "sample.precision",
        "sheets",
        "data.size",
        "text.length",
    }
    assert all(reasons[name] for name in reasons)
    assert {"network.width", "batch", "sigma_data", "optimiser.lr"} <= set(reasons)
    yaml.safe_load(to_yaml(recipe))


def test_what_is_asked_is_kept():
    asked = Recipe(batch=7, sigma_data=0.3, network={"width": 40}, sample={"guidance": 3.0})
    recipe, reasons = complete(asked, MNIST)
    assert (recipe.batch, recipe.sigma_data, recipe.network.width, recipe.sample.guidance) == (7, 0.3, 40, 3.0)
    assert not {"batch", "sigma_data", "network.width", "sample.guidance"} & set(reasons)


@pytest.mark.parametrize(
    ("path", "prediction"),
    [("linear", "velocity"), ("cosine", "v"), ("ddpm_linear", "v"), ("edm", "edm(sigma_data=0.6)")],
)
def test_what_suits_the_path_is_chosen(path, prediction):
    recipe, reasons = complete(Recipe(path=path), MNIST)
    assert recipe.prediction == prediction
    times = {"edm": "log_normal", "linear": "logit_normal(mean=0.4)"}.get(path, "logit_normal")
    assert (recipe.times, recipe.clock) == (times, "quarter_log_nsr" if path == "edm" else "fraction")
    assert {"prediction", "times", "clock"} <= set(reasons)


def test_a_bare_edm_takes_the_deviation_of_the_data():
    recipe, _ = complete(Recipe(prediction="edm", weight="edm", sigma_data=0.4), MNIST)
    assert (recipe.prediction, recipe.weight) == ("edm(sigma_data=0.4)", "edm(sigma_data=0.4)")


def test_guidance_that_is_asked_off_stays_off():
    assert complete(Recipe(sample={"guidance": 1.0}), MNIST)[0].sample.guidance == 1.0


def test_an_open_recipe_is_not_a_resolved_one():
    with pytest.raises(UsageError, match="leaves fields open"):
        resolved(Recipe().batch)


def test_adamw_gets_a_rate_of_its_own():
    muon, _ = complete(Recipe(), MNIST)
    adamw, _ = complete(Recipe(optimiser={"kind": "adamw"}), MNIST)
    asked, _ = complete(Recipe(optimiser={"kind": "adamw", "lr": 0.1}), MNIST)
    assert (muon.optimiser.kind, adamw.optimiser.kind) == ("muon", "adamw")
    assert (muon.optimiser.lr, adamw.optimiser.lr, asked.optimiser.lr) == (6e-3, 1.5e-3, 0.1)
    dit, turned = (complete(Recipe(network={"kind": "dit"}, optimiser=o), MNIST)[0] for o in ({}, {"kind": "muon"}))
    assert (dit.optimiser.kind, dit.optimiser.lr, turned.optimiser.lr) == ("adamw", 1e-3, 4e-3)


def test_without_labels_there_is_no_guidance():
    recipe, _ = complete(Recipe(), Facts(100, (1, 8, 8), 0.5))
    assert (recipe.condition_dropout, recipe.sample.guidance, recipe.batch) == (0.0, 1.0, 100)


def test_a_short_run_has_a_narrower_network_that_makes_more_updates():
    def widths(asked, facts=MNIST):
        recipe = complete(asked, facts)[0]
        return [suited_width(recipe, facts, updates)[0] for updates in (10 * ENOUGH, ENOUGH, ENOUGH / 1.3, ENOUGH / 5)]

    assert widths(Recipe(budget="1m")) == [64, 64, 48, 32]
    colour = dataclasses.replace(MNIST, shape=(3, 32, 32))
    assert widths(Recipe(budget="1m"), colour) == [96, 96, 80, 32]
    assert "where 64 makes 300" in suited_width(complete(Recipe(budget="1m"), MNIST)[0], MNIST, 300)[1]


def test_a_batch_is_smaller_where_few_updates_fit():
    recipe = Recipe(batch=64, budget="90s")
    assert [suited_batch(recipe, updates)[0] for updates in (1000, 150, 149, 75, 40, 1)] == [64, 64, 32, 32, 16, 16]
    assert suited_batch(recipe, 40)[1] == "; smaller for more updates in 90s, where 64 makes 40"
    assert suited_batch(Recipe(batch=24, budget="1m"), 1) == (24, "")


def test_the_batch_is_chosen_by_the_clock_unless_it_is_given(pictures, paced):
    learnt = finished(prepared(Recipe(), read(str(pictures))))  # 48 images, all of them in a batch

    def batch(speed, **asked):
        paced(speed)
        return finished(resolve(Recipe(precision="fp32", **asked), learnt, torch.device("cpu")))[0].batch

    assert batch(100.0, budget="10m") == 48
    assert batch(100.0, budget="30s") == 24
    assert batch(100.0, budget="30s", batch=48) == 48
    assert batch(100.0, steps=5) == batch(100.0) == 48


def test_the_width_is_chosen_by_the_clock_unless_it_is_given(pictures, paced):
    paced(100.0)
    learnt = finished(prepared(Recipe(), read(str(pictures))))

    def width(**asked):
        asked = Recipe(precision="fp32", **asked)
        recipe, reasons = finished(resolve(asked, learnt, torch.device("cpu")))
        return recipe.network.width, "narrower" in reasons.get("network.width", "")

    assert width(budget="10s") == (32, True)
    assert width(budget="10h") == (64, False)
    assert width(budget="10s", network={"width": 24}) == (24, False)
    assert width(steps=5) == (64, False)
    assert width() == (64, False)
    assert width(budget="10s", network={"kind": "dit"}) == (192, False)
    coder = Recipe(kind="autoencoder")
    assert not FAMILIES["autoencoder"].timed(coder, coder)


def test_compiling_is_tried_where_it_can_pay_and_kept_where_it_does(pictures, monkeypatch):
    learnt = finished(prepared(Recipe(), read(str(pictures))))
    speeds, failure = {"eager": 100.0, "compiled": 150.0}, list[Exception]()

    def pace(recipe, *_):
        if recipe.runs == "compiled" and failure:
            raise failure[0]
        return speeds[recipe.runs or "eager"]

    def chosen(device="cuda", spent=0.0, **asked):
        began = time.perf_counter() - spent
        return finished(fastest(Recipe(**asked), learnt, torch.device(device), began))

    monkeypatch.setattr("ebb.run.plan.pace", pace)
    assert chosen(budget="20m") == ("compiled", 150.0, "measured eager 100 images/s, compiled 150 images/s")
    for others in (
        chosen(budget="15m"),
        chosen(budget="20m", spent=300.0),
        chosen("cpu", budget="1d"),
        chosen(budget="1d", engine="eager"),
        chosen(budget="1d", kind="autoencoder"),
        chosen(),  # 17 minutes
    ):
        assert others[:2] == ("eager", 100.0)
    assert chosen("cpu", budget="10s", engine="compiled")[:2] == ("compiled", 150.0)
    speeds["compiled"] = 102.0
    assert chosen(budget="20m")[:2] == ("eager", 100.0)
    speeds |= {"eager": 50.0}
    assert chosen()[:2] == ("compiled", 102.0), "33 minutes"
    failure.append(ResourceError("no compiler", "train without"))
    assert chosen(budget="20m") == ("eager", 50.0, "no compiler")
    with pytest.raises(ResourceError, match="no compiler"):
        chosen(engine="compiled")
    failure[0] = RuntimeError("no such kernel")
    assert chosen(budget="20m") == ("eager", 50.0, "no such kernel")
    with pytest.raises(UsageError, match="engine is of diffusion, few_step and adapter; this recipe is of autoencoder"):
        validated({"kind": "autoencoder", "engine": "compiled"}, "a file")


def test_the_default_budget_is_bounded():
    assert default_budget(MNIST, 1e9, 0)[0] == "1m"
    assert default_budget(MNIST, 1, 0)[0] == "60m"
    assert default_budget(MNIST, 500, 0)[0] == "13m"
    assert default_budget(MNIST, 500, 300)[0] == "18m", "what was spent on latents is not taken from it"


def test_more_tokens_shift_the_times_as_a_finer_picture_asks():
    """Four times the tokens: t ↦ 2t/(1 + t), and a mutant that shifts the other way."""
    path, u = PATHS["linear"], torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    usual, finer = (parse(shifted(tokens), DENSITIES, "density")(path, u) for tokens in (64, 256))
    torch.testing.assert_close(finer, 2 * usual / (1 + usual), atol=2e-3, rtol=0)  # means have two digits
    assert (finer > usual).all()
    coarse, fine = (
        complete(Recipe(network={"kind": "dit", "patch": patch}), Facts(9, (1, 32, 32), 0.5))[0] for patch in (4, 2)
    )
    assert (coarse.times, fine.times) == ("logit_normal(mean=0.4)", shifted(256))
    assert complete(Recipe(network={"patch": 2}), MNIST)[0].times == "logit_normal(mean=0.4)"


FORMER = """
recipe: {autoencoder: null, reflow: null, pairs: 20000, numbers: [], beside: null, budget: null, steps: 2, batch: 8,
  seed: 0, path: linear, prediction: velocity, times: logit_normal(mean=0.4), coupling: independent, weight: unit,
  clock: fraction, sigma_data: 0.719, label_dropout: 0.1, precision: fp32, engine: eager, grids: 1,
  ema_halflife: 500000.0, data: {size: 8, channels: 1, flip: false},
  text: {captions: heard, vocabulary: 1024, length: null, concepts: 0, encoders: []},
  network: {kind: dit, width: 16, depth: 1, patch: 1, multipliers: null, attention: null, cross: null,
    positions: learned},
  autoencoding: {kind: vq, factor: 2, latent: 3, residual: false, distance: l2, width: 16, beta: 0.001,
    free_nats: 0.0, warmup: 0, codes: 8, perceptual: 0.0, lpips: null, adversarial: 0.0},
  optimiser: {kind: adamw, lr: 0.001, warmup: 0, decay: 0.25, weight_decay: 0.01, clip: 1.0, accumulate: 1},
  sample: {solver: dpmpp_2m, grid: log_snr, steps: 16, guidance: 1.0, precision: fp32}, kind: KIND}
"""
"""What commit d84c124 wrote: every option, whatever the kind."""


def test_a_recipe_of_before_the_kinds_is_read(tmp_path):
    (tmp_path / "denoiser.yaml").write_text(FORMER.replace("KIND", "denoiser"))
    (tmp_path / "coder.yaml").write_text(FORMER.replace("KIND", "autoencoder"))
    denoiser, coder = (from_yaml(tmp_path / f"{name}.yaml")[0] for name in ("denoiser", "coder"))
    assert denoiser.asked()["network.positions"] == "learned"
    assert (denoiser.kind, denoiser.steps, denoiser.sample.precision) == ("diffusion", 2, "fp32")
    assert (coder.kind, coder.steps, coder.autoencoding.kind, coder.autoencoding.codes) == ("autoencoder", 2, "vq", 8)
    for recipe in (denoiser, coder):
        (tmp_path / "again.yaml").write_text(to_yaml(recipe))
        assert from_yaml(tmp_path / "again.yaml")[0] == recipe


def test_words_of_before_are_read_where_files_have_them(tmp_path):
    """What was asked and the command of a run, too, so that the same words resume it; elsewhere the new one is named."""
    asked = "command: ebb train digits --grids 3 --label_dropout 0.2 --steps 2\nasked: {grids: 3, label_dropout: 0.2}"
    (tmp_path / "run.yaml").write_text(f"{asked}\n{FORMER.replace('KIND', 'denoiser')}")
    recipe, rest = from_yaml(tmp_path / "run.yaml")
    assert (recipe.sheets, recipe.condition_dropout) == (1, 0.1)
    assert rest["asked"] == {"sheets": 3, "condition_dropout": 0.2}
    assert rest["command"] == "ebb train digits --sheets 3 --condition_dropout 0.2 --steps 2"
    with pytest.raises(UsageError, match="grids is called sheets"):
        validated({"grids": 3}, "here")


def test_another_kind_over_a_recipe_takes_what_fits():
    base = Recipe(network={"width": 32, "multipliers": (1, 2)}, seed=5)
    other = overlaid(base, Form(network={"kind": "dit", "positions": "learned"}), {"network.kind", "network.positions"})
    assert (other.network.kind, other.network.width, other.network.positions) == ("dit", 32, "learned")
    coder = overlaid(base, Form(kind="autoencoder"), {"kind"})
    assert (coder.kind, coder.seed) == ("autoencoder", 5)
    with pytest.raises(UsageError, match="positions is of dit"):
        overlaid(base, Form(network={"positions": "learned"}), {"network.positions"})


def test_a_likelihood_is_learnt_at_every_level_in_float32():
    facts = Facts(1000, (1, 28, 28), 0.5)
    family = FAMILIES["diffusion"]
    recipe, reasons = family.complete(Recipe(likelihood=True), facts)
    assert (recipe.times, recipe.precision) == ("long_tailed(mean=0.4)", "fp32")
    values = torch.arange(256) * 2 / 255 - 1
    fine, coarse = (torch.sin(wave * values / 0.5) for wave in recipe.network.waves)  # x/σ_data, as a network sees it
    assert float(fine.abs().max()) < 0.01, "as long as one 8-bit value"
    assert float((coarse[1:] + coarse[:-1]).abs().max()) < 0.01, "as two"
    assert {"times", "precision", "network.waves"} <= set(reasons)
    own, _ = family.complete(Recipe(likelihood=True, times="uniform", network={"waves": (3.0,)}), facts)
    assert (own.times, own.network.waves) == ("uniform", (3.0,))
    assert family.complete(Recipe(), facts)[0].times == "logit_normal(mean=0.4)"
    others = [family.complete(Recipe(likelihood=True, path=path), facts)[0].times for path in ("cosine", "edm")]
    assert others == ["long_tailed", "long_tailed(mean=-1.2, std=1.2)"]


@pytest.mark.parametrize("batch", [None, 32])
def test_a_controls_batch_is_learnt_in_pieces_unless_it_is_given(batch):
    """As many examples in an update as without: what is kept for a gradient is that of a piece."""
    facts = Facts(1000, (3, 24, 24), 0.5)
    whole = complete(AdapterRecipe(adapts="base", prior=0, batch=batch), facts)[0].batch
    control = {"kind": "control", "extractor": "edges"}
    recipe, reasons = adapting(AdapterRecipe(adapts="base", batch=batch, addition=control), facts)
    pieces = recipe.optimiser.accumulate
    assert recipe.batch * pieces == whole
    assert pieces == (4 if batch is None else 1)
    assert ("memory" in reasons.get("optimiser.accumulate", "")) == (batch is None)
