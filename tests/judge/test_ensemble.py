from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ebb.data.pictures import batches
from ebb.errors import DamagedError, DataError, UsageError
from ebb.judge import fit
from ebb.judge.ensemble import Ensemble, load_ensemble, save_ensemble, train_ensemble
from ebb.judge.features import Features, ImageClassifier, RandomFeatures, blocks, extract, probabilities, vote
from ebb.judge.residual_classifier import ResidualClassifier


@pytest.fixture(scope="module")
def taught(digits):
    """Three classifiers that had little time, judged on the last 297 digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "EPOCHS", 4)
        return train_ensemble(digits.pixels[:1500], digits.labels[:1500], 10, seconds=8.0, held_out=last(digits))


def last(digits):
    return digits.pixels[1500:], digits.labels[1500:]


def opinionated(*scores):
    """An ensemble whose members give fixed class scores."""
    members = []
    for score in scores:
        member = ResidualClassifier(1, len(score))
        torch.nn.init.zeros_(member.head.weight)
        member.head.bias.data = torch.tensor(score, dtype=torch.float32)
        members.append(member)
    return Ensemble(members).eval().requires_grad_(False)


def test_the_vote_beats_its_members_on_the_whole(digits, taught):
    ensemble, accuracy = taught
    rows = extract(ensemble, batches(digits.pixels[1500:]))
    truth = digits.labels[1500:]
    alone = [np.mean(vote(m, rows[:, c]) == truth) for m, c in zip(ensemble.members, blocks(ensemble), strict=True)]
    assert accuracy == np.mean(vote(ensemble, rows) == truth)
    assert accuracy >= np.mean(alone)
    assert accuracy > 0.85


def test_members_differ_and_one_seed_is_one_member(digits, taught):
    """Member k is the classifier of seed k, trained as long as the first."""
    first, second, third = (member.embed.weight for member in taught[0].members)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    seen = digits.pixels[:1500], digits.labels[:1500]
    again = trained(fit.fit(seen, last(digits), 10, seed=2, most=4 * 1500, steady=True))
    assert torch.equal(third, again.classifier.embed.weight)


def trained(work):
    """The result of a training, whose updates nobody watches."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def test_features_are_those_of_the_members_side_by_side(digits, taught):
    ensemble, images = taught[0], next(batches(digits.pixels[:4]))
    assert isinstance(ensemble, Features)
    assert ensemble.name == "3 classifiers"
    assert ensemble(images).shape == (4, ensemble.dimension) == (4, 384)
    assert blocks(ensemble) == [slice(0, 128), slice(128, 256), slice(256, 384)]
    for member, columns in zip(ensemble.members, blocks(ensemble), strict=True):
        assert torch.equal(ensemble(images)[:, columns], member(images))


def check_probabilities(found):
    """Two members: the mean of softmax(log 8, 0) = (8/9, 1/9) and (1/4, 3/4)."""
    np.testing.assert_allclose(
        found(opinionated([np.log(8.0), 0.0], [0.0, np.log(3.0)])), [[41 / 72, 31 / 72]], rtol=1e-6
    )


def test_probabilities_are_the_mean_of_the_members():
    check_probabilities(lambda ensemble: probabilities(ensemble, np.zeros((1, 256))))


def test_a_softmax_of_mean_scores_is_caught():
    def mutant(ensemble):
        scores = torch.stack([m.logits(torch.zeros(1, 128)) for m in ensemble.members])
        return scores.mean(dim=0).softmax(dim=1).numpy()

    with pytest.raises(AssertionError):
        check_probabilities(mutant)


def test_a_sure_member_outvotes_two_unsure_ones():
    assert vote(opinionated([9.0, 0.0], [0.0, 0.4], [0.0, 0.4]), np.zeros((2, 384))).tolist() == [0, 0]


def test_a_callable_of_the_user_is_features_of_one_block_and_judges_nothing():
    class Brightness:
        name, dimension = "brightness", 2

        def __call__(self, images):
            return torch.stack([images.mean(dim=(1, 2, 3)), images.std(dim=(1, 2, 3))], dim=1)

    features = Brightness()
    assert isinstance(features, Features)
    assert extract(features, batches(np.zeros((3, 1, 8, 8), dtype=np.uint8))).tolist() == [[-1, 0]] * 3
    assert blocks(features) == [slice(0, 2)]
    assert blocks(RandomFeatures(1)) == [slice(0, 128)]
    with pytest.raises(UsageError, match="brightness"):
        vote(features, np.zeros((3, 2)))


def test_an_ensemble_comes_back_from_its_one_file(digits, taught, tmp_path):
    path = tmp_path / "classifier.safetensors"
    assert load_ensemble(path, "a") is None
    save_ensemble(path, *taught, "a")
    assert load_ensemble(path, "b") is None
    loaded = load_ensemble(path, "a")
    assert loaded is not None
    assert loaded[1] == taught[1]
    images = next(batches(digits.pixels[:3]))
    assert torch.equal(loaded[0](images), taught[0](images))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", None])
def test_a_damaged_file_says_so(taught, tmp_path, content):
    path = tmp_path / "classifier.safetensors"
    save_ensemble(path, *taught, "a")
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(DamagedError, match="delete"):
        load_ensemble(path, "a")


def test_classifiers_of_older_versions_are_not_mixed_with_new_ones(tmp_path):
    """Neither where one looks for judges nor where one looks for what older versions judged with."""
    path = tmp_path / "classifier.safetensors"
    facts = {"kind": "ebb classifier", "channels": "1", "classes": "10", "reduction": "1", "fingerprint": "a"}
    save_file({"a": torch.zeros(1)}, path, metadata=facts | {"accuracy": "0.99"})
    assert load_ensemble(path, "a") is None
    for one, other in ((ImageClassifier, ResidualClassifier), (ResidualClassifier, ImageClassifier)):
        save_ensemble(path, Ensemble([one(1, 2)]), 0.9, "a")
        assert load_ensemble(path, "a", other) is None
        assert isinstance(load_ensemble(path, "a", one)[0].members[0], one)


def test_without_a_test_set_all_members_are_judged_on_the_same_split(digits, monkeypatch):
    monkeypatch.setattr(fit, "EPOCHS", 2)
    ensemble, accuracy = train_ensemble(*digits, 10, seeds=2, seconds=2.0)
    assert len(ensemble.members) == 2
    order = torch.randperm(len(digits.pixels), generator=torch.Generator().manual_seed(0)).numpy()
    held = order[: len(order) // 6]
    rows = extract(ensemble, batches(digits.pixels[held]))
    assert accuracy == np.mean(vote(ensemble, rows) == digits.labels[held])


def test_wrong_arguments_are_named(digits):
    with pytest.raises(UsageError, match="seeds = 0"):
        train_ensemble(*digits, 10, seeds=0)
    with pytest.raises(DataError, match=r"0…8.*0…9"):
        train_ensemble(*digits, 9)
