"""Where a picture listens to each word of its prompt, and what to do where a concept is heard nowhere in particular."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Unpack

import torch
from torch import Tensor

from ebb.encode.text import Text, words
from ebb.errors import UsageError
from ebb.networks.attention import CrossAttention
from ebb.process.denoiser import Cond
from ebb.shapes import Float
from ebb.system.sampler import Sampler, Settings
from ebb.system.system import System
from ebb.understand.probe import attention_maps, entropy, entropy_of_keys

EVEN = 0.8
"""A concept with more of the largest entropy than this is seen from everywhere alike."""

STRONGER = 1.5
"""By what its scale grows then."""


@dataclass(frozen=True)
class Concept:
    """A word or phrase with the entropy of the attention to it over places: 1 where it is even, 0 in a single place.

    The mean over its pieces, all layers that attend to the text, their heads, the steps and the samples.
    """

    words: str
    entropy: float

    @property
    def everywhere(self) -> bool:
        """Whether it is seen from everywhere alike, and so says nothing of places."""
        return self.entropy > EVEN


@dataclass(frozen=True, eq=False)
class Explanation:
    """What samples of a prompt listened to, along both axes of the attention to its pieces.

    `concepts` has for each word the entropy over places. `over_words` is the other one: for a place, over the pieces of
    the prompt, the mean over places; 1 where a place listens to all alike, 0 where to one. `maps` is the share of a
    place's attention that goes to each word, [n, words, *size], and `samples` are [n, *shape].
    """

    prompt: str
    concepts: tuple[Concept, ...]
    over_words: float
    maps: Float[Tensor, "n k *size"]
    samples: Float[Tensor, "n *d"]


def spans(text: Text, prompt: str) -> list[tuple[str, range]]:
    """Each word of a prompt with the places of its pieces, as far as the model hears them."""
    found, at = list[tuple[str, range]](), 0
    for word in words(prompt):
        pieces = len(text.spell(word))
        heard = range(at, min(at + pieces, text.length))
        found += [(word.strip(), heard)] if heard else []
        at += pieces
    return found


def listening(system: System) -> tuple[Text, list[str]]:
    """What a system reads of texts, and the names of its layers that attend to it.

    Raises UsageError for a model that hears no texts, or each concept alone, or that has no cross-attention (a network
    of two streams has one attention over all).
    """
    text = system.conditioner.text
    layers = [n for n, module in system.denoiser.network.named_modules() if isinstance(module, CrossAttention)]
    if text is None or not layers:
        raise UsageError("this model attends to no text", "train on captions with a unet or a dit")
    if not isinstance(text, Text):
        raise UsageError("the pieces of a frozen encoder are not told apart by words", "train without --text.encoders")
    if text.concepts:
        raise UsageError(
            "this model has one attention for each concept, not for each word", "train without --text.concepts"
        )
    return text, layers


def explain(system: System, prompt: str, *, count: int = 4, seed: int = 0, **settings: Unpack[Settings]) -> Explanation:
    """What `count` samples of a prompt listen to on their way, by the system's own sampling but for these settings
    and without guidance. Raises UsageError as `listening` does, and for a prompt without words."""
    text, layers = listening(system)
    parts = spans(text, prompt)
    if not parts:
        raise UsageError(f"there is no word in the prompt {prompt!r}", "such as --text 'a red circle'")
    settings |= {"guidance": 1.0, "guides": ()}
    with attention_maps(system.denoiser.network) as watched:
        request = system.request(system.given(count, {"text": prompt}), count, seed, **settings)
        samples = Sampler(system, count)(request)
    pieces = parts[-1][1].stop
    every = [one[..., 1 : 1 + pieces] for name in layers for one in watched[name]]  # the first row is the network's own
    by_piece = torch.stack([entropy_of_keys(one).mean((0, 1)) for one in every]).mean(0)
    maps = torch.stack([laid_out(one.mean(1).mT, system.inner[1:]) for one in every]).mean(0)
    return Explanation(
        prompt,
        tuple(Concept(word, float(by_piece[list(places)].mean())) for word, places in parts),
        float(torch.stack([entropy(one / one.sum(-1, keepdim=True)).nanmean() for one in every]).mean()),
        torch.stack([maps[:, list(places)].sum(1) for _, places in parts], 1),
        samples,
    )


def laid_out(rows: Float[Tensor, "n k q"], size: Sequence[int]) -> Float[Tensor, "n k *size"]:
    """A value for each of q places as a map of `size`, each place a block of equal sides."""
    block = round((math.prod(size) / rows.shape[-1]) ** (1 / len(size)))
    out: Tensor = rows.unflatten(-1, [side // block for side in size])  # type: ignore[no-untyped-call]
    for axis in range(len(size)):
        out = out.repeat_interleave(block, 2 + axis)
    return out


def concepts(
    system: System, prompt: str, *, count: int = 4, seed: int = 0, **settings: Unpack[Settings]
) -> list[Concept]:
    """The words of a prompt with the entropy over places of the attention to each, as `explain` finds them."""
    return list(explain(system, prompt, count=count, seed=seed, **settings).concepts)


@dataclass(frozen=True)
class Words:
    """The words of some prompts, each with its mean entropy over places, and the mean over words of all."""

    concepts: tuple[Concept, ...]
    """the most even first"""
    over_words: float
    prompts: int

    @property
    def everywhere(self) -> list[str]:
        """The words that are seen from everywhere alike."""
        return [one.words for one in self.concepts if one.everywhere]


def words_of(explanations: Sequence[Explanation]) -> Words:
    """What several explanations have in common: of a word that several prompts have, the mean."""
    by_word = dict[str, list[float]]()
    for one in explanations:
        for concept in one.concepts:
            by_word.setdefault(concept.words, []).append(concept.entropy)
    found = [Concept(word, fmean(entropies)) for word, entropies in by_word.items()]
    over_words = fmean(one.over_words for one in explanations)
    return Words(tuple(sorted(found, key=lambda one: -one.entropy)), over_words, len(explanations))


def emphasised(
    system: System,
    prompts: Sequence[str],
    scale: float,
    *,
    limit: float = EVEN,
    factor: float = STRONGER,
    **settings: Unpack[Settings],
) -> list[tuple[float, Cond]]:
    """Terms for `ebb.compose`: each prompt at `scale`, or at scale·factor if it is heard nowhere in particular.

    That is, if none of its words has an entropy of at most `limit` (see `concepts`, which gets the settings). Raises as
    `concepts` does.
    """
    terms = list[tuple[float, Cond]]()
    for prompt in prompts:
        heard = min((one.entropy for one in concepts(system, prompt, **settings)), default=1.0)
        said = system.conditions({"text": [prompt]}, 1)["text"]
        terms.append((scale * factor if heard > limit else scale, {"text": said}))
    return terms
