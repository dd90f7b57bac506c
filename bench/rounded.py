"""How far the gradient in bf16 is from that in fp32 at each noise level: of a fresh network, and of a run's weights.

    python bench/rounded.py runs/mnist

What `ebb train` asks before it takes bf16 (`ebb.run.plan.rounded`), with every level printed: the same 8 training
images, noise and times in both. Fresh are the weights after ROUNDS updates, where `ebb train` asks. Shares are of the
norm of the gradient in fp32. On a CPU without instructions for bf16 it takes some seconds a level.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import ebb
from ebb.data.of_run import data_of, trained_as
from ebb.events import finished
from ebb.run.build import build, updates_of
from ebb.run.plan import ROUNDED, ROUNDS
from ebb.run.prepare import prepared
from ebb.train.gradients import span


def inexact(run: Path) -> dict[str, list[float | None]]:
    """By state of the weights the share of each level's gradient that bf16 is off by; None for rare levels.

    Raises UsageError for a run whose gradients are not compared by level.
    """
    recipe = trained_as(run)[0].model_copy(update={"precision": "fp32", "batch": 32}).running("eager")
    data = finished(prepared(recipe, data_of(run), cache=run.parent))
    parts = build(recipe, data, torch.device("cpu"))
    if parts.gradients is None:
        raise ebb.UsageError(f"{run} has no noise levels to compare gradients at", "give a diffusion run")
    for _ in updates_of(recipe, parts, steps=ROUNDS):
        pass
    states = {f"after {ROUNDS} updates": parts.system.denoiser, "as trained": ebb.load(run).denoiser}
    return {name: parts.gradients.inexact(each, torch.bfloat16) for name, each in states.items()}


def table(found: dict[str, list[float | None]]) -> str:
    """A row for each level that is asked."""
    out = [f"| log-SNR | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    for level, shares in enumerate(zip(*found.values(), strict=True)):
        if None not in shares:
            low, high = span(level)
            out.append(f"| {low:g} to {high:g} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    return "\n".join(out)


def main() -> None:
    """Print the table of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"above {ROUNDED:.0%} at any level `ebb train` stays in fp32\n\n{table(inexact(given.run))}")


if __name__ == "__main__":
    main()
