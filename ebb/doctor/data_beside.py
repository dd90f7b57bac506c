"""What may be wrong with what was given beside the images: captions, labels and tables of little use."""

from __future__ import annotations

from ebb.data.match import Condition, Match
from ebb.doctor.data_subject import DataSubject, Noted
from ebb.doctor.finding import Check, Finding
from ebb.terminal import command


def little(data: DataSubject, condition: Condition) -> list[Match]:
    """The sources of a condition of which little could be used."""
    return [match for match in data.read.summary.matches if match.condition == condition and match.little]


def check_captions_lost(data: DataSubject) -> Finding | None:
    """A source of captions of which nothing could be used; an error where no image has a caption."""
    lost = [match for match in little(data, "captions") if not match.used]
    if not lost:
        return None
    return Finding(
        "captions lost",
        "captions lie beside the images, and a model would be trained without",
        "; ".join(map(str, lost)),
        "names that no image has, a field of another name, a kind of file that is not read, or captions that are empty",
        f"{lost[0].advice}; then look again: {command('doctor', data.name)}",
        "warning" if data.read.captions else "error",
    )


def check_captions_missing(data: DataSubject) -> Finding | None:
    """Captions of some, but of fewer than nine in ten images, or texts and rows of which fewer could be used."""
    some = [match for match in little(data, "captions") if match.used]
    if not some:
        return None
    return Finding(
        "captions missing",
        "some images have no caption: they are learnt without",
        "; ".join(map(str, some)),
        "rows or texts whose names no image has, or images that were added later",
        f"{some[0].advice}; or refuse such data: {command('train', data.name, '--text.captions', 'required')}",
    )


ROWS_UNREADABLE = Noted(
    "rows unreadable",
    ("broken row", "unreadable caption"),
    "some rows or captions cannot be read and are left out",
    "{count}: {names}",
    "files saved in another encoding, lines cut off or written by hand",
    "save these files as UTF-8, and write each row as JSON on one line",
)

ROWS_CONFLICTING = Noted(
    "rows conflicting",
    ("several rows for one image",),
    "several rows say different things of one image",
    "{count} rows are not the first of their image, of which the last is used: {names}",
    "tables that were put together, or names that mean the same file",
    "keep one row for each image; several captions go in one, as a list",
)


def check_labels_lost(data: DataSubject) -> Finding | None:
    """Labels that were given, and of which none are used."""
    lost = little(data, "labels")
    if not lost or data.noted("without a label")[0]:
        return None
    return Finding(
        "labels lost",
        "labels were given, and a model would be trained without",
        "; ".join(map(str, lost)),
        "images beside the class folders, or a file of labels that is called otherwise than expected",
        f"{lost[0].advice}; then look again: {command('doctor', data.name)}",
        "error",
    )


def check_images_beside_classes(data: DataSubject) -> Finding | None:
    """Images that are left out since they lie beside the class folders."""
    count, names = data.noted("beside the class folders")
    if not count or data.read.labels is None:
        return None
    return Finding(
        "images beside classes",
        "some images lie beside the class folders and are left out",
        f"{count:,} beside {len(data.read.rows):,} in folders: {names}",
        "a preview, or images that nobody sorted",
        "move each into the folder of its class, or away",
    )


CLASS_EMPTY = Noted(
    "class empty",
    ("class without an image",),
    "some classes have no image that can be used, and are no label",
    "{count}: {names}",
    "files that cannot be read, or a copy that was cut off",
    "copy their images again, or delete their folders",
    severe=0.0,
)

CLASSES_ALIKE = Noted(
    "classes alike",
    ("classes of like names",),
    "some classes have nearly the same name",
    "{count} of {classes} differ by the case of letters or by blanks only: {names}",
    "one class that was written in two ways",
    "give both one name, and put their images into one folder",
)


def check_held_out_labels(data: DataSubject) -> Finding | None:
    """Held-out images without a label where the others have one, or of a class that no training image has."""
    unseen = data.read.held_out
    notes = [note for note in data.read.summary.findings if note.kind.startswith("held out, of classes")]
    kinds = ("without a label", "of a class that no training image has")
    notes += [note for note in (unseen.summary.findings if unseen else ()) if note.kind in kinds]
    if not notes:
        return None
    return Finding(
        "held out labels",
        "some held-out images have no label that training knows",
        "; ".join(f"{note.kind}, {note.count:,}: {', '.join(note.examples)}" for note in notes),
        "a test set that is sorted into other folders than the training set, or not at all",
        "sort the test set into the classes of the training set",
    )


BESIDE_CHECKS: list[Check[DataSubject]] = [
    check_captions_lost,
    check_captions_missing,
    ROWS_UNREADABLE,
    ROWS_CONFLICTING,
    check_labels_lost,
    check_images_beside_classes,
    CLASS_EMPTY,
    CLASSES_ALIKE,
    check_held_out_labels,
]
"""What is asked about captions and labels, in this order."""
