"""Frozen text encoders from local folders: tiny ones of each family, made on the spot, and folders that lack things."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from ebb.encode import pretrained_text
from ebb.encode.pretrained_text import Joined, PretrainedText, found
from ebb.errors import DamagedError, DataError, ResourceError, UsageError

TEXTS = ["a red circle", "", "a blue square and a red circle", "circle"]
WORDS = ["[PAD]", "[UNK]", "[BOS]", "[EOS]", "a", "red", "blue", "circle", "square", "and"]


def test_without_transformers_the_extra_is_named(tmp_path, monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(pretrained_text.importlib, "import_module", absent)
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ResourceError, match=r"ebb\[text\]"):
        PretrainedText(tmp_path)


# ---- folders


def filled(folder, *names, config='{"model_type": "bert"}'):
    for name in names:
        (folder / name).write_text("{}")
    (folder / "config.json").write_text(config)
    return folder


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"lacks model\.safetensors, tokenizer\.json"),
        (["model.safetensors"], r"lacks tokenizer\.json"),
        (["model.safetensors", "vocab.json"], r"lacks tokenizer\.json"),
        (["tokenizer.json"], r"lacks model\.safetensors"),
    ],
)
def test_missing_files_are_named(tmp_path, names, message):
    with pytest.raises(UsageError, match=message):
        found(filled(tmp_path, *names))
    (tmp_path / "config.json").unlink()
    with pytest.raises(UsageError, match=r"lacks config\.json"):
        found(tmp_path)


def test_weights_that_may_hold_code_are_refused_by_name(tmp_path):
    filled(tmp_path, "tokenizer.json", "pytorch_model.bin", "flax_model.msgpack")
    with pytest.raises(DataError, match=r"found flax_model\.msgpack, pytorch_model\.bin, which may hold code"):
        found(tmp_path)


def test_all_shards_are_needed(tmp_path):
    filled(tmp_path, "vocab.txt", "model-00002-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(UsageError, match=r"lacks model-00001-of-00002\.safetensors"):
        found(tmp_path)
    filled(tmp_path, "model-00001-of-00002.safetensors")
    files, kind = found(tmp_path)
    assert kind == "bert"
    assert {file.name for file in files} == {
        *names.values(),
        "config.json",
        "vocab.txt",
        "model.safetensors.index.json",
    }
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": [1]}')
    with pytest.raises(DamagedError, match="does not list"):
        found(tmp_path)


@pytest.mark.parametrize("config", ["{", "[]", "\x00"])
def test_a_damaged_config(tmp_path, config):
    with pytest.raises(DamagedError, match=r"config\.json"):
        found(filled(tmp_path, "model.safetensors", "tokenizer.json", config=config))


@pytest.mark.parametrize("config", ["{}", '{"model_type": "gpt2"}', '{"model_type": ["t5"]}'])
def test_what_is_not_a_text_encoder(tmp_path, config):
    with pytest.raises(UsageError, match="not a text encoder") as caught:
        found(filled(tmp_path, "model.safetensors", "tokenizer.json", config=config))
    assert "clip" in caught.value.hint


def test_what_is_not_a_folder(tmp_path):
    with pytest.raises(UsageError, match="is not a folder"):
        found(tmp_path / "absent")


# ---- encoders


def config_of(kind, library):
    """A tiny configuration of each family, of 16 places where it has places."""
    size = {"vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    wide = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "clip":
        return library.CLIPTextConfig(**size, **wide, max_position_embeddings=16)
    if kind == "t5":
        return library.T5Config(**size, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=0)
    if kind == "roberta":
        return library.RobertaConfig(**size | {"pad_token_id": 1}, **wide, max_position_embeddings=18)
    return library.BertConfig(**size, **wide, max_position_embeddings=16)


KINDS = {"clip": "CLIPTextModel", "t5": "T5EncoderModel", "bert": "BertModel", "roberta": "RobertaModel"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of random encoders by family."""
    library = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    root, made = tmp_path_factory.mktemp("encoders"), {}
    for kind, name in KINDS.items():
        torch.manual_seed(0)
        getattr(library, name)(config_of(kind, library)).save_pretrained(root / kind)
        # roberta counts places from after its padding, so there it has to be the second word
        order = [WORDS[1], WORDS[0], *WORDS[2:]] if kind == "roberta" else WORDS
        own = tokenizers.Tokenizer(
            tokenizers.models.WordLevel({word: at for at, word in enumerate(order)}, unk_token="[UNK]")
        )
        own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        own.post_processor = tokenizers.processors.TemplateProcessing(
            single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", 3)]
        )
        library.PreTrainedTokenizerFast(
            tokenizer_object=own, unk_token="[UNK]", pad_token="[PAD]", bos_token="[BOS]", eos_token="[EOS]"
        ).save_pretrained(root / kind)
        made[kind] = root / kind
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_the_text_alone(folders, kind):
    """Against the library asked for one text without any padding."""
    library = pytest.importorskip("transformers")
    encoder = PretrainedText(folders[kind], length=12)
    states = encoder.states(TEXTS)
    assert states.shape == (4, 12, encoder.width)
    assert states.dtype == torch.float32
    assert not states.requires_grad
    model = getattr(library, KINDS[kind]).from_pretrained(folders[kind]).eval()
    for text, rows in zip(TEXTS, states, strict=True):
        if not text:
            assert not rows.any(), "an empty text says nothing"
            continue
        ids = encoder.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            alone = model(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(rows[: len(alone)], alone, atol=1e-5, rtol=1e-5)
        assert not rows[len(alone) :].any()
        assert rows[: len(alone)].any(1).all()


def test_padding_that_is_seen_would_show(folders):
    """The comparison above notices an encoder that attends to padding."""
    encoder = PretrainedText(folders["bert"], length=12)
    right, model = encoder.states(TEXTS), encoder.model
    encoder.model = lambda input_ids, attention_mask: model(input_ids, torch.ones_like(attention_mask))
    assert (encoder.states(TEXTS) - right).abs().amax() > 1e-3


def test_the_order_and_the_company_of_texts_do_not_matter(folders):
    encoder = PretrainedText(folders["bert"], length=12)
    together = encoder.states(TEXTS * 20)
    for at in (0, 1, 2, 79):
        torch.testing.assert_close(together[at], encoder.states([TEXTS[at % 4]])[0], atol=1e-6, rtol=1e-5)
    assert encoder.states([]).shape == (0, 12, encoder.width)
    with pytest.raises(UsageError, match="half a character"):
        encoder.states(["a", "b\ud83d"])


@pytest.mark.parametrize("kind", ["clip", "bert", "roberta"])
def test_lengths_that_an_encoder_has_no_places_for(folders, kind):
    long = "a red circle " * 3000
    assert PretrainedText(folders[kind], length=16).states([long]).shape[1] == 16
    for length in (17, 0):
        with pytest.raises(UsageError, match="texts of 1 to 16 pieces"):
            PretrainedText(folders[kind], length=length)
    assert PretrainedText(folders["t5"], length=40).states([long]).shape == (1, 40, 8)


def test_several_encoders_one_after_another(folders):
    one, other = PretrainedText(folders["clip"], length=10), PretrainedText(folders["t5"], length=6)
    both = Joined([one, other])
    states = both.states(TEXTS)
    assert states.shape == (4, 16, 12) == (4, both.length, both.width)
    assert torch.equal(states[:, :10], one.states(TEXTS))
    assert torch.equal(states[:, 10:, :8], other.states(TEXTS))
    assert not states[:, 10:, 8:].any()
    assert both.fingerprint != Joined([other, one]).fingerprint
    with pytest.raises(UsageError, match="one text encoder or more"):
        Joined([])


def test_the_fingerprint_is_of_the_contents(folders, tmp_path):
    first = PretrainedText(folders["bert"], length=12)
    shutil.copytree(folders["bert"], tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("of no account")
    assert PretrainedText(tmp_path / "copy", length=12).fingerprint == first.fingerprint
    prints = {first.fingerprint, PretrainedText(tmp_path / "copy", length=11).fingerprint}
    prints.add(PretrainedText(folders["roberta"], length=12).fingerprint)
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    prints.add(PretrainedText(tmp_path / "copy", length=12).fingerprint)
    assert len(prints) == 4


def test_damaged_weights(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(folders["bert"], tmp_path / "copy")
    weights = load_file(tmp_path / "copy" / "model.safetensors")
    name = next(name for name in weights if "layer.1" in name and name.endswith("weight"))
    save_file(
        {key: x for key, x in weights.items() if not key.startswith("pooler")},
        tmp_path / "copy" / "model.safetensors",
        {"format": "pt"},
    )
    assert PretrainedText(tmp_path / "copy", length=12).states(["a"]).any(), "a pooler is not needed"
    save_file(
        {key: x for key, x in weights.items() if key != name}, tmp_path / "copy" / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(DamagedError, match="lacks 1 weights"):
        PretrainedText(tmp_path / "copy")
    save_file(
        weights | {name: weights[name][:-1].contiguous()}, tmp_path / "copy" / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(DamagedError, match="copy"):
        PretrainedText(tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(DamagedError, match="cannot be read as AutoModel"):
        PretrainedText(tmp_path / "copy")
