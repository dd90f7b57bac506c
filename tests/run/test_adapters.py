"""`ebb adapter`: files looked at, merged, extracted, converted, resized, and each mistake answered in a line."""

import json

import pytest
import torch

import ebb
from ebb.adapt.adapter import attach, fresh
from ebb.adapt.adapter_files import WRITERS, read_adapter

from ..command import ebb as command
from ..toys import trained, write


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two runs of one network, an autoencoder, and an adapter of the first in every format."""
    home = tmp_path_factory.mktemp("adapters")
    trained(write(home / "data"), home / "one", steps=2)
    trained(home / "data", home / "two", steps=2, seed=1)
    trained(home / "data", home / "codec", kind="autoencoder", steps=2)
    network = ebb.load(home / "one").denoiser.network
    torch.manual_seed(0)
    adapter = fresh(network, "small", 2, scale=0.5)
    for change in adapter.changes.values():
        change.up.data.normal_(std=0.05)
    for form, write_it in WRITERS.items():
        write_it(adapter, home / (form if form == "peft" else f"{form}.safetensors"))
    return home


def test_it_says_what_a_file_is(home, capsys):
    assert command("adapter", "show", home / "peft", "--run", home / "one", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    network = ebb.load(home / "one").denoiser.network
    adapter, account = read_adapter(home / "peft", network)
    assert found["facts"]["format"] == "PEFT"
    assert found["facts"]["form"] == "lora, rank 1 to 2", "a grey picture has one channel"
    assert len(found["keys"]) == len(account.parts) == 2 * len(found["layers"])
    for layer, _, rank, scale, norm in found["layers"]:
        change = adapter.changes[layer].requires_grad_(False)
        assert (int(rank), float(scale)) == (change.rank, 0.5)
        assert float(norm) == pytest.approx(float(change.change().norm()), rel=1e-3)
    assert command("adapter", "show", home / "ebb.safetensors", "--run", home / "two") == 0
    assert "no: it was learnt on other weights" in capsys.readouterr().out
    assert command("adapter", "show", home / "kohya.safetensors") == 0, "a file alone says what it can"


def test_what_is_merged_samples_as_what_is_put_on(home, tmp_path, capsys):
    assert command("adapter", "merge", home / "one", f"{home / 'ebb.safetensors'}:0.5", "--out", tmp_path / "out") == 0
    assert "100.0% of the changes in fp32" in capsys.readouterr().out
    system = ebb.load(home / "one")
    attach(system.denoiser.network, read_adapter(home / "ebb.safetensors", system.denoiser.network)[0], 0.5)
    torch.testing.assert_close(ebb.load(tmp_path / "out").sample(2), system.sample(2), rtol=1e-4, atol=1e-4)
    assert not torch.equal(ebb.load(tmp_path / "out").sample(2), ebb.load(home / "one").sample(2))
    assert "merged adapters: ebb × 0.5" in (tmp_path / "out" / "card.md").read_text()


def test_half_precision_is_refused_where_it_forgets(home, tmp_path, capsys):
    words = "adapter", "merge", home / "one", f"{home / 'ebb.safetensors'}:0.01", "--out", tmp_path / "out"
    assert command(*words, "--precision", "bf16") == 2
    assert "would keep" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_is_extracted_to_another(home, tmp_path, capsys):
    words = "adapter", "extract", home / "one", home / "two", "--rank", 4, "--out", tmp_path / "a.safetensors"
    assert command(*words) == 0
    out = capsys.readouterr().out
    assert "rank 4" in out
    assert "where no adapter reaches" in out
    assert command("adapter", "resize", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--rank", 1) == 0
    network = ebb.load(home / "one").denoiser.network
    adapter, _ = read_adapter(tmp_path / "b.safetensors", network)
    assert {change.rank for change in adapter.changes.values()} == {1}
    attach(network, adapter)


def test_several_are_joined_to_one_that_samples_the_same(home, tmp_path, capsys):
    write_own = WRITERS["ebb"]
    network = ebb.load(home / "one").denoiser.network
    other = fresh(network, "other", 3)
    for change in other.changes.values():
        change.up.data.normal_(std=0.05)
    write_own(other, tmp_path / "other.safetensors")
    asked = f"{home / 'peft'}:0.7", f"{tmp_path / 'other.safetensors'}:0.5"
    assert command("adapter", "join", *asked, "--out", tmp_path / "both.safetensors") == 0
    said = capsys.readouterr().out
    assert "peft × 0.7" in said
    assert "peft and other" in said
    one, several = (ebb.load(home / "one", adapters=each) for each in ([tmp_path / "both.safetensors"], asked))
    torch.testing.assert_close(one.sample(2), several.sample(2), rtol=1e-5, atol=1e-5)
    assert command("adapter", "join", *asked, "--rank", 1, "--to", "kohya", "--out", tmp_path / "thin.safetensors") == 0
    assert "rank 1" in capsys.readouterr().out
    thin, _ = read_adapter(tmp_path / "thin.safetensors", network)
    assert {change.rank for change in thin.changes.values()} == {1}


@pytest.mark.parametrize("form", WRITERS)
def test_every_format_leads_to_every_other(home, tmp_path, form):
    place = home / (form if form == "peft" else f"{form}.safetensors")
    network = ebb.load(home / "one").denoiser.network
    wanted, _ = read_adapter(place, network)
    for to in WRITERS:
        out = tmp_path / (to if to == "peft" else f"{to}.safetensors")
        assert command("adapter", "convert", place, out, "--to", to, "--run", home / "one") == 0
        got, _ = read_adapter(out, network)
        assert got.changes.keys() == wanted.changes.keys()
        for layer, change in wanted.changes.items():
            assert torch.equal(got.changes[layer].change(), change.change())


MISTAKES = {
    "a rank of at least 1": ("extract", "one", "two", "--rank", "0", "--out", "x.safetensors"),
    "adapters are put on what denoises": ("merge", "codec", "ebb.safetensors", "--out", "x"),
    "was learnt on weights with": ("merge", "two", "ebb.safetensors", "--out", "x"),
    "two adapters are called ebb": ("merge", "one", "ebb.safetensors", "ebb.safetensors", "--out", "x"),
    "there is no adapter to merge": ("merge", "one", "--out", "x"),
    "there is no adapter ebb.safetensors:much": ("merge", "one", "ebb.safetensors:much", "--out", "x"),
    "there is no adapter to join": ("join", "--out", "x.safetensors"),
    "is named twice": ("join", "ebb.safetensors", "ebb.safetensors:0.5", "--out", "x.safetensors"),
    "nothing of these adapters": ("join", "ebb.safetensors:0", "--out", "x.safetensors"),
    "no rule knows": ("show", "odd.safetensors", "--run", "one"),
    "is of nowhere": ("show", "nowhere.safetensors", "--run", "one"),
    "names without dots": ("convert", "kohya.safetensors", "x.safetensors"),
    "equal to the bit": ("extract", "one", "one", "--rank", "2", "--out", "x.safetensors"),
    "is there already": ("resize", "ebb.safetensors", "ebb.safetensors", "--rank", "1"),
    "of this form is one file": ("resize", "ebb.safetensors", "x", "--rank", "1"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_answered_in_a_line(home, what, capsys, monkeypatch):
    from safetensors.torch import save_file

    monkeypatch.chdir(home)
    save_file({"lora_unet_a.lora_middle": torch.zeros(1)}, home / "odd.safetensors")
    save_file({"lora_unet_nowhere.lora_up.weight": torch.zeros(1)}, home / "nowhere.safetensors")
    assert command("adapter", *MISTAKES[what]) == 2
    assert what in capsys.readouterr().err
    assert not (home / "x").exists()
    assert not (home / "x.safetensors").exists()
