import pytest
import torch

import ebb
import ebb.networks.attention
from ebb.encode.conditioner import Conditioner, Text
from ebb.encode.text import Vocabulary
from ebb.errors import UsageError
from ebb.process.predict import PREDICTIONS
from ebb.recipe.recipe import Sampling
from ebb.system.families.diffusion import DiffusionModel
from ebb.system.system import System
from ebb.understand.concepts import Concept, Explanation, concepts, emphasised, explain, laid_out, spans, words_of
from ebb.understand.probe import entropy_of_keys

CAPTIONS = ("a red circle", "a blue square", "a red square")


def system(kind="unet"):
    text = Text(Vocabulary.learnt(CAPTIONS, size=300), 8)
    heard = {"ports": {"text": text.port}, "width": 16, "depth": 1}
    torch.manual_seed(0)
    made = {"unet": lambda: ebb.UNet(1, multipliers=(1,), cross=(0,), **heard), "mmdit": lambda: ebb.MMDiT(1, **heard)}
    network = made[kind]()
    denoiser = ebb.NetworkDenoiser(network, ebb.Linear(), PREDICTIONS["velocity"]).requires_grad_(False).eval()
    return System(DiffusionModel(denoiser), (1, 8, 8), Conditioner({"text": text}), Sampling(steps=2))


def test_spans_follow_the_words_and_stop_where_the_model_stops_listening():
    text = system().conditioner.text
    found = spans(text, "a red circle")
    assert [word for word, _ in found] == ["a", "red", "circle"]
    joined = [place for _, places in found for place in places]
    assert joined == list(range(min(8, len(text.vocabulary.pieces("a red circle")))))
    assert len([place for _, places in spans(text, "a red circle " * 9) for place in places]) == 8


def test_attention_that_is_the_same_everywhere_has_the_largest_entropy():
    made = system()
    for module in made.denoiser.network.modules():
        if isinstance(module, ebb.networks.attention.CrossAttention):
            module.q.weight.zero_()
            module.q.bias.fill_(1.0)  # every place asks alike
    found = concepts(made, "a red circle")
    assert [one.words for one in found] == ["a", "red", "circle"]
    assert all(one.entropy == pytest.approx(1.0, abs=1e-4) for one in found)


def test_attention_from_one_place_has_less():
    made = system()
    for module in made.denoiser.network.modules():
        if isinstance(module, ebb.networks.attention.CrossAttention):
            module.q.weight.mul_(300.0)
            module.norm_q.weight.fill_(40.0)  # sharp: places differ in what they look at
    assert min(one.entropy for one in concepts(made, "a red circle")) < 0.98


def test_concepts_heard_nowhere_in_particular_are_emphasised():
    made = system()
    loud = emphasised(made, ["a red circle", "a blue square"], 2.0, limit=0.0, factor=1.5)
    assert [scale for scale, _ in loud] == [3.0, 3.0]
    plain = emphasised(made, ["a red circle", "a blue square"], 2.0, limit=1.1)
    assert [scale for scale, _ in plain] == [2.0, 2.0]
    null = {"text": made.null()["text"]}
    x = made.sample(2, text="", guide=ebb.compose(loud, null))
    assert torch.isfinite(x).all()


def test_models_that_attend_to_no_text_are_refused():
    with pytest.raises(UsageError, match="attends to no text"):
        concepts(system("mmdit"), "a red circle")


def attending(monkeypatch, scores):
    """From now on places attend to pieces as softmax(scores [places, 1 + pieces]) says, whatever a network makes."""
    usual = ebb.networks.attention.attend

    def attend(q, k, v, seen=None):
        if (q.shape[2], k.shape[2]) != scores.shape:
            return usual(q, k, v, seen)
        return torch.nn.functional.scaled_dot_product_attention(0 * q, k, v, scores).transpose(1, 2).flatten(2)

    monkeypatch.setattr(ebb.networks.attention, "attend", attend)


def test_along_both_axes_an_even_attention_has_1(monkeypatch):
    attending(monkeypatch, torch.zeros(64, 9))
    found = explain(system(), "a red circle", count=2)
    assert found.over_words == pytest.approx(1, abs=1e-5)
    assert [one.entropy for one in found.concepts] == pytest.approx([1] * 3, abs=1e-5)
    assert all(one.everywhere for one in found.concepts)


def test_along_both_axes_an_attention_of_one_place_to_one_piece_has_0(monkeypatch):
    made = system()
    parts = spans(made.conditioner.text, "a red circle")
    pieces = torch.arange(parts[-1][1].stop)
    scores = torch.full((64, 9), -1e4)
    scores[:, 0], scores[3 * pieces, 1 + pieces] = 0.0, 1e4  # each piece from one place; elsewhere nothing is heard
    attending(monkeypatch, scores)
    found = explain(made, "a red circle", count=2)
    assert found.over_words == pytest.approx(0, abs=1e-3)
    assert [one.entropy for one in found.concepts] == pytest.approx([0] * 3, abs=1e-3)
    assert not any(one.everywhere for one in found.concepts)
    for word, (_, heard) in enumerate(parts):
        assert found.maps[0, word].flatten()[[3 * piece for piece in heard]].tolist() == pytest.approx([1] * len(heard))


def test_the_two_axes_are_not_one(monkeypatch):
    """Every place listens to the first piece alone: seen from everywhere alike, and over words in one place."""
    scores = torch.full((64, 9), -1e4)
    scores[:, 1] = 1e4
    attending(monkeypatch, scores)

    def check():
        found = explain(system(), "a red circle", count=1)
        assert found.concepts[0].entropy == pytest.approx(1, abs=1e-3)
        assert found.over_words == pytest.approx(0, abs=1e-3)

    check()
    monkeypatch.setattr("ebb.understand.concepts.entropy", entropy_of_keys)  # the other axis
    with pytest.raises(AssertionError):
        check()


def test_the_maps_of_words_are_shares_of_a_places_attention():
    found = explain(system(), "a red circle", count=2)
    assert found.maps.shape == (2, 3, 8, 8)
    assert bool((found.maps >= 0).all())
    assert bool((found.maps.sum(1) <= 1 + 1e-5).all())
    assert found.samples.shape == (2, 1, 8, 8)


def test_a_row_of_places_becomes_a_map_of_blocks():
    rows = torch.arange(4.0).reshape(1, 1, 4)
    expected = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
    assert torch.equal(laid_out(rows, (4, 4))[0, 0], expected)
    assert torch.equal(laid_out(rows, (8,))[0, 0], torch.tensor([0.0, 0, 1, 1, 2, 2, 3, 3]))


def test_a_word_of_several_prompts_has_their_mean():
    def one(**entropies):
        concepts = tuple(Concept(word, entropy) for word, entropy in entropies.items())
        return Explanation("", concepts, 0.5, torch.zeros(1, 1, 1), torch.zeros(1, 1))

    found = words_of([one(a=0.9, red=0.2), one(a=0.7, blue=0.85)])
    assert [(c.words, round(c.entropy, 6)) for c in found.concepts] == [("blue", 0.85), ("a", 0.8), ("red", 0.2)]
    assert found.everywhere == ["blue"]
    assert (found.over_words, found.prompts) == (0.5, 2)
