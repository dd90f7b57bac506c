"""What the command line does, as functions: `from ebb.verbs import train, evaluate, edit, diagnose`."""

# Not `ebb.train(…)`: `train`, `evaluate` and `edit` are rooms too, and Python puts a room in the place of a function of
# its name once anything in it is imported. Here a verb is a function in every order of imports and to type checkers.
# Training and evaluating run to their end and give the result; what they report on the way is read from the generators
# `ebb.run.train.train` and `ebb.evaluate.evaluate.evaluate`.

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from ebb.doctor.diagnose import diagnose as diagnose
from ebb.edit.editor import Editor, Label
from ebb.evaluate import evaluate as measuring
from ebb.evaluate.guidance import choose_guidance
from ebb.events import Done, Work, to_the_end
from ebb.recipe.recipe import Recipe
from ebb.run import train as training
from ebb.run.export import export as export
from ebb.system.system import load


def learn(
    data: str | Path,
    asked: Recipe | None = None,
    *,
    run: str | Path | None = None,
    fresh: bool = False,
    began: float | None = None,
    extend: str | None = None,
) -> Work[Path]:
    """`ebb.run.train.train`, and then the choice of guidance by measured samples (`choose_guidance`), for a tenth of
    the budget more; the result is the run folder. Training itself knows nothing that measures."""
    work = training.train(data, asked, run=run, fresh=fresh, began=began, extend=extend)
    with closing(work):
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                folder: Path = end.value
                break
            if not isinstance(event, Done):
                yield event
    yield from choose_guidance(folder, str(data))
    yield Done(str(folder))
    return folder


train = to_the_end(learn)
evaluate = to_the_end(measuring.evaluate)


def edit(run: str | Path, label: Label = None) -> Editor:
    """An `Editor` with a run's model and its own sampling settings, towards a label or text, or none.

    Raises UsageError for a folder that is not a run and for a label that its model does not know, DamagedError for
    files that are not as they were written.
    """
    return Editor.of(load(run), label=label)
