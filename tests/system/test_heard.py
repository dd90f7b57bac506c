"""Runs that hear numbers and a picture beside: what is asked for comes, alone, in latents and with all that is heard."""

from __future__ import annotations

import copy
import io
import json
import signal
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from ebb.cli import output
from ebb.data.images import settings_of
from ebb.data.metadata import Fields
from ebb.data.of_run import data_of
from ebb.data.pictures import opened, to_unit
from ebb.data.scan import read
from ebb.doctor.model_checks import check_condition_ignored
from ebb.doctor.model_subject import ModelSubject
from ebb.edit.editor import Editor
from ebb.edit.samples import Prompt, hint, sample_to
from ebb.errors import DamagedError, DataError, EbbError, UsageError
from ebb.evaluate.evaluate import evaluate
from ebb.events import finished
from ebb.recipe.document import from_yaml, validated
from ebb.recipe.recipe import Recipe
from ebb.run import preview
from ebb.run.build import build
from ebb.run.plan import resolve
from ebb.run.prepare import prepared
from ebb.run.train import train
from ebb.store import checkpoint
from ebb.system.families.family import autocast_of
from ebb.system.requests import asked_for
from ebb.system.sampler import Sampler
from ebb.system.system import System, load
from ebb.train.loop import Descent, updates

from ..command import ebb
from ..toys import SMALL, Reads

QUICK = {"network": {"width": 16, "depth": 1}, "batch": 32, "precision": "fp32", "sheets": 1, "sample": {"steps": 4}}
QUICK |= {"steps": 50, "ema_halflife": 200, "optimiser": {"warmup": 10}}


def write(folder, image, count=64, others=False):
    """Blocks beside pictures that `image(i, blocks)` makes of them, with the mean of each as its `light`.

    With `others` they have another number, labels and captions too, and some lack something.
    """
    (folder / "masks").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for i in range(count):
        blocks = np.kron(rng.integers(0, 2, (4, 4), dtype=np.uint8) * 255, np.ones((2, 2), np.uint8))
        pixels = image(i, blocks)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
        Image.fromarray(blocks).save(folder / "masks" / f"{i:02}.png")
        row = {"file_name": f"{i:02}.png", "light": float(pixels.mean()), "mask": f"masks/{i:02}.png"}
        more = {"dark": 1 - i / count, "label": "ab"[i % 2], "text": ["an even one", "an odd one"][i % 2]}
        rows.append(row | (more if others else {}))
    if others:
        rows[3]["dark"] = rows[4]["mask"] = None
        del rows[5]["mask"], rows[5]["light"], rows[5]["text"]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def run(data, folder, /, **asked):
    said = io.StringIO()
    output.shown(train(str(data), Recipe(**asked), run=folder), Console(file=said, width=150))
    return said.getvalue()


def check_light(system):
    """Pictures are as light as they were asked to be."""
    asked = torch.tensor([80.0, 120, 160, 200])
    made = system.sample(4, given={"numbers": {"light": asked.tolist()}}) * 127.5 + 127.5
    assert (made.mean((1, 2, 3)) - asked).abs().max() < 40


def check_masks(system, files):
    """Pictures are white where what stands beside them is."""
    made, beside = system.sample(len(files), given={"mask": files}), opened(files, (1, 8, 8))
    assert ((made > 0) == (beside > 0)).float().mean() > 0.95


def deaf(system):
    """A mutant that hears nothing of what is asked."""
    null = system.conditioner.null()

    class Deaf(System):
        def conditions(self, given, count):
            return {name: row.expand(count, *row.shape[1:]) for name, row in null.items()}

    return Deaf(system.model, system.shape, system.conditioner, system.sampling)


@pytest.mark.full
def test_a_picture_is_as_light_as_the_number_says(tmp_path):
    write(tmp_path / "data", lambda i, _: np.full((8, 8), 60 + 3 * i, np.uint8))
    run(tmp_path / "data", tmp_path / "run", numbers=("light",), **QUICK | {"steps": 80})
    system = load(tmp_path / "run")
    check_light(system)
    with pytest.raises(AssertionError):
        check_light(deaf(system))


