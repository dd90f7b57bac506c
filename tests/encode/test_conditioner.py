from dataclasses import replace

import numpy as np
import pytest
import torch

from ebb.encode.conditioner import Conditioner, Text, Wishes
from ebb.encode.labels import Labels
from ebb.encode.text import Vocabulary
from ebb.errors import UsageError

CAPTIONS = ("a red circle", "a blue square", "a red square and a blue circle")
NAMES = Labels(("circle", "square"))


def text(length=12):
    return Text(Vocabulary.learnt(CAPTIONS, size=280), length, CAPTIONS)


def test_a_batch_holds_what_the_model_hears_and_nothing_else():
    wishes = Wishes((1, 0), ("a red circle", ""))
    assert Conditioner()(wishes) == {}
    assert set(Conditioner(NAMES)(wishes)) == {"label"}
    both = Conditioner(NAMES, text())(wishes)
    assert both["label"].tolist() == [1, 0]
    assert both["text"].shape == (2, 12)
    assert both["text"].dtype == torch.int64
    assert both["text"][0].any()
    assert not both["text"][1].any()


def test_the_null_asks_for_nothing_in_every_condition():
    null = Conditioner(NAMES, text()).null()
    assert null["label"].tolist() == [2]
    assert null["text"].shape == (1, 12)
    assert not null["text"].any()


def test_without_a_wish_labels_or_examples_come_in_turn_whatever_the_batch():
    assert Conditioner(NAMES).wishes(5, seed=1).labels == (1, 0, 1, 0, 1)
    heard = Conditioner(text=text()).wishes(4, seed=2)
    assert heard.texts == (CAPTIONS[2], CAPTIONS[0], CAPTIONS[1], CAPTIONS[2])
    assert heard.part(1, 2).texts == (CAPTIONS[0], CAPTIONS[1])
    assert len(Conditioner().wishes(3)) == 3


def test_a_wish_in_one_condition_leaves_the_other_open():
    both = Conditioner(NAMES, text())
    assert both.wishes(2, text="a red circle") == Wishes((2, 2), ("a red circle",) * 2)
    assert both.wishes(2, label=["square", "circle"]) == Wishes((1, 0), ("", ""))
    assert both.wishes(2, label="square", text="a red circle") == Wishes((1, 1), ("a red circle",) * 2)


@pytest.mark.parametrize(
    ("conditioner", "asked", "said"),
    [
        (Conditioner(), {"label": "circle"}, "without labels"),
        (Conditioner(), {"text": "a circle"}, "without captions"),
        (Conditioner(NAMES), {"text": "a circle"}, "--label"),
        (Conditioner(NAMES), {"label": "triangle"}, "triangle"),
        (Conditioner(NAMES), {"label": ["circle"]}, "one label for each of 2"),
        (Conditioner(NAMES, text()), {"text": ["a", "b", "c"]}, "one text for each of 2"),
    ],
)
def test_what_cannot_be_asked_is_refused(conditioner, asked, said):
    with pytest.raises(UsageError, match=said):
        conditioner.wishes(2, **asked)


def test_a_data_set_is_heard_row_by_row_and_null_where_it_lacks_something():
    both = Conditioner(NAMES, text())
    found = both.of(2, np.array([1, 0]), ("a red circle", ""))
    assert np.array_equal(found["label"], [1, 0])
    assert not found["text"][1].any()
    assert np.array_equal(found["text"], both(Wishes((1, 0), ("a red circle", "")))["text"].numpy())
    bare = both.of(2, None, None)
    assert np.array_equal(bare["label"], [2, 2])
    assert not bare["text"].any()


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
