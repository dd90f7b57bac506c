"""What of a run may go: its bytes, and what cannot be done any more without it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ebb.errors import UsageError, nearest
from ebb.recipe.document import from_yaml
from ebb.recipe.recipe import Recipe, resolved
from ebb.run.caches import made_for
from ebb.store import checkpoint
from ebb.store.earlier import EARLIER
from ebb.store.lock import MADE, MEASURED, TRAINED, held
from ebb.store.owned import EXTENSION, SAMPLES, SHARDS, clear, contents, delete, is_run
from ebb.store.place import by_name
from ebb.store.shards import INDEX, SHARD


@dataclass(frozen=True)
class TrainedRun:
    """A run folder with its recipe and its newest checkpoint, if it has one."""

    folder: Path
    recipe: Recipe
    newest: Path | None

    @classmethod
    def of(cls, folder: Path) -> TrainedRun:
        """The run in a folder; UsageError where there is none."""
        if not is_run(folder):
            raise UsageError(f"{folder} is no run", "name the folder that holds run.yaml")
        return cls(folder, from_yaml(folder / "run.yaml")[0], checkpoint.newest(folder / "checkpoints"))

    @property
    def left(self) -> int:
        """The updates that are still to be made."""
        done = 0 if self.newest is None else int(self.newest.name.removeprefix("step-"))
        return max(0, resolved(self.recipe.steps) - done)

    def old(self) -> list[Path]:
        """The files of all checkpoints but the newest."""
        return [file for one in checkpoint.finished(self.folder / "checkpoints")[:-1] for file in files_of(one)]

    def parts(self, *names: str) -> list[Path]:
        """The files of some parts of the newest checkpoint."""
        every = [] if self.newest is None else [self.newest / f"{name}.safetensors" for name in names]
        return [file for file in every if file.is_file()]

    def extension(self) -> list[Path]:
        """The files of what it was gone on with."""
        place = self.folder / EXTENSION
        return [place / name for name, ours in contents(place) if ours] if place.is_dir() else []

    def drawn(self) -> list[Path]:
        """The samples that measurements drew."""
        home = self.folder / "evaluation"
        sets = [path for path in sorted(home.glob("samples-*")) if SAMPLES.fullmatch(path.name) and path.is_dir()]
        return [file for one in sets for file in files_of(one) if SHARDS.fullmatch(file.name)]

    def sheets(self) -> list[Path]:
        """The sheets of samples but the last."""
        return sorted((self.folder / "samples").glob("step-*.png"))[:-1]

    def classifiers(self) -> list[Path]:
        """The classifiers that judge it."""
        return [file for file in [self.folder / "classifier.safetensors"] if file.is_file()]

    def earlier(self) -> list[Path]:
        """The weights of earlier that it can be guided by."""
        return [file for file in [self.folder / EARLIER] if file.is_file()]

    def caches(self) -> list[Path]:
        """The folders of what was computed once for it, and for others beside it."""
        try:
            name = json.loads((self.folder / "data.json").read_text(encoding="utf8"))["name"]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return made_for(self.recipe, by_name(self.folder).parent, str(name))

    def latents(self) -> list[Path]:
        """The files of these."""
        return [
            file for one in self.caches() for file in files_of(one) if SHARD.fullmatch(file.name) or file.name == INDEX
        ]


def files_of(folder: Path) -> list[Path]:
    """The files in a folder."""
    return sorted(path for path in folder.iterdir() if path.is_file())


def unlinked(run: TrainedRun, files: Sequence[Path]) -> None:
    """Files that nothing lists."""
    for file in files:
        file.unlink()


def without_old(run: TrainedRun, files: Sequence[Path]) -> None:
    """Whole checkpoints."""
    for one in checkpoint.finished(run.folder / "checkpoints")[:-1]:
        checkpoint.remove(one)


def without_parts(run: TrainedRun, files: Sequence[Path]) -> None:
    """Parts of the newest checkpoint, which is whole without them."""
    if run.newest is not None:
        checkpoint.lessen(run.newest, [file.stem for file in files])


def without_drawn(run: TrainedRun, files: Sequence[Path]) -> None:
    """Whole sets of samples."""
    for folder in sorted({file.parent for file in files}):
        delete(folder, SHARDS)


def without_caches(run: TrainedRun, files: Sequence[Path]) -> None:
    """Rows with their index, while nobody makes some."""
    for folder in sorted({file.parent for file in files}):
        with held(folder, MADE):
            unlinked(run, [file for file in files if file.parent == folder])


@dataclass(frozen=True)
class Removable:
    """Something of a run that may go: its files, how they go, and what is lost with them."""

    files: Callable[[TrainedRun], list[Path]]
    remove: Callable[[TrainedRun, Sequence[Path]], None]
    loses: str
    needed: bool = False
    """while the run is not finished"""


REMOVABLE: dict[str, Removable] = {
    "old": Removable(TrainedRun.old, without_old, "the way back to an earlier checkpoint"),
    "optimiser": Removable(
        lambda run: run.parts("optim", "rng"), without_parts, "going on with it: --extend, and resuming", needed=True
    ),
    "raw": Removable(
        lambda run: run.parts("model"), without_parts, "going on with it, and evaluate --weights model", needed=True
    ),
    "extension": Removable(
        TrainedRun.extension,
        lambda run, files: clear(run.folder / EXTENSION),
        "what --extend learnt and was not better",
    ),
    "samples": Removable(TrainedRun.drawn, without_drawn, "nothing: evaluate draws them again"),
    "sheets": Removable(TrainedRun.sheets, unlinked, "what samples were like earlier, in its report too"),
    "earlier": Removable(TrainedRun.earlier, unlinked, "guidance by it: --guide auto"),
    "classifier": Removable(TrainedRun.classifiers, unlinked, "nothing: evaluate trains it again"),
    "latents": Removable(
        TrainedRun.latents, without_caches, "nothing: made again, by each run beside it that needs them"
    ),
}
"""All that may go, by the name that asks for it. States of texts and pairs of a reflow are among the latents."""


@dataclass(frozen=True)
class Item:
    """Something of this run that may go."""

    name: str
    files: int
    bytes: int
    loses: str


def items(run: TrainedRun) -> list[Item]:
    """What of a run may go, as far as it has some."""
    found = {name: what.files(run) for name, what in REMOVABLE.items()}
    return [
        Item(name, len(files), sum(file.stat().st_size for file in files), REMOVABLE[name].loses)
        for name, files in found.items()
        if files
    ]


def tidied(folder: Path, names: Sequence[str]) -> list[Item]:
    """Remove what is named of a run, and say what went.

    Raises UsageError for a name that is none and for what a run that is not finished needs, before anything goes, and
    ResourceError while another process trains or measures it.
    """
    for name in names:
        if name not in REMOVABLE:
            raise UsageError(f"there is no {name!r} to remove", nearest(name, REMOVABLE))
    with ExitStack() as alone:
        for doing in (TRAINED, MEASURED):
            alone.enter_context(held(folder, doing))
        run = TrainedRun.of(folder)
        refused(run, names)
        gone = [item for item in items(run) if item.name in names]
        for item in gone:
            what = REMOVABLE[item.name]
            what.remove(run, what.files(run))
    return gone


def refused(run: TrainedRun, names: Sequence[str]) -> None:
    """Raise UsageError for what the run still needs."""
    needed = [name for name in names if REMOVABLE[name].needed]
    if needed and run.left:
        raise UsageError(
            f"{run.folder} is not finished, {run.left:,} updates are left, and could not be gone on with without"
            f" {needed[0]}",
            "finish it first: its own command again",
        )
