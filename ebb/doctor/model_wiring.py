"""Whether what a network is told reaches all of its blocks."""

from __future__ import annotations

from ebb.doctor.finding import Finding
from ebb.doctor.model_subject import ModelSubject
from ebb.networks.reach import unreached


def cut_off(model: ModelSubject, condition: str = "") -> list[str]:
    """The blocks that a condition, without one the time, does not reach though it reaches others of their kind.

    Asked is a copy with noise on every parameter, so that what is wired shows whatever training made of it.
    """
    network, ask, x, other = model.moved, model.shaken, model.seen(1.0), model.seen(1.0).roll(1, 0)
    if network is None or ask is None:
        return []
    told, cond = (model.clocked(1.0), model.clocked(0.05)), (model.rows(), model.rows(condition, 1))
    with model.at_rest():
        return unreached(
            network,
            lambda: ask(x, told[0], cond[0]),
            lambda: ask(x, told[0 if condition else 1], cond[1]),
            lambda: ask(other, told[0], cond[0]),
        )


def check_block_cut_off(model: ModelSubject) -> Finding | None:
    """A block that the time, or a condition, reaches by what earlier blocks made of it alone, while others of its kind
    are told it themselves (`unreached`)."""
    found = {name or "the time": blocks for name in ("", *(model.cond or {})) if (blocks := cut_off(model, name))}
    if not found:
        return None
    what, blocks = next(iter(found.items()))
    return Finding(
        "block cut off",
        f"{' and '.join(found)} does not reach every block",
        f"exchanging {what} changes nothing in {', '.join(blocks[:4])}{' and others' if len(blocks) > 4 else ''}"
        f" ({len(blocks)} in all), while other blocks of their kind notice it",
        "its embedding is not passed to them, or comes as a constant",
        "add the embedding to every block, and hold the network to it: ebb.testing.check_network",
        "error",
    )
