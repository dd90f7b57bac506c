"""A run in the place of another, in the same folder: the old one goes only when the new one stands.

The folder itself is neither renamed nor removed, since it may be a mount point, a link, or where one is working. The
new run is written to `.ebb-new` within it, the old one moved to `.ebb-old`, and that renamed to `.ebb-gone`, which is
the turn: until then an exchange that is interrupted is undone, from then on it is completed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ebb.errors import UsageError
from ebb.store.failure import explained
from ebb.store.owned import contents, every_file, forget, move, own_folder
from ebb.store.write import synced

NEW, OLD, GONE = ".ebb-new", ".ebb-old", ".ebb-gone"


@contextmanager
def exchanged(folder: Path) -> Iterator[Path]:
    """An empty folder to write a run to, that takes the place of the one in `folder` at the end of the block.

    What ebb did not make stays where it is. Raises UsageError for such a file in a checkpoint, which would look like a
    checkpoint with nothing else left in it, and ResourceError for what the system refuses; the old run stays then.
    """
    own = [name for name, ours in contents(folder) if ours]
    for name in foreign(folder):
        if name.startswith("checkpoints/step-"):
            raise UsageError(f"{folder / name} is not ebb's, and its checkpoint would go", "move it elsewhere first")
    with explained(folder):
        try:
            (folder / NEW).mkdir()
            yield folder / NEW
            (folder / OLD).mkdir()
            move(own, folder, folder / OLD)
            (folder / OLD).rename(folder / GONE)
            synced(folder)
        finally:
            recover(folder)


def foreign(folder: Path) -> list[str]:
    """What a run folder holds that ebb did not make, but for hidden files."""
    return [name for name, ours in contents(folder) if not ours and not Path(name).name.startswith(".")]


def pending(folder: Path) -> bool:
    """Whether an exchange was interrupted while the old run was on its way out."""
    return any(own_folder(folder / name) for name in (OLD, GONE))


def recover(folder: Path) -> str:
    """Undo or complete an exchange that was interrupted, and say which; "" where there was none."""
    new, old, gone = folder / NEW, folder / OLD, folder / GONE
    said = ""
    if own_folder(gone):
        said = "the new run had taken the place of the old one"
        if own_folder(new):
            move(every_file(new), new, folder)
    elif own_folder(old):
        said = "the old run is back in its place"
        move(every_file(old), old, folder)
    for left in (new, old, gone):
        forget(left)
    return said
