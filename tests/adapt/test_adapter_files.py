"""Adapters as files: round trips that keep every change, and forty broken files of which none is silently nothing."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from ebb.adapt.adapter import Adapter, fresh, layers
from ebb.adapt.adapter_files import WRITERS, read_adapter
from ebb.adapt.low_rank import LowRankDirection
from ebb.errors import EbbError
from ebb.networks.dit import DiT
from ebb.networks.unet import UNet

SUFFIX = {"peft": "", "ebb": ".safetensors", "diffusers": ".safetensors", "kohya": ".safetensors"}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return UNet(1, width=16, depth=1, multipliers=(1,))


def trained(net, kind="lora", scale=0.5, rank=2):
    torch.manual_seed(1)
    adapter = fresh(net, "a", rank, kind=kind, scale=scale)
    for parameter in adapter.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return adapter


def through(adapter, net, tmp_path, formats):
    for number, name in enumerate(formats):
        place = tmp_path / f"{number}-{name}{SUFFIX[name]}"
        WRITERS[name](adapter, place)
        adapter, account = read_adapter(place, net, name="a")
        assert {of for of, _ in account.parts.values()} == set(adapter.changes)
    return adapter


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("scale", [0.5, 0.3])
def test_changes_survive_every_format(net, tmp_path, kind, scale):
    before = trained(net, kind, scale)
    after = through(before, net, tmp_path, ("peft", "ebb", "kohya", "diffusers", "ebb", "peft"))
    assert before.changes.keys() == after.changes.keys()
    for layer, change in before.changes.items():
        weight = net.get_submodule(layer).weight
        if scale == 0.5:
            assert torch.equal(after.changes[layer](weight), change(weight))
        torch.testing.assert_close(after.changes[layer].change(), change.change(), rtol=3e-7, atol=0)


def test_ranks_and_scales_of_their_own_survive(net, tmp_path):
    one, two = trained(net, rank=2), trained(net, rank=3, scale=1.5)
    mixed = Adapter("a", {layer: (one if i % 3 else two).changes[layer] for i, layer in enumerate(one.changes)})
    after = through(mixed, net, tmp_path, ("peft", "kohya", "diffusers"))
    for layer, change in mixed.changes.items():
        assert after.changes[layer].rank == change.rank
        torch.testing.assert_close(after.changes[layer].change(), change.change(), rtol=1e-6, atol=0)


def edited(path, change):
    """Tensors and metadata of a file, changed."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
    tensors = load_file(path)
    tensors, facts = change(tensors, facts) or (tensors, facts)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata=facts)


def renamed(old, new):
    return lambda t, f: ({key.replace(old, new): value for key, value in t.items()}, f)


def only(*parts):
    return lambda t, f: ({key: value for key, value in t.items() if any(part in key for part in parts)}, f)


def without(part, count=None):
    def change(t, f):
        gone = [key for key in t if part in key][:count]
        return {key: value for key, value in t.items() if key not in gone}, f

    return change


def all_of(part, what):
    return lambda t, f: ({key: what(value) if part in key else value for key, value in t.items()}, f)


def first_of(part, what):
    def change(t, f):
        key = next(key for key in t if part in key)
        return t | {key: what(t[key])}, f

    return change


def swapped(one, two):
    return lambda t, f: (
        {key.replace(one, "?").replace(two, one).replace("?", two): value for key, value in t.items()},
        f,
    )


def nothing(t, f):
    return {}, f


NAMES = {
    "ebb": (".down", ".up", "", "zz."),
    "peft": (".lora_A.weight", ".lora_B.weight", "base_model.model.", "model."),
    "diffusers": (".lora_A.weight", ".lora_B.weight", "unet.", "vae."),
    "kohya": (".lora_down.weight", ".lora_up.weight", "lora_unet_", "lora_te_"),
}
DAMAGES = {
    "another prefix": lambda down, up, before, other: renamed(before, other) if before else renamed("", other),
    "layers of another network": lambda down, up, *_: renamed(down, "9" + down),
    "no second half": lambda down, up, *_: without(up),
    "no first half": lambda down, up, *_: without(down),
    "one second half missing": lambda down, up, *_: without(up, 1),
    "trained by nobody": lambda down, up, *_: all_of(up, torch.zeros_like),
    "not a number": lambda down, up, *_: first_of(up, lambda x: x * float("nan")),
    "infinite": lambda down, up, *_: first_of(down, lambda x: x / 0),
    "ranks differ": lambda down, up, *_: first_of(down, lambda x: x[:1]),
    "halves swapped": lambda down, up, *_: swapped(down, up),
    "a convolution as a matrix": lambda down, up, *_: all_of(down, lambda x: x.flatten(1)),
    "a key of nobody": lambda down, up, *_: lambda t, f: (t | {"mystery": torch.ones(1)}, f),
    "empty": lambda *_: nothing,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", NAMES)
def test_a_broken_file_is_refused_by_name(net, tmp_path, name, damage):
    if (name, damage) == ("ebb", "another prefix"):
        pytest.skip("ebb's keys have no prefix")
    place = tmp_path / f"a{SUFFIX[name]}"
    WRITERS[name](trained(net), place)
    file = place / "adapter_model.safetensors" if name == "peft" else place
    edited(file, DAMAGES[damage](*NAMES[name]))
    with pytest.raises(EbbError) as error:
        read_adapter(place, net)
    assert "Traceback" not in str(error.value)
    assert len(str(error.value)) > 30


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("diffusers", lambda t, f: (t, {"format": "pt"})),
        ("kohya", without(".alpha")),
    ],
)
def test_a_scale_that_is_missing_is_not_guessed(net, tmp_path, name, change):
    place = tmp_path / "a.safetensors"
    WRITERS[name](trained(net), place)
    edited(place, change)
    with pytest.raises(EbbError, match="no scale"):
        read_adapter(place, net)
    adapter, _ = read_adapter(place, net, scale=0.5)
    assert {change.scale for change in adapter.changes.values()} == {0.5}