def test_a_picture_is_what_stands_beside_it_mirrored_or_not(tmp_path):
    write(tmp_path / "data", lambda _, blocks: blocks)
    run(tmp_path / "data", tmp_path / "run", beside="mask", data={"flip": True}, **QUICK)
    system, files = load(tmp_path / "run"), sorted((tmp_path / "data" / "masks").iterdir())[:8]
    check_masks(system, files)
    with pytest.raises(AssertionError):
        check_masks(deaf(system), files)


ALL = {**SMALL, "numbers": ("light", "dark"), "beside": "mask"}
ALL.pop("autoencoding")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = tmp_path_factory.mktemp("heard")
    rng = np.random.default_rng(1)
    write(root / "data", lambda _, blocks: rng.integers(0, 120, (8, 8), dtype=np.uint8) + blocks // 2, 32, True)
    run(root / "data", root / "all", **ALL)
    coder = {name: value for name, value in SMALL.items() if name not in ("network", "sample")}
    run(root / "data", root / "ae", kind="autoencoder", beside="mask", **coder)
    run(root / "data", root / "latent", autoencoder=str(root / "ae"), **ALL, data={"flip": True})
    return root


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"precision": "bf16", "optimiser": {"accumulate": 2}},
        {"network": {"kind": "dit", "width": 16, "depth": 1}},
        {"network": {"kind": "mmdit", "width": 16, "depth": 1}},
        {"path": "edm", "weight": "edm"},
        {"path": "cosine", "prediction": "noise", "weight": "min_snr", "times": "discrete"},
    ],
    ids=lambda asked: "-".join(asked) or "default",
)
def test_no_update_waits_for_the_device(home, asked):
    """As a GPU would be waited for; on a CPU nothing tells but the questions."""
    asked, cpu = validated(ALL | asked, "the test"), torch.device("cpu")
    learnt = finished(prepared(asked, read(str(home / "data"), fields=Fields(asked.numbers, asked.beside))))
    recipe, _ = finished(resolve(asked, learnt, cpu))
    parts, more = build(recipe, learnt, cpu), recipe.optimiser.accumulate
    batches = [parts.loader(number) for number in range(3 * more)]
    how = Descent(accumulate=more, autocast=autocast_of(recipe))

    def reads(objective):
        training = copy.deepcopy(parts.training)
        steps = updates(training, objective, batches.__getitem__, how, steps=3)
        next(steps)
        with Reads() as found:
            assert len(list(steps)) == 2
        return found.count

    def mutant(model, batch, generator):
        dark = batch.cond["numbers"][batch.x0.amax((1, 2, 3)) < 0]
        return parts.objective(model, batch, generator)._replace(terms={"dark": dark.sum()})

    assert reads(parts.objective) == 0
    assert reads(mutant) == 2 * more


def stirred(system):
    """The system with weights that answer each condition differently: after three steps it answers alike."""
    with torch.no_grad():
        for parameter in system.denoiser.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return system


@pytest.mark.parametrize("kind", ["all", "latent"])
def test_all_that_is_heard_can_be_asked_for_in_any_combination(home, kind):
    system, mask = stirred(load(home / kind)), home / "data" / "masks" / "00.png"
    asked = {"label": "a", "text": "an odd one", "numbers": {"light": 90, "dark": 0.5}, "mask": mask}
    made = {(): system.sample(2, label=None, text="")}
    for name, value in asked.items():
        made[name] = system.sample(2, given={"text": "", name: value})
        made["not", name] = system.sample(2, given={other: what for other, what in asked.items() if other != name})
    made["every"] = system.sample(2, given=asked)
    every = list(made.values())
    assert all(x.shape == (2, 1, 8, 8) for x in every)
    assert not any(torch.allclose(every[i], every[j]) for i in range(len(every)) for j in range(i))
    assert not torch.allclose(system.sample(2, given=asked, guidance=2.0), made["every"])
    tensor = opened([mask], (1, 8, 8))[0]
    assert torch.equal(system.sample(2, given={**asked, "mask": tensor}), made["every"])


@pytest.mark.parametrize("kind", ["dit", "mmdit"])
def test_transformers_hear_them_too(home, tmp_path, kind):
    network = {"kind": kind, "width": 16, "depth": 1, "patch": 2}
    run(home / "data", tmp_path / "run", **ALL | {"network": network, "steps": 2})
    system = stirred(load(tmp_path / "run"))
    made = [
        system.sample(1, given={"numbers": {"light": light, "dark": 0.5}, "mask": torch.ones(1, 8, 8)})
        for light in (50, 200)
    ]
    made.append(system.sample(1, given={"numbers": {"light": 200, "dark": 0.5}, "mask": -torch.ones(1, 8, 8)}))
    assert not any(torch.allclose(made[i], made[i - 1]) for i in range(3))


