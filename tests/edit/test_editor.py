import pytest
import torch

from ebb.edit.editor import Editor, covering
from ebb.errors import UsageError
from ebb.guide.operators import downsample
from ebb.networks.dit import DiT

from .known import system


def pictures(count=3, size=8):
    levels = torch.randint(0, 256, (count, 1, size, size), generator=torch.Generator().manual_seed(1))
    return levels.float() / 127.5 - 1


def test_strength_1_is_a_sample_of_the_system_and_0_the_picture():
    made, x0 = system(), pictures()
    editor = Editor.of(made, label="b", guidance=2.0, solver="dpmpp_2m_sde")
    assert torch.equal(editor.strength(x0, 0.0), x0)
    sampled = made.sample(3, label="b", guidance=2.0, solver="dpmpp_2m_sde", seed=5)
    torch.testing.assert_close(editor.strength(x0, 1.0, seed=5), sampled, rtol=0, atol=1e-6)


EDITS = {
    "strength": lambda editor, x0, seed: editor.strength(x0, 0.5, seed),
    "inpaint": lambda editor, x0, seed: editor.inpaint(x0, torch.eye(8) == 0, 2, seed),
    "outpaint": lambda editor, x0, seed: editor.outpaint(x0, 3, 2, seed),
    "translate": lambda editor, x0, seed: editor.translate(x0, "b"),
    "upscale": lambda editor, x0, seed: editor.upscale(x0[:, :, ::2, ::2], 0.1, seed),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_the_same_in_any_batch(name):
    made, x0 = system(), pictures(3)
    few, many = (Editor.of(made, label="a", guidance=1.5, batch=batch) for batch in (2, 8))
    whole = EDITS[name](many, x0, 30)
    torch.testing.assert_close(EDITS[name](few, x0, 30), whole, rtol=0, atol=1e-4)
    torch.testing.assert_close(EDITS[name](few, x0[2:], 32), whole[2:], rtol=0, atol=1e-4)


def test_what_is_not_masked_is_the_picture_bit_for_bit():
    new, x0 = torch.zeros(8, 8), pictures()
    new[2:5, 3:] = 1
    for solver in ("dpmpp_2m", "heun", "ddpm"):
        made = Editor.of(system(), solver=solver).inpaint(x0, new, repeats=2)
        assert torch.equal(made[:, :, new == 0], x0[:, :, new == 0])
        assert not torch.equal(made[:, :, new == 1], x0[:, :, new == 1])


def test_outpainting_keeps_the_picture_inside():
    x0 = pictures()
    made = Editor.of(system()).outpaint(x0, 3)
    assert made.shape == (3, 1, 14, 14)
    assert torch.equal(made[:, :, 3:11, 3:11], x0)
    assert len(made[:, :, :3].unique()) > 50


def test_a_network_of_one_size_refuses_a_larger_canvas():
    network = DiT(
        1, width=16, depth=1, patch=2, head=16, positions="learned", size=(8, 8), ports={"label": "classes(count=3)"}
    )
    with pytest.raises(UsageError, match="positions were learned for"):
        Editor.of(system(network=network)).outpaint(pictures(), 2)


def test_a_film_strip_begins_and_ends_with_the_samples_of_its_seeds_and_labels():
    made = system()
    for solver, guidance in (("dpmpp_2m", 1.0), ("ddpm", 2.0)):
        first, last = (
            made.sample(1, label=label, seed=seed, solver=solver, guidance=guidance)
            for label, seed in (("a", 3), ("c", 9))
        )
        editor = Editor.of(made, label="a", solver=solver, guidance=guidance, batch=2)
        strip = editor.interpolate((3, 9), 5, ("a", "c"))
        torch.testing.assert_close(strip[[0, -1]], torch.cat([first, last]), rtol=0, atol=1e-4)
        seeds = editor.interpolate((3, 9), 5)
        torch.testing.assert_close(seeds[:1], first, rtol=0, atol=1e-4)
        neighbours = (seeds[1:] - seeds[:-1]).flatten(1).norm(dim=1)
        assert neighbours.max() < (seeds[-1] - seeds[0]).norm(), "each frame is nearer to the next than the ends are"


def test_there_and_back_under_one_label_is_the_picture():
    x0 = 0.5 * pictures(2)
    editor = Editor.of(system(), label="a", solver="heun", steps=16)
    torch.testing.assert_close(editor.translate(x0, "a"), x0, rtol=0, atol=0.05)
    assert (editor.translate(x0, "c") - x0).abs().max() > 0.05


def test_arithmetic_is_the_same_in_any_batch():
    x0, made = pictures(5), system()
    few, many = (Editor.of(made, label="a", batch=batch) for batch in (2, 8))
    moved = many.shift(x0, x0[:3], x0[2:])
    torch.testing.assert_close(few.shift(x0, x0[:3], x0[2:]), moved, rtol=0, atol=1e-4)
    assert not torch.allclose(moved, many.shift(x0, x0[:3], x0[2:], -1.0), atol=0.05)
    torch.testing.assert_close(many.shift(x0, x0[:3], x0[2:], 0.0), many.translate(x0, "a"))


def test_enlarging_is_to_the_models_size_and_agrees_better_with_the_small_picture_than_a_sample_does():
    small, made = downsample(4)(0.5 * pictures(2)), system()
    editor = Editor.of(made, label="a", steps=8)
    large = editor.upscale(small, error=0.02, seed=1)
    assert large.shape == (2, 1, 8, 8)
    plain = made.sample(2, label="a", steps=8, seed=1)
    assert (downsample(4)(large) - small).square().mean() < 0.5 * (downsample(4)(plain) - small).square().mean()


def test_progress_counts_every_picture():
    counted = []
    Editor.of(system(), batch=2, progress=counted.append).strength(pictures(5), 0.5)
    assert counted == [2, 2, 1]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda e: e.strength(pictures(), 1.2), "from 0 .the picture itself. to 1"),
        (lambda e: e.inpaint(pictures(), torch.ones(4, 4)), "a mask of 4×4 does not fit pictures of 8×8"),
        (lambda e: e.inpaint(pictures(), torch.zeros(8, 8)), "nothing to make new"),
        (lambda e: e.outpaint(pictures(), 0), "border must be between"),
        (lambda e: e.translate(pictures(), "d"), "there is no label 'd'"),
        (lambda e: e.upscale(pictures()), "whole factor to the model's 8×8, which 8×8 does not reach"),
        (lambda e: e.upscale(pictures(1, 3)), "for example from 4×4 or 2×2"),
        (lambda e: e.interpolate((0, 1), 1), "n must be between 2 and 10,000,000, got 1"),
    ],
)
def test_what_cannot_be_is_refused(edit, message):
    with pytest.raises(UsageError, match=message):
        edit(Editor.of(system()))


