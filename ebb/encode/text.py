"""Texts as conditions: a vocabulary of byte pairs learnt from the captions a model is trained on."""

from __future__ import annotations

import heapq
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebb.encode.condition import each
from ebb.errors import DamagedError, DataError, UsageError
from ebb.networks.ports import PiecesPort, Port

BYTES = 256
PADDING = 0
"""The id that fills a row; byte b is 1 + b, and merge m is 1 + BYTES + m."""

_WORD = re.compile(r" ?\w{1,64}| ?[^\w\s]{1,64}")
"""Letters and digits, or signs, with the space before them. The limit keeps the work on any text linear."""

Pair = tuple[int, int]


def checked(text: str) -> str:
    """The text; raises UsageError for half of a character (a lone surrogate), which UTF-8 has no place for."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the text holds half a character, {text[error.start]!r}, at {error.start}") from error
    return text


def normal(text: str) -> str:
    """The text as it is encoded: lower case, composed (Unicode's NFC), one space between words and none at the ends.

    Raises UsageError as `checked` does.
    """
    return " ".join(unicodedata.normalize("NFC", checked(text).lower()).split())


_JOINT = re.compile(r",\s+(?:and\s+)?|\s+and\s+")


def concepts_of(text: str, most: int) -> list[str]:
    """A text taken apart where it has a comma or "and", into at most `most` parts, the last of which keeps the rest."""
    return _JOINT.split(normal(text), maxsplit=most - 1) if most > 1 else [text]


def words(text: str) -> list[str]:
    """The words of a text, each with a space before it where one is: pieces never reach over their ends."""
    found: list[str] = _WORD.findall(f" {text}" if (text := normal(text)) else "")
    return found


@dataclass(frozen=True)
class Vocabulary:
    """Byte-level byte-pair encoding (Sennrich et al. 2016, algorithm 1, over the bytes of UTF-8).

    `merges` are the pairs of ids that become one piece, in the order they were learnt; `known` the words of the
    captions they were learnt from. Every text can be encoded. Upper case and the width of white space are not kept
    (see `normal`): captions are too few to learn "Red" and "red" as two words.
    """

    merges: tuple[Pair, ...] = field(default=(), repr=False)
    known: frozenset[str] = field(default=frozenset(), repr=False)

    @classmethod
    def learnt(cls, captions: Iterable[str], size: int = 2048) -> Vocabulary:
        """The vocabulary of at most `size` ids: again and again the most frequent pair of neighbours becomes a piece.

        Of pairs equally frequent the one with the smaller ids comes first; a pair that occurs once is not merged.
        Raises UsageError for a size without room for the bytes, DataError where no caption has a word.
        """
        if size <= BYTES:
            raise UsageError(f"a vocabulary holds the padding and {BYTES} bytes, got a size of {size}", "such as 2048")
        counts = Counter(word for caption in captions for word in words(caption))
        if not counts:
            raise DataError("expected captions to learn a vocabulary from, all are empty", "train without text")
        learnt = tuple(_merges([([1 + byte for byte in word.encode()], n) for word, n in counts.items()], size))
        return cls(learnt, frozenset(bare for word in counts if (bare := word.strip()).isalnum()))

    def __len__(self) -> int:
        """The number of ids, padding included."""
        return 1 + BYTES + len(self.merges)

    @cached_property
    def _rank(self) -> dict[Pair, int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    @cached_property
    def _bytes(self) -> list[bytes]:
        """What each id stands for."""
        found = [b"", *(bytes([byte]) for byte in range(BYTES))]
        for left, right in self.merges:
            found.append(found[left] + found[right])
        return found

    @cached_property
    def _spelt(self) -> dict[str, list[int]]:
        """The pieces of words met before, of the captions only, so that it cannot grow without end."""
        return {}

    def spell(self, word: str) -> list[int]:
        """The pieces of one of the `words` of a text: the pair learnt first is merged first, until none is left."""
        if word in self._spelt:
            return self._spelt[word]
        ids = [1 + byte for byte in word.encode()]
        last = len(self.merges)
        while (best := min((self._rank.get(pair, last) for pair in pairwise(ids)), default=last)) < last:
            ids = _joined(ids, self.merges[best], 1 + BYTES + best)
        if word.strip() in self.known:
            self._spelt[word] = ids
        return ids

    def pieces(self, text: str) -> list[int]:
        """The ids of the whole text, however long; a caller learns here whether `encode` would cut it."""
        return [piece for word in words(text) for piece in self.spell(word)]

    def encode(self, text: str, length: int) -> NDArray[np.int64]:
        """The first `length` ids of the text as int64 [length], padded with 0. Raises UsageError for a length < 1."""
        return padded(self.pieces(text), length)

    def decode(self, ids: Sequence[int] | NDArray[np.int64]) -> str:
        """The text of a row of ids: `normal(text)` for `encode(text, length)` unless it was cut.

        A character that was cut in two becomes U+FFFD. Raises UsageError for an id that is not in the vocabulary.
        """
        numbers = [int(number) for number in ids]
        for number in numbers:
            if not 0 <= number < len(self):
                raise UsageError(f"expected ids 0 … {len(self) - 1}, got {number}", "this is another vocabulary's row")
        return b"".join(self._bytes[number] for number in numbers).decode("utf8", "replace").removeprefix(" ")

    def unseen(self, text: str) -> tuple[str, ...]:
        """The words of a text, each once, that no caption had: what a model cannot know the meaning of; none where the
        captions' words were left out of it."""
        bare = dict.fromkeys(word.strip() for word in words(text))
        return tuple(word for word in bare if word.isalnum() and word not in self.known) if self.known else ()

    def to_json(self) -> dict[str, Any]:
        """Plain lists of the merges and the known words; `from_json` is the inverse."""
        return {"merges": [list(pair) for pair in self.merges], "known": sorted(self.known)}

    @classmethod
    def from_json(cls, document: Any) -> Vocabulary:
        """The vocabulary that `to_json` wrote. Raises DamagedError for anything it could not have written."""
        try:
            merges = tuple((left, right) for left, right in document["merges"])
            known = frozenset(document["known"])
            whole = len({*merges}) == len(merges) and all(type(word) is str for word in known)
            for made, pair in enumerate(merges, 1 + BYTES):
                whole = whole and all(type(number) is int and 0 < number < made for number in pair)
        except (TypeError, ValueError, LookupError) as error:
            raise DamagedError(f"expected a vocabulary of merges and known words, got {document!r:.80}") from error
        if not whole:
            raise DamagedError("expected merges of two earlier pieces, each pair once, and known words that are text")
        return cls(merges, known)


def padded(pieces: Sequence[int], length: int) -> NDArray[np.int64]:
    """The first `length` of the ids, padded with 0. Raises UsageError for a length < 1."""
    if length < 1:
        raise UsageError(f"a text has room for at least one piece, got a length of {length}")
    row = np.full(length, PADDING, np.int64)
    row[: len(pieces[:length])] = pieces[:length]
    return row


@dataclass(frozen=True)
class Text:
    """Texts as piece ids of a vocabulary, cut or padded with 0 to `length`; `turns` are some it was trained on.

    With `concepts` a text is taken apart into at most so many (`ebb.encode.text.concepts_of`), each of that length.
    `taught` are words that came after the captions, each with an id of its own after those of the vocabulary.
    """

    vocabulary: Vocabulary
    length: int
    turns: tuple[str, ...] = ()
    concepts: int = 0
    taught: tuple[str, ...] = ()

    @property
    def port(self) -> Port:
        """What a network hears it by."""
        return PiecesPort(len(self.vocabulary) + len(self.taught), self.length, self.concepts)

    def __str__(self) -> str:
        each = f"up to {self.concepts} concepts of " if self.concepts else ""
        return f"{each}up to {self.length} of {len(self.vocabulary):,} pieces"

    def given(self, asked: Any, count: int) -> list[str | None]:
        """The texts."""
        return each(asked, count, "text", str)

    def examples(self) -> Tensor:
        """Those of a few texts it was trained on."""
        return self(self.turns[:8] or ("",))

    def unseen(self, text: str) -> tuple[str, ...]:
        """The words that no caption had, and that were not taught."""
        return tuple(word for word in self.vocabulary.unseen(text) if word not in self.taught)

    def spell(self, word: str) -> list[int]:
        """The ids of one of the `words` of a text: of one that was taught its own."""
        if (bare := word.strip()) in self.taught:
            return [len(self.vocabulary) + self.taught.index(bare)]
        return self.vocabulary.spell(word)

    def pieces(self, text: str) -> list[int]:
        """The ids of the whole text, however long."""
        return [piece for word in words(text) for piece in self.spell(word)]

    def row(self, text: str) -> NDArray[np.int64]:
        """The first `length` ids of a text, padded with 0."""
        return padded(self.pieces(text), self.length)

    def count(self, text: str) -> int:
        """The pieces of a text, or of its longest concept, also those that are cut."""
        return max(len(self.pieces(part)) for part in concepts_of(text, self.concepts))

    def __call__(self, given: Sequence[str | None]) -> Tensor:
        """The ids of texts, int64 [b, length], or [b, concepts, length]; an empty one, all padding, says nothing."""
        if not self.concepts:
            return torch.from_numpy(np.stack([self.row(text or "") for text in given]))
        ids = np.zeros((len(given), self.concepts, self.length), np.int64)
        for row, text in zip(ids, given, strict=True):
            for place, part in zip(row, concepts_of(text or "", self.concepts), strict=False):
                place[:] = self.row(part)
        return torch.from_numpy(ids)

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes it again."""
        plain = {"length": self.length, "examples": list(self.turns), "concepts": self.concepts}
        taught = {"taught": list(self.taught)} if self.taught else {}
        return {"vocabulary": self.vocabulary.to_json()} | plain | taught

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Text:
        """The text of a contract. Raises KeyError, TypeError, DamagedError where it is not one."""
        vocabulary = Vocabulary.from_json(found["vocabulary"])
        taught = tuple(map(str, found.get("taught", ())))
        return cls(vocabulary, int(found["length"]), tuple(found["examples"]), int(found.get("concepts", 0)), taught)


def _joined(ids: list[int], pair: Pair, made: int) -> list[int]:
    """`ids` with every occurrence of the pair, from the left, replaced by the id it made."""
    out, at = list[int](), 0
    while at < len(ids):
        if ids[at] == pair[0] and at + 1 < len(ids) and ids[at + 1] == pair[1]:
            out.append(made)
            at += 2
        else:
            out.append(ids[at])
            at += 1
    return out


def _merges(spelt: list[tuple[list[int], int]], size: int) -> Iterator[Pair]:
    """The pairs to merge, in order, of words as ids with their frequencies.

    Only words that hold the merged pair are counted again, and the most frequent pair comes from a heap whose outdated
    entries are passed over: with 50,000 captions a merge costs what changes, not what there is.
    """
    counts, places = Counter[Pair](), defaultdict[Pair, set[int]](set)
    for at, (ids, n) in enumerate(spelt):
        for pair in pairwise(ids):
            counts[pair] += n
            places[pair].add(at)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    made = 1 + BYTES
    while heap and made < size:
        count, pair = heapq.heappop(heap)
        if -count != counts[pair]:  # outdated: the entry with the count of now is in the heap too
            continue
        if -count < 2:
            return
        yield pair
        changed = set[Pair]()
        for at in places.pop(pair):
            ids, n = spelt[at]
            joined = _joined(ids, pair, made)
            spelt[at] = (joined, n)
            for gone, come in _neighbours(joined, pair, made):
                counts[gone] -= n
                counts[come] += n
                places[come].add(at)
                changed |= {gone, come}
        del counts[pair]
        for other in changed:
            if counts[other] > 0:
                heapq.heappush(heap, (-counts[other], other))
        made += 1


def _neighbours(joined: list[int], pair: Pair, made: int) -> Iterator[tuple[Pair, Pair]]:
    """The pairs that a merge took away, each with the one that stands there now, for every neighbour of a `made`."""
    for left, right in pairwise(joined):
        if made in (left, right):
            yield (pair[1] if left == made else left, pair[0] if right == made else right), (left, right)
