"""Where a picture listens to each word of its prompt, and what to do where a concept is heard nowhere in particular."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from ebb.encode.text import Text, words
from ebb.errors import UsageError
from ebb.networks.attention import CrossAttention
from ebb.process.denoiser import Cond
from ebb.system.sampler import Sampler, Settings
from ebb.system.system import System
from ebb.understand.probe import attention_maps, entropy_of_keys

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


def spans(text: Text, prompt: str) -> list[tuple[str, range]]:
    """Each word of a prompt with the places of its pieces, as far as the model hears them."""
    found, at = list[tuple[str, range]](), 0
    for word in words(prompt):
        pieces = len(text.vocabulary.spell(word))
        heard = range(at, min(at + pieces, text.length))
        found += [(word.strip(), heard)] if heard else []
        at += pieces
    return found


def concepts(
    system: System, prompt: str, *, count: int = 4, seed: int = 0, **settings: Unpack[Settings]
) -> list[Concept]:
    """The words of a prompt with the entropy of the attention to each, while `count` samples of it are made.

    Without guidance, by the system's own sampling but for these settings. Raises UsageError for a model that hears no
    texts, or each concept alone, or that has no cross-attention (a network of two streams has one attention over all).
    """
    text = system.conditioner.text
    listening = [n for n, module in system.denoiser.network.named_modules() if isinstance(module, CrossAttention)]
    if text is None or not listening:
        raise UsageError("this model attends to no text", "train on captions with a unet or a dit")
    if not isinstance(text, Text):
        raise UsageError("the pieces of a frozen encoder are not told apart by words", "train without --text.encoders")
    if text.concepts:
        raise UsageError(
            "this model has one attention for each concept, not for each word", "train without --text.concepts"
        )
    settings["guidance"] = 1.0
    with attention_maps(system.denoiser.network) as maps:
        Sampler(system, count)(system.request(system.given(count, {"text": prompt}), count, seed, **settings))
    by_key = [entropy_of_keys(one).mean((0, 1)) for name in listening for one in maps[name]]
    mean: Tensor = torch.stack(by_key).mean(0)[1:]  # the first row is the network's own
    return [Concept(word, float(mean[list(places)].mean())) for word, places in spans(text, prompt)]


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
