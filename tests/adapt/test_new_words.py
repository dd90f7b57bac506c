"""A new word: the row alone is learnt, no longer than the table's, and texts without it are drawn as before."""

import copy

import pytest
import torch

from ebb.adapt.new_words import NewWords, pieces_of
from ebb.encode.text import Text, Vocabulary
from ebb.errors import UsageError
from ebb.networks.ports import PiecesPort
from ebb.networks.unet import UNet
from ebb.process.denoiser import NetworkDenoiser
from ebb.process.path import Linear
from ebb.process.predict import PREDICTIONS

VOCABULARY = Vocabulary.learnt(["a red circle", "a red square", "a red square"], 300)
TEXT = Text(VOCABULARY, 8)
TAUGHT = Text(VOCABULARY, 8, taught=("sks",))


@pytest.fixture
def denoiser():
    torch.manual_seed(0)
    port = {"text": PiecesPort(len(VOCABULARY), 8)}
    made = NetworkDenoiser(
        UNet(1, width=16, depth=1, multipliers=(1,), ports=port, cross=(0,)), Linear(), PREDICTIONS["velocity"]
    )
    for parameter in made.requires_grad_(False).eval().parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return made


def asked(denoiser, text, said):
    x, t = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.full((1,), 0.5)
    return denoiser(x, t, {"text": text([said])})


def test_a_taught_word_is_one_piece_and_the_others_are_as_they_were():
    own = len(VOCABULARY)
    for said in ("a red sks", "a red SKS"):
        assert TAUGHT.row(said).tolist().count(own) == 1
    assert TAUGHT.count("sks") == 1
    assert own not in TAUGHT.row("a red sksy").tolist(), "a word of which it is a part is another"
    assert TAUGHT.row("a red circle").tolist() == TEXT.row("a red circle").tolist()
    assert TAUGHT.unseen("a sks ball") == ("ball",)
    assert TAUGHT.port.vocabulary == TEXT.port.vocabulary + 1
    assert Text.from_json(TAUGHT.to_json()) == TAUGHT
    assert "taught" not in TEXT.to_json(), "a contract of before is written as before"


def test_only_texts_with_the_word_change(denoiser):
    before = [asked(denoiser, TEXT, said) for said in ("a red circle", "")]
    added = NewWords(denoiser, 1)
    added.attach(denoiser, "one")
    silent = asked(denoiser, TAUGHT, "a red sks")
    added.more.rows.data.normal_()
    for said, was in zip(("a red circle", ""), before, strict=True):
        assert torch.equal(asked(denoiser, TAUGHT, said), was)
    assert not torch.equal(asked(denoiser, TAUGHT, "a red sks"), silent)
    added.detach(denoiser, "one")
    assert len(pieces_of(denoiser).weight) == len(VOCABULARY)


def test_its_norm_is_bounded_by_the_tables(denoiser):
    added = NewWords(denoiser, 1)
    added.more.rows.data.normal_().mul_(100)
    added.attach(denoiser, "one")
    norms = pieces_of(denoiser).weight.detach().norm(dim=1)
    assert float(norms[-1]) == pytest.approx(float(norms[1:-1].max()), rel=1e-5)
    added.more.rows.requires_grad_(True)
    asked(denoiser, TAUGHT, "a sks").sum().backward()
    assert float(added.more.rows.grad.abs().max()) > 0, "at the bound it still learns"


def test_two_words_follow_each_other_and_each_can_go(denoiser):
    one, two = NewWords(denoiser, 1), NewWords(denoiser, 1)
    one.attach(denoiser, "one")
    two.attach(denoiser, "two", 0.5)
    both = copy.deepcopy(denoiser)
    two.more.rows.data.normal_()
    half = pieces_of(denoiser).weight[-1]
    torch.testing.assert_close(half, torch.lerp(two.more.start, two.more.bounded()[0], 0.5))
    assert not torch.equal(pieces_of(both).weight[-1], half), "a copy has its own"
    one.detach(denoiser, "one")
    torch.testing.assert_close(pieces_of(denoiser).weight[-1], half)


def test_a_model_without_a_vocabulary_is_refused():
    with pytest.raises(UsageError, match="no vocabulary of its own"):
        NewWords(NetworkDenoiser(UNet(1, width=16, depth=1, multipliers=(1,)), Linear(), PREDICTIONS["velocity"]), 1)
