"""How much of what was given beside the pictures could be used, source by source; and which picture a name means."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from ebb.data.archive import shown
from ebb.data.decode import SUFFIXES

LITTLE = 0.9
"""A source of which a smaller share could be used is warned of."""

EXAMPLES = 5

Condition = Literal["captions", "labels", "numbers", "pictures"]


@dataclass(frozen=True)
class Match:
    """How much of a source of conditions could be used: `used` of `count` of the things that `what` names.

    `examples` are up to five of the others, as they came; `advice` says what was expected and how to give it.
    """

    condition: Condition
    source: str
    used: int
    count: int
    what: str
    examples: tuple[str, ...]
    advice: str

    @classmethod
    def of(
        cls, condition: Condition, source: str, what: str, count: int, unused: Sequence[str], advice: str
    ) -> Match:  # fmt: skip
        """The match of a source of which all of `count` things but `unused` could be used."""
        return cls(condition, source, count - len(unused), count, what, tuple(map(shown, unused[:EXAMPLES])), advice)

    @property
    def little(self) -> bool:
        """Whether it is a loss that has to be said: less than LITTLE of it could be used."""
        return self.used < LITTLE * self.count

    @property
    def unused(self) -> str:
        """Some of what could not be used, as it came."""
        return ", ".join(self.examples) + (", …" if self.count - self.used > len(self.examples) else "")

    def __str__(self) -> str:
        said = f"{self.source}: {self.used:,} of {self.count:,} {self.what}"
        return f"{said}; not {self.unused}" if self.examples else said


def folded(path: str) -> str:
    """A path without what file systems differ in: the case of letters, and how accents are put together."""
    return unicodedata.normalize("NFC", path).casefold()


def without_suffix(path: str) -> str:
    """A path without the suffix of a picture."""
    stem, suffix = posixpath.splitext(path)
    return stem if suffix.lower() in SUFFIXES else path


def unescaped(name: str) -> str:
    """A name with the bytes that a URL writes as %20."""
    plain = name.encode("utf-8", "surrogatepass")
    found = re.sub(rb"%([0-9A-Fa-f]{2})", lambda escape: bytes([int(escape[1], 16)]), plain)
    return found.decode("utf-8", "replace")


class Names:
    """Which of the `pictures` below a `folder` a name means that was written there.

    A name is first the path that it says. Failing that, it may have other slashes, letters of another case, escapes of
    a URL, another or no suffix; it may be absolute, begin with the name of the folder or with one that all `names` have
    in common, or leave out the folders that lead to the picture. It must then mean one picture and no other.
    """

    def __init__(self, pictures: Iterable[str], folder: str, place: str, names: Sequence[str] = ()) -> None:
        self.folder, self.pictures = folder, {*pictures}
        self.root = tuple(part for part in folded(Path(place, folder).as_posix()).split("/") if part)
        self.names = names

    def exactly(self, name: str) -> str | None:
        """The picture at the path that the name says."""
        return path if (path := self.path(name)) in self.pictures else None

    def path(self, name: str) -> str:
        """The path that a name says, seen from where its folder lies."""
        return posixpath.normpath(posixpath.join(self.folder, name))

    def loosely(self, name: str) -> str | None:
        """The one picture that the name can only mean; None where there is none or there are several."""
        whole = ["/".join(parts) for parts in dict.fromkeys((self._parts(name), self._parts(unescaped(name))))]
        shorter = [path for parts in whole for path in self._shortened(parts)]
        bare = [*map(without_suffix, whole)], [*map(without_suffix, shorter)]
        paths, ends, stems, stem_ends = self._indices
        # an end of a path is trusted where the name is whole: who cuts both may find another picture of that name
        for index, keys in (
            (paths, [*whole, *shorter]),
            (ends, whole),
            (stems, [*bare[0], *bare[1]]),
            (stem_ends, bare[0]),
        ):
            if hits := next((index[key] for key in keys if key in index), None):
                return hits[0] if len(hits) == 1 else None
        return None

    @staticmethod
    def _parts(name: str) -> tuple[str, ...]:
        plain = re.sub(r"^file://|^[a-z]:", "", folded(name.strip().replace("\\", "/")))
        return tuple(part for part in posixpath.normpath(plain).split("/") if part not in ("", "."))

    def _shortened(self, path: str) -> Iterator[str]:
        """A path without the folders that lead to ours, or that all names begin with."""
        parts = tuple(path.split("/"))
        for length in range(1, len(parts)):
            if parts[:length] in (self.root[-length:], self.common[:length]):
                yield "/".join(parts[length:])

    @cached_property
    def common(self) -> tuple[str, ...]:
        """The folders that all names begin with."""
        return _shared(self._parts(name)[:-1] for name in self.names)

    @cached_property
    def _indices(self) -> tuple[Mapping[str, list[str]], ...]:
        """Pictures by their path and by every end of it, then by these without the suffix."""
        paths, ends, stems, stem_ends = (defaultdict[str, list[str]](list) for _ in range(4))
        before = f"{self.folder}/" if self.folder else ""
        for picture in sorted(self.pictures):
            if picture.startswith(before):
                parts = folded(picture[len(before) :]).split("/")
                for at in range(len(parts)):
                    path = "/".join(parts[at:])
                    ends[path].append(picture)
                    stem_ends[without_suffix(path)].append(picture)
                paths["/".join(parts)].append(picture)
                stems[without_suffix("/".join(parts))].append(picture)
        return paths, ends, stems, stem_ends


def _shared(folders: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The folders that all begin with."""
    every = iter(folders)
    found = next(every, ())
    for other in every:
        same = (a == b for a, b in zip(found, other, strict=False))
        found = found[: next((at for at, equal in enumerate(same) if not equal), min(len(found), len(other)))]
        if not found:
            return ()
    return found