def test_what_is_missing_is_said_and_learnt_without(home, tmp_path):
    said = run(home / "data", tmp_path / "run", **ALL | {"steps": 1})
    assert "without dark (1)" in said
    assert "without mask (2)" in said
    recipe, dataset = from_yaml(tmp_path / "run" / "run.yaml")[0], data_of(tmp_path / "run")
    cond = finished(prepared(recipe, dataset, cache=home)).examples.conditions(np.arange(8), torch.device("cpu"))
    assert cond["numbers"].isnan().all(1).tolist() == [at in (3, 5) for at in range(8)]
    assert cond["mask"].flatten(1).isnan().all(1).tolist() == [at in (4, 5) for at in range(8)]
    assert all(
        torch.isfinite(value).all()
        for value in checkpoint.read(checkpoint.newest(home / "all" / "checkpoints"), "model").values()
    )


def test_a_contract_says_all_that_is_heard_and_a_mismatch_is_refused_by_name(home):
    for kind in ("all", "latent"):
        system = load(home / kind)
        contract = json.loads(json.dumps(system.contract()))
        assert System.from_contract(contract).conditioner == system.conditioner
        assert system.conditioner.maps["mask"].factor == (2 if kind == "latent" else 1)
        assert system.conditioner.numbers.names == ("light", "dark")
    wrong = contract["conditions"] | {"mask": contract["conditions"]["mask"] | {"factor": 1}}
    for change, said in (
        (
            {name: one for name, one in contract["conditions"].items() if name != "numbers"},
            r"numbers is nothing, for a network of vector\(count=2\)",
        ),
        (
            {name: one for name, one in contract["conditions"].items() if name != "mask"},
            r"mask is nothing, for a network of map\(channels=4\)",
        ),
        (wrong, r"mask is map\(channels=1\), for a network of map\(channels=4\)"),
        (wrong | {"mask": contract["conditions"]["mask"] | {"shape": [1, 4, 8]}}, "mask has 4×2 places"),
    ):
        with pytest.raises(DamagedError, match=said):
            System.from_contract(contract | {"conditions": change})
    assert load(home / "ae").contract()["conditions"] == {}


def test_latents_are_mirrored_with_what_stands_beside_them_and_made_once(home):
    recipe, dataset = from_yaml(home / "latent" / "run.yaml")[0], data_of(home / "latent")
    found = finished(prepared(recipe, dataset, cache=home))
    index, turned = np.arange(4), torch.tensor([True, False, True, False])
    heard = found.examples.conditions(index, torch.device("cpu"), turned)["mask"]
    masks = to_unit(torch.from_numpy(dataset.metadata.beside["mask"].pixels[dataset.metadata.beside["mask"].at[:4]]))
    masks[turned] = masks[turned].flip(-1)
    assert torch.equal(torch.nn.functional.pixel_shuffle(heard, 2), masks)
    fewer = read(str(home / "data"), fields=Fields(beside=("mask",)))
    told = []
    finished(prepared(recipe.model_copy(update={"numbers": ()}), fewer, cache=home), told.append)
    assert told == []  # the latents do not depend on what is heard besides


