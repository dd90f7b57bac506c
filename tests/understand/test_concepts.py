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
from ebb.understand.concepts import concepts, emphasised, spans

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