def test_labels_and_guidance_that_the_system_cannot_hear_are_refused():
    for classes, asked, message in (
        (3, {"label": "d"}, "there is no label 'd'"),
        (3, {"guidance": 2.0}, "needs a label or a text to guide towards"),
        (0, {"label": "a"}, "trained without label"),
        (0, {"guidance": 2.0}, "needs labels, texts or another condition"),
    ):
        with pytest.raises(UsageError, match=message):
            Editor.of(system(classes=classes), **asked)
    assert Editor.of(system(classes=0)).strength(pictures(), 0.5).shape == (3, 1, 8, 8)


def test_a_coarse_place_is_new_if_any_fine_place_within_it_is():
    fine = torch.zeros(4, 8)
    fine[0, 0] = fine[3, 6] = 1
    assert covering(fine, torch.zeros(1, 2, 2, 4)).tolist() == [
        [True, False, False, False],
        [False, False, False, True],
    ]
    assert torch.equal(covering(fine, torch.zeros(1, 2, 4, 8)), fine != 0)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda e: e.strength(pictures()[0], 0.5), r"x\[None\]"),
        (lambda e: e.strength(pictures().repeat(1, 3, 1, 1), 0.5), "expected pictures"),
        (lambda e: e.strength(pictures() * 127, 0.5), "values from -1 to 1"),
        (lambda e: e.strength(pictures() * float("nan"), 0), "values from -1 to 1"),
        (lambda e: e.deblur(pictures()[..., :4], 1.0), "expected pictures"),
        (lambda e: e.translate(pictures()[..., :4]), "expected pictures"),
        (lambda e: e.shift(pictures(), pictures()[:0], pictures()), "expected pictures"),
        (lambda e: e.shift(pictures(), pictures(), -pictures(), float("nan")), "scale must be between"),
        (lambda e: e.upscale(pictures()[0]), "expected pictures"),
        (lambda e: e.strength(pictures(), 0.5, seed=-1), "seed must be between 0 and 2.62, got -1"),
        (lambda e: e.interpolate((0, -1), 2), "seeds are whole numbers from 0"),
        (lambda e: Editor.of(e.system, batch=0), "batch must be between 1"),
        (lambda e: Editor.of(e.system, label=torch.tensor([0, 1])), "expected one label for each of 1 images"),
        (lambda e: Editor.of(e.system, label=1.5), "of the kind str or int"),
    ],
)
def test_pictures_that_are_none_of_the_models_are_explained(edit, message, unchecked):
    unchecked()
    with pytest.raises(UsageError, match=message):
        edit(Editor.of(system()))
