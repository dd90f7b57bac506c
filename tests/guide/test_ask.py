import pytest
import torch

import ebb
from ebb.errors import UsageError
from ebb.guide.ask import ask, null_for
from ebb.process.moment import Moment, at, each


class Sums:
    """x + a + t, noting the batches that it was asked for."""

    path, takes_moments = ebb.Linear(), True

    def __init__(self):
        self.asked = []

    def __call__(self, x, t, cond):
        self.asked.append((len(x), isinstance(t, Moment)))
        return x + cond["a"] + each(t, len(x))[:, None]


def test_each_condition_has_the_answer_that_it_has_alone_and_there_is_one_call():
    x, denoiser = torch.arange(6.0).reshape(3, 2), Sums()
    own, shared = {"a": torch.tensor([[1.0], [2.0], [3.0]])}, {"a": torch.tensor([[10.0]])}
    for t in (at(ebb.Linear(), 0.5), torch.tensor([0.1, 0.2, 0.3])):
        found = ask(denoiser, x, t, (own, shared, own))
        alone = [denoiser(x, t, cond) for cond in (own, shared, own)]
        for one, other in zip(found, alone, strict=True):
            assert torch.equal(one, other)
    assert denoiser.asked[0] == (9, True), "a moment that the batch shares stays one"
    assert len(denoiser.asked) == 8


def test_rows_that_are_neither_one_nor_all_are_named():
    with pytest.raises(UsageError, match="'a' has 2 rows for a batch of 3"):
        ask(Sums(), torch.zeros(3, 2), torch.zeros(3), ({"a": torch.zeros(2, 1)},))


def test_a_condition_without_null_is_named_with_the_nearest():
    null = {"label": torch.zeros(1), "text": torch.ones(1)}
    assert null_for(["text"], null) == {"text": null["text"]}
    with pytest.raises(UsageError, match="no null for the condition 'lable'") as caught:
        null_for(["text", "lable"], null)
    assert "label" in str(caught.value)
