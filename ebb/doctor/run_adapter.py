"""What may be wrong with an adapter's run: nothing learnt, all moved, pictures copied, another base beneath."""

from __future__ import annotations

import torch
from torch import Tensor

from ebb.adapt.low_rank import LowRank
from ebb.doctor.finding import Check, Finding, NothingToExamineError
from ebb.doctor.remedies import longer
from ebb.doctor.run_subject import RunSubject
from ebb.errors import UsageError
from ebb.recipe.recipe import AdapterRecipe
from ebb.store import shared
from ebb.system.put_on import base_run
from ebb.terminal import command
from ebb.understand.adapter_effect import REST, SHUFFLED

IDLE = 0.005
"""Answers that moved by less of their size: nobody sees that in a sample."""

LEAKS = 0.5
"""How far answers for the rest may move, over how far they do for what was taught; and worse than before."""

UNHEEDED = 0.8
"""The gain of what was taught that is left where it is asked for as something else."""

COPIED = 0.4
"""How far samples lie from the nearest picture that was taught, over how far these lie from each other (medians)."""


def check_base_missing(run: RunSubject) -> Finding | None:
    """Whether the run that it is put on is there, with the weights that it was learnt on."""
    where = run.checkpoint
    try:
        base_run(shared.opened(where)[0], where)
    except UsageError as error:
        return Finding(
            "base missing",
            "what the adapter was made for is not there: it can be put on nothing else",
            error.what,
            "the base was trained on, moved or deleted after the adapter was made",
            error.hint,
            "error",
        )
    return None


def check_adapter_idle(run: RunSubject) -> Finding | None:
    """How far answers moved for what was taught (IDLE)."""
    size = run.effect.size
    if size.high >= IDLE:
        return None
    advice, commands = longer(run)
    return Finding(
        "adapter idle",
        "the adapter does nothing: samples with it are the base's own",
        f"answers for what it was taught moved by {size} of their size",
        "too few updates, too low a rate, or a gradient that does not reach it",
        advice,
        "error",
        commands,
    )


def check_rest_moved(run: RunSubject) -> Finding | None:
    """Whether the rest moved almost as far as what was taught, and for the worse (LEAKS)."""
    taught, rest = run.effect.rows[0], run.effect.of(REST)
    if rest is None or rest.size.value < LEAKS * taught.size.value or rest.gain.value >= 0 or taught.size.high < IDLE:
        return None
    return Finding(
        "rest moved",
        "the adapter changes everything: what was not taught is drawn otherwise too",
        f"answers moved by {rest.size} for the base's own samples, by {taught.size} for what was taught;"
        f" the error of the first grew by {-rest.gain.value:.0%}",
        "nothing of the base was learnt beside it, or it was trained for too long",
        "learn more of the base's own samples beside it, and stop where it drifts",
        commands=(run.again({"prior": 2048, "drift": 0.05}),),
    )


def check_label_unheeded(run: RunSubject) -> Finding | None:
    """Whether what was taught is drawn whatever is asked for (UNHEEDED)."""
    taught, control = run.effect.rows[0], run.effect.of(SHUFFLED)
    if control is None:
        raise NothingToExamineError("the base can be asked for nothing else")
    if taught.gain.low <= 0 or control.gain.value < UNHEEDED * taught.gain.value:
        return None
    return Finding(
        "label unheeded",
        "the adapter draws what it was taught whatever is asked for",
        f"of the error at its pictures {taught.gain} is gone, and {control.gain} where they are asked for as something"
        " else",
        "it was taught without a name of its own, or no sample of the base said what the other names mean",
        "give it a label, or a new word, and some samples of the base",
        commands=(run.again({"prior": 512}),),
    )


def check_layers_untrained(run: RunSubject) -> Finding | None:
    """Changes of layers that are still zero."""
    changes = [part for part in run.system.model.module.modules() if isinstance(part, LowRank)]
    if not changes:
        raise NothingToExamineError("it changes no layer")
    idle = sum(not bool(change.up.any()) for change in changes)
    if not idle:
        return None
    return Finding(
        "layers untrained",
        "parts of the adapter do nothing",
        f"the half that began at zero still is in {idle} of {len(changes)} layers",
        "these layers get no gradient from what is taught: what they hear is never said",
        "leave them out, which makes the file smaller",
    )


def spread_of(x: Tensor) -> float:
    """The median distance of examples [n, *d] to the nearest other one."""
    apart = torch.cdist(x.flatten(1), x.flatten(1)).fill_diagonal_(torch.inf)
    return float(apart.min(1).values.median())


def check_taught_copied(run: RunSubject) -> Finding | None:
    """How near samples lie to the pictures that were taught (COPIED); not where they are asked for by these."""
    if isinstance(run.recipe, AdapterRecipe) and (run.recipe.control() or run.recipe.reference):
        raise NothingToExamineError("its samples are asked for by the pictures themselves")
    real = run.real
    if len(real) < 3 or not (apart := spread_of(real)):
        raise NothingToExamineError("too few pictures differ from each other")
    made = run.drawn.samples
    near = float(torch.cdist(made.flatten(1), real.flatten(1)).min(1).values.median()) / apart
    if near >= COPIED:
        return None
    return Finding(
        "taught copied",
        "the adapter knows its pictures by heart, and draws them again",
        f"samples lie {near:.0%} as far from the nearest picture as the pictures lie from each other",
        f"{len(run.dataset.rows)} pictures were seen too often, by too many numbers",
        "a smaller rank, fewer updates, or more pictures",
        commands=(run.again({"steps": max(1, run.steps // 4)}), command("evaluate", run.folder)),
    )


OF_ADAPTERS: list[Check[RunSubject]] = [
    check_base_missing,
    check_adapter_idle,
    check_layers_untrained,
    check_rest_moved,
    check_label_unheeded,
    check_taught_copied,
]
"""What is asked about an adapter's run besides."""