def test_a_run_resumes_bit_for_bit_and_refuses_other_numbers(home, tmp_path, monkeypatch):
    draws = iter(range(100))

    @contextmanager
    def stopping():
        yield lambda: signal.SIGINT if next(draws) else 0

    with monkeypatch.context() as patch:
        patch.setattr("ebb.run.supervise.interruptible", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(home / "data", tmp_path / "run", **ALL)
    run(home / "data", tmp_path / "run", **ALL)
    whole, halves = (checkpoint.newest(folder / "checkpoints") for folder in (home / "all", tmp_path / "run"))
    for part in ("model", "ema", "optim"):
        ours, theirs = checkpoint.read(whole, part), checkpoint.read(halves, part)
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    with pytest.raises(UsageError, match=r"(?s)numbers: \['light', 'dark'\] → \['light'\].*other images"):
        run(home / "data", tmp_path / "run", **ALL | {"numbers": ("light",)})


def test_the_command_line_asks_in_turn_and_writes_down_what_for(home, tmp_path, capsys):
    masks = [home / "data" / "masks" / f"{i:02}.png" for i in (0, 1)]
    asked = ["--n", 4, "--numbers", "light=90,900", "dark=0.5", "--beside", *masks, "--label", "a"]
    assert ebb("sample", home / "all", *asked, "--out", tmp_path / "grid.png") == 0
    assert "light was trained on from" in capsys.readouterr().out.replace("\n", " ")
    settings = settings_of(tmp_path / "grid.png")
    assert settings["numbers"] == {"light": [90.0, 900.0], "dark": [0.5]}
    assert settings["beside"] == {"mask": ["00.png", "01.png"]}, "places of its maker are nobody's business"
    ebb("sample", home / "all", *asked, "--out", tmp_path / "each")
    own = settings_of(tmp_path / "each" / "000003.png")
    assert (own["numbers"], own["beside"]) == ({"light": 900.0, "dark": 0.5}, {"mask": "01.png"})
    ebb("sample", home / "all", *asked, "--out", tmp_path / "a.npz")
    arrays = np.load(tmp_path / "a.npz")
    assert (arrays["number_names"].tolist(), arrays["numbers"].tolist()) == (
        ["light", "dark"],
        [[90, 0.5], [900, 0.5]] * 2,
    )
    assert arrays["beside_names"].tolist() == ["mask"]
    assert arrays["beside"][:, 0].tolist() == ["00.png", "01.png"] * 2
    system = load(home / "all")
    again = system.sample(4, label="a", given={"numbers": {"light": [90, 900] * 2, "dark": 0.5}, "mask": masks * 2})
    assert np.array_equal(np.load(tmp_path / "a.npz")["images"][0], ((again[0] + 1) * 127.5).round().byte().numpy())


def test_what_was_done_to_a_picture_beside_is_said(home, tmp_path):
    Image.new("LA", (900, 600), (0, 0)).save(tmp_path / "clear.png")
    events = []
    hint(load(home / "all"), Prompt(beside=[tmp_path / "clear.png"]), events.append)
    said = " ".join(map(str, events))
    assert "clear.png: transparency, composited on white" in said
    assert "cropped at its centre from 900×600 to 8×8, 33% of the area cut off" in said


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        (["--numbers", "light=1"], 2, "dark is not given"),
        (["--numbers", "light"], 2, "NAME=VALUE,VALUE in turn; got 'light'"),
        (["--numbers", "light=1", "light=2"], 2, "NAME=VALUE,VALUE"),
        (["--numbers", "lihgt=1", "dark=1"], 2, "did you mean 'light'"),
        (["--numbers", "light=inf", "dark=1"], 2, "a number is finite"),
        (["--beside", "none.png"], 3, "there is no picture none.png"),
        (["--beside", "setup.py"], 3, "there is no picture"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(home, tmp_path, capsys, asked, code, said):
    assert ebb("sample", home / "all", *asked, "--out", tmp_path / "a.png") == code
    assert said in " ".join(capsys.readouterr().err.split())


def test_prompts_together_leave_the_rest_as_asked(home, tmp_path):
    how = {
        "numbers": ["light=90", "dark=1"],
        "beside": [home / "data" / "masks" / "00.png"],
    }
    sample_to(
        home / "all",
        tmp_path / "a.png",
        Prompt(2, text=["an odd one", "an even one"], together=True, **how),
    )
    assert settings_of(tmp_path / "a.png")["together"]


@pytest.mark.full
def test_a_run_is_measured_with_what_is_said_of_its_images(home):
    system, dataset = load(home / "all"), data_of(home / "all")
    given = asked_for(system, dataset, 6, seed=0)
    rows = np.random.default_rng(0).choice(len(dataset.rows), 6)
    said = [None if np.isnan(row).any() else tuple(row) for row in dataset.metadata.numbers[rows]]
    assert given["numbers"] == said
    assert np.array_equal(given["mask"][:], dataset.metadata.beside["mask"][rows], equal_nan=True)
    assert given["label"] == [dataset.names[dataset.labels[row]] for row in rows]
    found = finished(evaluate(home / "all", 10, likelihood=2))
    assert found.likelihood is not None
    assert found.levels is not None
    assert ebb("doctor", home / "all") in (0, 1)
    assert not check_condition_ignored(ModelSubject.of(stirred(system)))


def test_grids_ask_for_what_is_said_of_the_images(home):
    recipe, dataset = from_yaml(home / "all" / "run.yaml")[0], data_of(home / "all")
    parts, asked = build(recipe, finished(prepared(recipe, dataset, cache=home)), torch.device("cpu")), []
    made = Sampler.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "__call__", lambda self, request: asked.append(request.given) or made(self, request))
        assert preview.shown(parts)[0].shape == (40, 1, 8, 8)
    assert asked[0]["numbers"] == asked_for(parts.system, dataset, 40, seed=0)["numbers"]
    assert len({*asked[0]["label"]}) > 1, "the mutant: images in their order, which is that of the classes"


def test_pictures_are_edited_with_nothing_asked_of_the_rest_and_not_enlarged(home):
    system = load(home / "all")
    editor = Editor.of(system, label="a", guidance=2.0)
    assert editor.cond("a", 2)["numbers"].isnan().all()
    x0 = opened([home / "data" / "00.png"], (1, 8, 8))
    mask = torch.zeros(8, 8)
    mask[:4] = 1
    assert editor.inpaint(x0, mask).shape == editor.strength(x0, 0.5).shape == x0.shape
    with pytest.raises(UsageError, match="hears a picture beside its own"):
        editor.outpaint(x0, 2)


def test_a_run_is_reflowed_with_what_it_hears(home):
    asked = {name: value for name, value in SMALL.items() if name not in ("network", "autoencoding")}
    run(
        home / "data",
        home / "again",
        reflow=str(home / "all"),
        numbers=("light", "dark"),
        beside="mask",
        pairs=12,
        **asked,
    )
    recipe = from_yaml(home / "again" / "run.yaml")[0]
    assert (recipe.numbers, recipe.beside) == (("light", "dark"), ("mask",))
    assert load(home / "again").conditioner == load(home / "all").conditioner


def test_two_pictures_stand_beside_each_by_its_name(home, tmp_path, capsys):
    """The mask, and the picture itself as another field: each changes what is made, and the command line names them."""
    write(tmp_path / "data", lambda _, blocks: blocks, 16)
    rows = [json.loads(line) for line in (tmp_path / "data" / "metadata.jsonl").read_text().splitlines()]
    rows = [row | {"edges": rows[i - 1]["mask"]} for i, row in enumerate(rows)]
    (tmp_path / "data" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run(tmp_path / "data", tmp_path / "run", **QUICK | {"steps": 1, "beside": ("mask", "edges")})
    system, files = stirred(load(tmp_path / "run")), sorted((tmp_path / "data" / "masks").iterdir())
    both, other = ({"mask": files[0], "edges": files[at]} for at in (1, 2))
    made = [system.sample(1, given=asked) for asked in ({}, {"mask": files[0]}, {"edges": files[1]}, both, other)]
    assert not any(torch.allclose(made[i], made[j]) for i in range(5) for j in range(i))
    named = [f"mask={files[0]}", f"edges={files[1]}", f"edges={files[2]}"]
    assert ebb("sample", tmp_path / "run", "--n", 2, "--beside", *named, "--out", tmp_path / "each") == 0
    assert settings_of(tmp_path / "each" / "000001.png")["beside"] == {"mask": files[0].name, "edges": files[2].name}
    assert ebb("sample", tmp_path / "run", "--beside", files[0], "--out", tmp_path / "a.png") == 2
    assert "mask=FILE edges=FILE" in " ".join(capsys.readouterr().err.split())
    assert validated({"beside": "mask"}, "a run.yaml of before").beside == ("mask",)


def test_other_data_and_kinds_are_refused(home, tmp_path):
    with pytest.raises(
        UsageError,
        match="numbers is of diffusion, few_step and adapter; this recipe is of autoencoder: --kind diffusion",
    ):
        validated({"kind": "autoencoder", "numbers": ["light"]}, "here")
    with pytest.raises(DataError, match=r"no row of metadata.jsonl has the field 'ligth'"):
        run(home / "data", tmp_path / "run", **ALL | {"numbers": ("ligth",)})
    with pytest.raises(EbbError, match="trained without numbers"):
        load(home / "ae").sample(1, given={"numbers": {"light": 1}})
