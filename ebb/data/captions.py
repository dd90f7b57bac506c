"""What is said of images beside them: in the rows of a table, and in a text file beside each."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from ebb.data.archive import DAMAGED, Files, Notes, decoded, shown
from ebb.data.match import Match, folded
from ebb.data.tables import TABLES, Tables

LARGEST = 2**20
"""Bytes of a text above which it is no caption."""

LONG = 1000
"""Characters above which a caption is noted: CLIP reads about 300."""

TEXTS = (".txt", ".caption")
ENDS = (".txt", ".caption", ".caption.txt")
"""How the file of a caption ends, after the name of its image with or without its suffix."""

LISTS = (*TEXTS, ".tags", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".xlsx", ".gz", ".parquet")
"""Suffixes of files in which captions or labels of images may stand."""

TITLES = ("metadata", "captions", "labels", "annotations")
"""What such a file is called, whatever its suffix."""

MOST_STEMS = 32
"""Images of which a file names half without their suffix, where it is about them: numbers and words are names too."""

GLANCE, GLANCES = 2**16, 64
"""Bytes of such a file that are looked at for names of images, and how many files are."""


@dataclass(frozen=True)
class Captions:
    """The caption of every image, "" where it has none, and None where no image has one; where they come from; the
    `files` that they are in, and how much of these could be used."""

    texts: dict[str, str] | None
    origin: str
    files: frozenset[str]
    matches: tuple[Match, ...]


def captions(files: Files, images: Sequence[str], tables: Tables, notes: Notes) -> Captions:
    """The captions of the `images` among `files`.

    The "text" of a table goes before NAME.txt beside NAME.png. White space around a caption is dropped, and what is
    inside stays as it is. A text that cannot be read is noted and left out.
    """
    found = {image: (tables.rows.get(image, {}).get("text") or "").strip() for image in images}
    named = any(found.values())
    beside = _beside(files, images)
    for image in (image for image in beside if not found[image]):
        found[image] = _read(files, beside[image], notes)
    kinds = " or ".join(sorted({posixpath.splitext(name)[1].lower() for name in beside.values()}, reverse=True))
    origins = [tables.texts] * named + [f"the {kinds} beside each image"] * bool(beside)
    used, without = frozenset(beside.values()), [image for image in images if not found[image]]
    matches = [*_orphans(files, used, without, images)]
    if tables.texts or beside:
        advice = 'give each a "text" in metadata.jsonl, or NAME.txt beside NAME.png'
        matches += [Match.of("captions", "captions", "images have one", len(images), without, advice)]
    origin = f"from {' and '.join(origins)}" if any(found.values()) else "none that can be used" if matches else ""
    return Captions(found if len(without) < len(found) else None, origin, used, tuple(matches))


def _beside(files: Files, images: Sequence[str]) -> dict[str, str]:
    """The text file beside each image that has one: of its very name, or else of one that only letters' case differs in
    and that is no other image's."""
    bases = {image: (posixpath.splitext(image)[0], image) for image in images}
    found = {
        image: text
        for image in images
        for base in bases[image][::-1]
        for end in ENDS
        if (text := base + end) in files.sizes
    }
    taken = {*found.values()}
    texts = {folded(name): name for name in files.sizes if name.lower().endswith(TEXTS) and name not in taken}
    for image in images if texts else ():
        near = (texts.get(folded(base + end)) for base in bases[image] for end in ENDS)
        if image not in found and (one := next(filter(None, near), None)):
            found[image] = one
    return found


def _read(files: Files, name: str, notes: Notes) -> str:
    """The text of a file; "" and a note where it cannot be read."""
    problem = f"over {LARGEST:,} bytes"
    try:
        if files.sizes[name] <= LARGEST:
            return decoded(files.read(name)).strip()
    except UnicodeDecodeError:
        problem = "not UTF-8"
    except DAMAGED:
        problem = "damaged"
    notes["unreadable caption", "skipped"].append(f"{name} ({problem})")
    return ""


def _orphans(files: Files, used: Collection[str], without: Sequence[str], images: Sequence[str]) -> Iterator[Match]:
    """Texts that lie beside no image, where images are without one; and lists of names that are not read."""
    others = [name for name in files.sizes if name not in used and name.lower().endswith(LISTS)]
    others = [name for name in others if posixpath.basename(name).lower() not in TABLES]
    stems, called = _stems(images), {folded(posixpath.basename(image)) for image in images}
    alone = _stems(without)
    lists = [
        name
        for at, name in enumerate(others)
        if _stands_for(name, alone) or (at < GLANCES and _names_some(files, name, called, stems))
    ]
    if lists:
        advice = (
            "write it as metadata.jsonl, a line for each image: "
            + '{"file_name": "a.png", "text": "...", "label": "..."}'
        )
        yield Match.of(
            "captions", "captions or labels in other files", "such files are read", len(lists), lists, advice
        )
    texts = [name for name in others if name.lower().endswith(TEXTS) and name not in lists]
    if without and len(texts) > 1:
        advice = f"call each text as its image, {shown(posixpath.splitext(without[0])[0])}.txt"
        yield Match.of(
            "captions", "text files", "lie beside an image of their name", len(used) + len(texts), texts, advice
        )


def _stems(images: Sequence[str]) -> set[str]:
    """The names of images without folder and suffix."""
    return {posixpath.splitext(posixpath.basename(folded(image)))[0] for image in images}


def _stands_for(name: str, stems: Collection[str]) -> bool:
    """Whether a file is of captions or labels by its own name: a .parquet, such as labels.txt, or as the .json beside
    an image."""
    base = posixpath.basename(folded(name))
    stem, suffix = posixpath.splitext(base)
    return suffix == ".parquet" or base.partition(".")[0] in TITLES or (suffix not in TEXTS and stem in stems)


def _names_some(files: Files, name: str, called: Collection[str], stems: Collection[str]) -> bool:
    """Whether a file names an image in what it says, or begins lines or keys of JSON with many without their suffix."""
    try:
        with files.open(name) as file:
            text = folded(file.read(GLANCE).decode("utf-8", "replace"))
    except DAMAGED:
        return False
    words = (*re.split(r"[^\w.-]+", text), *re.split(r"[\t\r\n\"',;:/\\]+", text))  # names with blanks too
    if any("." in word and (word in called or word in stems) for word in words):
        return True
    firsts = (*re.findall(r"(?m)^\s*\"?([^\s\",;|]+)", text), *re.findall(r"\"([^\"]+)\"\s*:", text))
    found = len({posixpath.basename(first) for first in firsts} & {*stems})
    return found > 1 and 2 * found >= min(len(stems), MOST_STEMS)


def note(names: Sequence[str], texts: Sequence[str], notes: Notes) -> None:
    """Note which of the images `names` have a caption worth a look."""
    for name, text in zip(names, texts, strict=True):
        if not text:
            notes["without a caption", "kept with an empty one"].append(name)
        if len(text) > LONG:
            notes["long caption", f"kept: over {LONG:,} characters, of which a model reads the first"].append(name)
        if "\ufffd" in text or any(character < " " and character not in "\t\n\r" for character in text):
            notes["odd characters in a caption", "kept: it was probably written in another encoding"].append(name)