@pytest.mark.parametrize(
    "fields",
    [
        {"peft_type": "LOHA"},
        {"bias": "all"},
        {"modules_to_save": ["head"]},
        {"fan_in_fan_out": True},
        {"r": None},
        {"lora_alpha": None},
    ],
)
def test_what_peft_trains_besides_is_refused(net, tmp_path, fields):
    place = tmp_path / "a"
    WRITERS["peft"](trained(net), place)
    config = json.loads((place / "adapter_config.json").read_text()) | fields
    (place / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(EbbError, match=next(iter(fields))):
        read_adapter(place, net)


def test_files_that_are_none(net, tmp_path):
    for name, text in {"a.pt": "x", "b.safetensors": "no", "c.safetensors": None}.items():
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(EbbError):
            read_adapter(tmp_path / name, net)


def test_stabilised_scale_and_patterns_are_pefts(net, tmp_path):
    """α/√r where rsLoRA is on."""
    place = tmp_path / "a"
    WRITERS["peft"](trained(net, scale=0.5), place)
    config = json.loads((place / "adapter_config.json").read_text())
    (place / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True, "lora_alpha": 3.0}))
    found, _ = read_adapter(place, net)
    assert {round(change.scale, 6) for change in found.changes.values() if change.rank == 2} == {round(3 / 2**0.5, 6)}


def test_the_layers_are_named_whole_and_none_that_ends_so(net, tmp_path):
    """By PEFT's own rule: an expression has to match all of a name; a list takes every end."""
    WRITERS["peft"](Adapter("a", {"out": trained(net).changes["out"]}), tmp_path / "a")
    targets = json.loads((tmp_path / "a" / "adapter_config.json").read_text())["target_modules"]
    found = [name for name in ("out", "down.0.attention.out", "outer", "out.x") if re.fullmatch(targets, name)]
    assert found == ["out"]
    WRITERS["peft"](trained(net), tmp_path / "all")
    targets = json.loads((tmp_path / "all" / "adapter_config.json").read_text())["target_modules"]
    assert [name for name in layers(net) if re.fullmatch(targets, name)] == [*layers(net)]


def test_a_pipeline_is_told_what_is_no_unet(net, tmp_path):
    """diffusers looks for `transformer.` where a pipeline has one; a file that said so says it again."""
    dit = DiT(1, width=32, depth=1, patch=2, head=16)
    for network, component in ((net, "unet"), (dit, "transformer")):
        place = tmp_path / f"{component}.safetensors"
        WRITERS["diffusers"](trained(network), place)
        assert {key.partition(".")[0] for key in load_file(place)} == {component}
        WRITERS["ebb"](read_adapter(place, None)[0], tmp_path / "own.safetensors")
        again, _ = read_adapter(tmp_path / "own.safetensors", None)
        assert again.component == component
    edited(tmp_path / "own.safetensors", lambda t, f: (t, f | {"component": "vae"}))
    with pytest.raises(EbbError, match="of a component 'vae'"):
        read_adapter(tmp_path / "own.safetensors", None)


def test_peft_itself_agrees(net, tmp_path):
    """PEFT puts the folder on the same network and computes the same."""
    peft = pytest.importorskip("peft")
    import copy

    from ebb.adapt.adapter import attach

    for kind in ("lora", "dora"):
        adapter = trained(net, kind)
        WRITERS["peft"](adapter, tmp_path / kind)
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(net).eval(), str(tmp_path / kind))
        ours = attach(copy.deepcopy(net).eval(), Adapter("a", adapter.changes))
        x, t = torch.randn(2, 1, 8, 8), torch.full((2,), 0.5)
        torch.testing.assert_close(theirs(x, t, {}), ours(x, t, {}), rtol=1e-5, atol=1e-6)
        assert isinstance(next(iter(adapter.changes.values())), LowRankDirection) == (kind == "dora")
