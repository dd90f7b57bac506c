import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ebb.encode.conditioner import Conditioner, part
from ebb.encode.labels import Labels
from ebb.encode.text import Text, Vocabulary
from ebb.errors import UsageError

CAPTIONS = ("a red circle", "a blue square", "a red square and a blue circle")
NAMES = Labels(("circle", "square"))


def text(length=12):
    return Text(Vocabulary.learnt(CAPTIONS, size=280), length, CAPTIONS)


def hearing(labels=None, text=None, **rest):
    """What hears these, in this order."""
    found = {"label": labels, "text": text, **rest}
    return Conditioner({name: condition for name, condition in found.items() if condition is not None})


GIVEN = {"label": ["square", "circle"], "text": ["a red circle", None]}


def test_a_batch_holds_what_the_model_hears_and_nothing_else():
    assert Conditioner()(GIVEN, 2) == {}
    assert set(hearing(NAMES)(GIVEN, 2)) == {"label"}
    both = hearing(NAMES, text())(GIVEN, 2)
    assert both["label"].tolist() == [1, 0]
    assert both["text"].shape == (2, 12)
    assert both["text"].dtype == torch.int64
    assert both["text"][0].any()
    assert not both["text"][1].any()


def test_the_null_asks_for_nothing_in_every_condition():
    null = hearing(NAMES, text()).null()
    assert null["label"].tolist() == [2]
    assert null["text"].shape == (1, 12)
    assert not null["text"].any()
    for name, nothing in (("label", [None]), ("text", [""]), ("text", [" "]), ("text", [None])):
        assert torch.equal(hearing(NAMES, text())({name: nothing}, 1)[name], null[name])


def test_without_a_wish_labels_or_examples_come_in_turn_whatever_the_batch():
    assert hearing(NAMES).given(3, {}, 1) == {"label": ["square", "circle", "square"]}
    assert hearing(NAMES, text()).given(2, {"label": None}) == {"label": ["circle", "square"]}
    given = hearing(text=text()).given(4, {}, 2)
    assert given == {"text": [CAPTIONS[2], CAPTIONS[0], CAPTIONS[1], CAPTIONS[2]]}
    assert part(given, 1, 2) == {"text": [CAPTIONS[0], CAPTIONS[1]]}
    assert Conditioner().given(3, {}) == {}


def test_a_wish_in_one_condition_leaves_the_other_open():
    both = hearing(NAMES, text())
    assert both.given(2, {"text": "a red circle"}) == {"text": ["a red circle"] * 2}
    assert both.given(2, {"label": ["square", 0], "text": None}) == {"label": ["square", "circle"]}
    assert both.given(2, {"label": ["square", None]}) == {"label": ["square", None]}
    assert both.given(2, {"text": ""}) == {"text": ["", ""]}, "nothing, said in so many words, is nothing"
    assert both.about("square") == {"label": ["square"]}
    assert both.about("squares") == {"text": ["squares"]}


@pytest.mark.parametrize(
    ("conditioner", "asked", "said"),
    [
        (Conditioner(), {"label": "circle"}, "without label.*hears nothing"),
        (hearing(NAMES), {"text": "a circle"}, "without text, so it cannot be asked for it; it hears label"),
        (hearing(NAMES), {"lable": "circle"}, "without lable"),
        (hearing(NAMES), {"label": "triangle"}, "triangle"),
        (hearing(NAMES), {"label": ["circle"]}, "one label for each of 2"),
        (hearing(NAMES, text()), {"text": ["a", "b", "c"]}, "one text for each of 2"),
    ],
)
def test_what_cannot_be_asked_is_refused(conditioner, asked, said):
    with pytest.raises(UsageError, match=said):
        conditioner.given(2, asked)
    with pytest.raises(UsageError, match="one label for each of 3 samples, got 2"):
        hearing(NAMES)(GIVEN, 3)


def test_a_contract_names_every_condition_by_its_kind():
    every = hearing(NAMES, text(), style=Labels(("oil", "ink")), title=text(3))
    again = json.loads(json.dumps(every.to_json()))
    assert [one["kind"] for one in again.values()] == ["labels", "text", "labels", "text"]
    assert Conditioner.from_json(again) == every


def test_long_texts_are_cut_and_a_text_survives_its_contract():
    short = text(length=3)
    assert np.array_equal(short(["a red circle " * 1000])[0], text()(["a red circle"])[0][:3])
    again = Text.from_json(short.to_json())
    assert again == short


def test_each_concept_of_a_text_has_a_row_of_its_own():
    whole, apart = text(length=9), replace(text(length=9), concepts=3)
    ids = apart(["a red square and a blue circle", "a red circle", ""])
    assert ids.shape == (3, 3, 9)
    assert np.array_equal(ids[0], whole(["a red square", "a blue circle", ""]))
    assert np.array_equal(ids[1], whole(["a red circle", "", ""]))
    assert not ids[2].any()
    assert apart.count(CAPTIONS[2]) == whole.count("a blue circle") < whole.count(CAPTIONS[2])
    assert Text.from_json(apart.to_json()) == apart
    old = {name: value for name, value in whole.to_json().items() if name != "concepts"}
    assert Text.from_json(old) == whole
