"""What an evaluation finds out besides the distances: copies, noise levels, likelihood. Each part stands alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ebb.data.dataset import Dataset
from ebb.data.images import save_png, sheet, to_pixels
from ebb.data.loader import Batch
from ebb.data.modality import compared
from ebb.data.pictures import batches
from ebb.encode.conditioner import Values
from ebb.errors import UsageError
from ebb.evaluate.analysed import Analysed, Result
from ebb.evaluate.by_steps import by_steps
from ebb.evaluate.effects import effects
from ebb.evaluate.latent_floor import latent_floor
from ebb.judge.ensemble import Ensemble
from ebb.judge.features import RandomFeatures
from ebb.judge.matcher import AMONG, retrieval, train_matcher
from ebb.judge.scene_reader import agreement, judge
from ebb.system.families.families import FAMILIES
from ebb.system.requests import values_of
from ebb.system.sampler import Sampler
from ebb.system.system import System
from ebb.understand.bound import bound
from ebb.understand.concepts import explain, listening, words_of
from ebb.understand.flow_bound import flow_bound
from ebb.understand.levels import levels
from ebb.understand.likelihood import likelihood
from ebb.understand.memorise import memorisation
from ebb.understand.reader import fitted
from ebb.understand.reconstruction import Reconstruction

PROBED = 64
"""Training images at which each noise level is looked at."""

PROMPTED = 500
"""Unseen captions that are asked for, at most."""

EXPLAINED = 12
"""Captions whose words are looked at, the first of those that samples were asked for."""

RESTORED = 1000
"""Images that go through an autoencoder and back, at most."""

SHOWN = 10
"""Of them, those that are shown."""

AT_ONCE = 500
"""Examples that are encoded at once."""

FITTED = 256
"""Training images to which the reading of values is fitted, at most."""

IDEAL = 10_000
"""Training images that the ideal denoiser knows, at most."""


def copies(subject: Analysed) -> Result:
    """Samples that lie closer to training images than unseen images do; a picture of the closest pairs.

    Where no image was held out, a random half of the training images stands in for unseen ones: to the other half they
    are unseen. Copies of that other half are found then, and no others. In pixels alone where the features are a
    large network.
    """
    dataset, modality, warnings = subject.dataset, subject.dataset.modality, tuple[str, ...]()
    train = compared(modality, dataset.rows)
    if dataset.held_out is not None:
        unseen = compared(modality, dataset.held_out.rows)
    else:
        order = np.random.default_rng(subject.seed).permutation(len(train))
        dataset = replace(dataset, rows=dataset.rows[order[::2]])
        train, unseen = train[order[::2]], train[order[1::2]]
        warnings = (
            "memorisation: no image was held out, so half of the training images stand in for unseen ones;"
            " copies of that half are not looked for",
        )
    pixels = compared(modality, subject.drawn.rows)
    small = isinstance(subject.features, Ensemble | RandomFeatures)  # every training image goes through it
    looked = subject.features if small else None
    result = memorisation(pixels, subject.labels, train, unseen, looked, seed=subject.seed)
    if result.pairs:
        mine, theirs, _ = (list(column) for column in zip(*result.pairs, strict=True))
        shown = np.concatenate([subject.drawn.rows[mine], dataset.rows[theirs]])
        save_png(modality.sheet(shown, len(mine)), subject.run / "evaluation" / "closest.png", {"pairs": result.pairs})
    return Result({"memorisation": result}, warnings)


def noise(subject: Analysed) -> Result:
    """Loss, gradient norm and output scale at each noise level, beside the trivial and the ideal denoiser.

    Of training images: the ideal denoiser knows them, and is the floor of their loss and of no other's.
    """
    system, dataset = subject.system, subject.dataset
    some = np.random.default_rng(subject.seed).permutation(len(dataset.rows))[:IDEAL]
    parts = (dataset.x(some[at : at + AT_ONCE]) for at in range(0, len(some), AT_ONCE))
    known = torch.cat([system.encode(x.to(system.device)).cpu() for x in parts])
    probed, theirs = known[:PROBED].to(system.device), system.conditions(values_of(dataset, some), len(some))
    cond = {name: row[:PROBED] for name, row in theirs.items()}
    found = levels(system.denoiser, Batch(probed, cond), Batch(known, theirs), seed=subject.seed)
    return Result({"levels": found})


def bits(subject: Analysed) -> Result:
    """Bits per dimension of unseen images by the probability flow, and of 8-bit values their variational bound.

    Values are read off by what is fitted to training images, as a part of the model (`ebb.understand.reader`).
    """
    known, seed = unseen(subject, subject.coded), subject.seed
    found: dict[str, Any] = {}
    if known[0].dtype == np.uint8:
        trained = np.sort(np.random.default_rng(seed).permutation(len(subject.dataset.rows))[:FITTED])
        reader = fitted(subject.system, subject.dataset.rows[trained], values_of(subject.dataset, trained), seed=seed)
        found["likelihood"] = flow_bound(subject.system, *known, seed=seed, reader=reader)
        found["bound"] = bound(subject.system, *known, seed=seed, end=reader)
    else:
        found["likelihood"] = likelihood(subject.system, *known, seed=seed)
    return Result(found, () if held(subject) else ("likelihood: no image was held out; it is that of training images",))


def reconstructed(subject: Analysed) -> Result:
    """How pictures come back through the latents, and two rows of pictures: before and after, and between two."""
    space, system = subject.system.space, subject.system
    if space is None:
        return Result({})
    aside = subject.dataset.held_out
    source = (aside or subject.dataset).rows
    pixels = source[np.sort(np.random.default_rng(subject.seed).permutation(len(source))[:RESTORED])]
    images = [x.to(system.device) for x in batches(pixels, 64)]
    found = Reconstruction.of(space.autoencoder, images, seed=subject.seed)
    first, folder = images[0][:SHOWN], subject.run / "evaluation"
    with torch.no_grad():
        z = system.encode(first)
        ways = [torch.lerp(z[i], z[i + 1], share) for i in (0, 2) for share in torch.linspace(0, 1, SHOWN).tolist()]
        between = system.decode(torch.stack(ways)) if len(z) > 3 else z[:0]
        after = system.decode(z)
    save_png(sheet(to_pixels(torch.cat([first, after])), len(first)), folder / "reconstructions.png", {})
    if len(between):
        save_png(sheet(to_pixels(between), SHOWN), folder / "between.png", {})
    seen = () if aside else ("reconstruction: no image was held out; these are training images",)
    return Result({"reconstruction": found}, (*found.warnings(), *seen))


def floor(subject: Analysed) -> Result:
    """What the way through the latents costs in the Fréchet distance, of the images that its floor is measured on."""
    space, count = subject.system.space, len(subject.drawn.rows)
    if space is None:
        return Result({})
    return Result({"latent_floor": latent_floor(space, subject.dataset.rows, subject.features, count, subject.seed)})


def agreeing(subject: Analysed) -> Result:
    """How many samples of captions that were not trained on show all that these say; as many as were drawn, at most."""
    pixels, texts = subject.drawn.rows, subject.texts
    if subject.dataset.held_out is not None:
        pixels, texts, _ = of_new_captions(subject)
    return Result({"agreement": agreement(judge(subject.system.shape[1]), pixels, texts)})


def attended(subject: Analysed) -> Result:
    """How evenly the words of some captions are attended to, over places and over words."""
    some = [text for text in dict.fromkeys(subject.texts) if text.strip()][:EXPLAINED]
    return Result({"words": words_of([explain(subject.system, text, count=2, seed=subject.seed) for text in some])})


def attends(system: System) -> bool:
    """Whether it has an attention to the words of a text that can be watched."""
    try:
        return bool(listening(system))
    except UsageError:
        return False


def matched(subject: Analysed) -> Result:
    """How often a matcher finds the sample of a caption among those of others: of captions that were trained on, and of
    unseen ones."""
    dataset, captions = subject.dataset, subject.dataset.captions or ()
    judging = train_matcher(dataset.rows, captions, seed=subject.seed)
    some = [at for at, text in enumerate(subject.texts) if text.strip()][:PROMPTED]
    pixels, texts = subject.drawn.rows[some], [subject.texts[at] for at in some]
    found, aside = {"matched": retrieval(judging, pixels, texts)}, dataset.held_out
    if aside is not None and len(set(aside.captions or ())) > AMONG:
        made, asked, real = of_new_captions(subject)
        found["matched_unseen"] = retrieval(judging, made, asked, real)
        shown = np.concatenate([real[:SHOWN], made[:SHOWN]])
        drawn = sheet(shown, min(SHOWN, len(real)), [*asked[:SHOWN], *["sample"] * SHOWN][: len(shown)])
        save_png(drawn, subject.run / "evaluation" / "captions.png", {"captions": asked[:SHOWN]})
    return Result(found)


def of_new_captions(subject: Analysed) -> tuple[NDArray[np.uint8], tuple[str, ...], NDArray[np.uint8]]:
    """Samples of captions that were not trained on (as many as were drawn, at most), their texts and true pictures."""
    aside = subject.dataset.held_out or subject.dataset
    captioned = [at for at, caption in enumerate(aside.captions or ()) if caption.strip()]
    some = np.random.default_rng(subject.seed).permutation(captioned)[: min(PROMPTED, len(subject.drawn.rows))]
    asked = values_of(aside, some)
    made = Sampler(subject.system)(subject.system.request(asked, len(some), subject.seed))
    return to_pixels(made), tuple(asked["text"]), aside.rows[some]


def held(subject: Analysed) -> Dataset | None:
    """The images held out of training, if there are any, with labels where the training images have them."""
    dataset = subject.dataset.held_out
    bare = dataset is not None and dataset.labels is None and subject.dataset.labels is not None
    return None if bare else dataset


def unseen(subject: Analysed, most: int) -> tuple[NDArray[Any], Values]:
    """At most `most` held-out images, drawn by the seed, with what is said of them; training images where none are."""
    dataset = held(subject) or subject.dataset
    some = np.sort(np.random.default_rng(subject.seed).permutation(len(dataset.rows))[:most])
    return compared(dataset.modality, dataset.rows[some]), values_of(dataset, some)


def parts(subject: Analysed) -> list[tuple[str, Callable[[Analysed], Result]]]:
    """Every analysis that its family knows and its data allows, after what it does in words, the quickest first.

    Bits are of models of the pictures themselves.
    """
    coded, latent = subject.coded, subject.system.space is not None
    hears = subject.system.conditioner.text is not None
    scenes = subject.dataset.summary.kind == "shapes" and hears
    every: dict[str, tuple[str, Callable[[Analysed], Result], bool]] = {
        "effect": ("measuring what the adapter changes", effects, True),
        "copies": ("looking for copies of training images", copies, True),
        "scenes": ("reading what the samples show", agreeing, scenes),
        "captions": ("matching samples with captions", matched, hears and not scenes),
        "words": ("looking at what each word says of places", attended, hears and attends(subject.system)),
        "reconstruction": ("looking at reconstructions", reconstructed, latent),
        "floor": ("measuring what the latents cost", floor, latent),
        "levels": ("looking at each noise level", noise, True),
        "steps": ("measuring by the number of steps", by_steps, True),
        "bits": (f"coding {coded} images", bits, bool(coded) and not latent),
    }
    known = FAMILIES[subject.system.model.family].analyses
    return [(what, part) for name, (what, part, wanted) in every.items() if wanted and name in known]
