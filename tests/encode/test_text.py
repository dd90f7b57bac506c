"""The vocabulary: the textbook example by hand, the algorithm written plainly, and texts of every kind."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebb.encode.text import BYTES, Vocabulary, concepts_of, normal, words
from ebb.errors import DamagedError, DataError, UsageError

CLASSIC = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
"""The words of Sennrich et al. 2016, algorithm 1."""


def spelt(vocabulary):
    """The pieces that the merges made, as text."""
    return [vocabulary.decode([1 + BYTES + at]) for at in range(len(vocabulary.merges))]


def test_the_textbook_example_by_hand():
    """Counts 9 for (e, s) and (s, t), the first of them first; then 7 for " l", "ow"; 6 for " n"; 3; 2 for "er"."""
    learnt = Vocabulary.learnt(CLASSIC, size=10_000)
    # the space before a word belongs to it, and `decode` drops it at the start of a text
    by_hand = ["es", "est", "l", "ow", "low", "n", "ew", "new", "newest", "w", "dest", "idest", "widest", "er", "lower"]
    assert spelt(learnt) == by_hand
    assert len(learnt) == 257 + 15
    assert spelt(Vocabulary.learnt(CLASSIC, size=260)) == by_hand[:3]
    assert learnt.pieces("lowest") == [257 + 4, 257 + 1]
    assert [learnt.decode([piece]) for piece in learnt.pieces("slow newer")] == ["", "s", "l", "ow", "new", "er"]


def plainly(captions, size, tie=min):
    """Algorithm 1 with everything counted again at each step: (merges)."""
    spelt = Counter(tuple(1 + byte for byte in word.encode()) for caption in captions for word in words(caption))
    merges = []
    while 257 + len(merges) < size:
        counts = Counter()
        for ids, n in spelt.items():
            for pair in pairwise(ids):
                counts[pair] += n
        most = max(counts.values(), default=0)
        if most < 2:
            break
        merges.append(tie(pair for pair, n in counts.items() if n == most))
        again = Counter()
        for ids, n in spelt.items():
            again[replaced(ids, merges[-1], 256 + len(merges))] += n
        spelt = again
    return tuple(merges)


def replaced(ids, pair, made):
    out = list(ids)
    at = 0
    while at < len(out) - 1:
        if (out[at], out[at + 1]) == pair:
            out[at : at + 2] = [made]
        at += 1
    return tuple(out)


@given(st.lists(st.text("ab c", max_size=12), max_size=12))
def test_learning_is_the_plain_algorithm(captions):
    captions = [*captions, "a"]
    assert Vocabulary.learnt(captions, 300).merges == plainly(captions, 300)


def test_the_plain_algorithm_tells_another_order_of_ties():
    assert Vocabulary.learnt(CLASSIC, 300).merges == plainly(CLASSIC, 300)
    assert Vocabulary.learnt(CLASSIC, 300).merges != plainly(CLASSIC, 300, tie=max)


@given(st.text("abc ", max_size=30))
def test_encoding_is_all_merges_in_the_order_they_were_learnt(text):
    learnt = Vocabulary.learnt(["abc abab", "cab bac", "aabb bbaa aab", "abc bca"], 280)
    expected = []
    for word in words(text):
        ids = tuple(1 + byte for byte in word.encode())
        for at, pair in enumerate(learnt.merges):
            ids = replaced(ids, pair, 257 + at)
        expected += ids
    assert learnt.pieces(text) == expected


def test_the_order_of_the_captions_does_not_matter():
    assert Vocabulary.learnt(CLASSIC[::-1]) == Vocabulary.learnt(CLASSIC)


# ---- texts


@given(st.text(max_size=60))
def test_every_text_comes_back(text):
    learnt = Vocabulary.learnt(["a red circle", "ein roter Kreis", "красный круг"], 300)
    length = max(1, len(learnt.pieces(text)))
    row = learnt.encode(text, length + 3)
    assert learnt.decode(row) == normal(text)
    assert normal(normal(text)) == normal(text)
    assert (row[length:] == 0).all()
    assert (row[: len(learnt.pieces(text))] > 0).all()


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("  A Red\tcircle\n", "a red circle"),
        ("cafe\u0301", "caf\u00e9"),
        ("ÅLAND", "åland"),
        ("", ""),
        (" \u3000\n", ""),
    ],
)
def test_what_is_the_same_text(text, same):
    assert normal(text) == same


def test_words_keep_their_space_and_signs_are_their_own():
    assert words("A button (blood type)!") == [" a", " button", " (", "blood", " type", ")!"]
    assert words("woman’s hat") == [" woman", "’", "s", " hat"]
    assert [len(word) for word in words("x" * 150)] == [65, 64, 22]
    assert words("") == []


def test_rows_are_cut_at_their_length_and_the_caller_can_tell():
    learnt = Vocabulary.learnt(["a red circle"] * 2)
    assert learnt.pieces("a red circle") == learnt.encode("a red circle", 3).tolist()
    row = learnt.encode("a red circle", 2)
    assert (row.dtype, row.tolist()) == (np.int64, learnt.pieces("a red circle")[:2])
    assert learnt.decode(row) == "a red"
    assert learnt.encode("", 4).tolist() == [0] * 4
    assert learnt.decode(Vocabulary().encode("é", 2)) == "\ufffd", "cut within a character"


def test_long_and_foreign_prompts():
    learnt = Vocabulary.learnt(["a red circle"] * 2)
    for text in ("x" * 10_000, "赤い円 " * 2500, "a red circle " * 1000, "🙂" * 10_000):
        assert learnt.decode(learnt.pieces(text)) == normal(text)
        assert learnt.encode(text, 16).shape == (16,)


@pytest.mark.parametrize(
    ("text", "most", "parts"),
    [
        ("a red circle and a blue square", 3, ["a red circle", "a blue square"]),
        ("One,  two, and three", 3, ["one", "two", "three"]),
        ("one, two and three", 2, ["one", "two and three"]),
        ("sand and 1,000 bands", 4, ["sand", "1,000 bands"]),
        ("a red circle", 3, ["a red circle"]),
        ("", 2, [""]),
        ("one and two", 0, ["one and two"]),
    ],
)
def test_a_text_is_taken_apart_into_its_concepts(text, most, parts):
    assert concepts_of(text, most) == parts


def test_words_that_no_caption_had():
    learnt = Vocabulary.learnt(["A red circle!", "two blue squares, côte"])
    assert learnt.unseen("a RED square, a hexagon (red) & a hexagon") == ("square", "hexagon")
    assert learnt.unseen("Côte") == ()
    assert learnt.unseen("") == ()
    assert learnt.unseen("赤い円") == ("赤い円",)


@pytest.mark.parametrize("length", [0, -1])
def test_a_row_has_room(length):
    with pytest.raises(UsageError, match="room for at least one piece"):
        Vocabulary().encode("a", length)


def test_what_is_not_a_text_or_not_a_row():
    with pytest.raises(UsageError, match="half a character"):
        Vocabulary().pieces("ab\ud83d")
    with pytest.raises(UsageError, match="expected ids 0 … 256, got 257"):
        Vocabulary().decode([257])
    with pytest.raises(UsageError, match="got -1"):
        Vocabulary().decode([-1])


def test_sizes_and_captions_that_cannot_be():
    with pytest.raises(UsageError, match="a size of 256"):
        Vocabulary.learnt(["a"], size=256)
    assert len(Vocabulary.learnt(["aa"] * 9, size=257)) == 257
    with pytest.raises(DataError, match="all are empty"):
        Vocabulary.learnt(["", "  "])


# ---- on disk


def test_it_is_the_same_after_json():
    learnt = Vocabulary.learnt([*CLASSIC, "красный круг", "côte"])
    again = Vocabulary.from_json(json.loads(json.dumps(learnt.to_json())))
    assert again == learnt
    assert again.pieces("the newest côte") == learnt.pieces("the newest côte")
    assert Vocabulary.from_json(Vocabulary().to_json()) == Vocabulary()


@pytest.mark.parametrize(
    "document",
    [
        None, [], {}, {"merges": []}, {"merges": 3, "known": []}, {"merges": [[1]], "known": []},
        {"merges": [[1, 300]], "known": []}, {"merges": [[0, 1]], "known": []}, {"merges": [[1, 257]], "known": []},
        {"merges": [["a", "b"]], "known": []}, {"merges": [[1, 2], [1, 2]], "known": []},
        {"merges": [[1.0, 2.0]], "known": []}, {"merges": [[True, 2]], "known": []}, {"merges": [], "known": [3]},
        {"merges": [[[1], 2]], "known": []}, {"merges": [], "known": None},
    ],
)  # fmt: skip
def test_a_damaged_one_is_refused(document):
    with pytest.raises(DamagedError, match="expected"):
        Vocabulary.from_json(document)


def test_the_tokenizers_library_learns_the_same(shared):
    """An independent implementation on real captions, in ASCII, where its alphabet has the order of ours."""
    tokenizers = pytest.importorskip("tokenizers")
    import zipfile

    with zipfile.ZipFile(shared / "emoji64.zip") as archive:
        rows = map(json.loads, archive.read("emoji64/metadata.jsonl").decode().splitlines())
        captions = [row["text"] for row in rows if row["text"].isascii()]
    other = tokenizers.Tokenizer(tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=1000,
        min_frequency=2,
        show_progress=False,
        special_tokens=[],
        initial_alphabet=[chr(byte) for byte in range(128)],
    )
    other.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(r" ?[A-Za-z0-9_]+| ?[^A-Za-z0-9_\s]+"), "isolated"
    )
    other.train_from_iterator([f" {normal(text)}" for text in captions], trainer)
    merges = json.loads(other.to_str())["model"]["merges"]
    ours = Vocabulary.learnt(captions, 257 + len(merges))
    assert [[ours._bytes[one].decode() for one in pair] for pair in ours.merges] == [list(pair) for pair in merges]
    for text in captions[::50]:
        theirs = [re.sub(" ", "", token) for token in other.encode(f" {normal(text)}").tokens]
        assert [ours.decode([piece]).strip() for piece in ours.pieces(text)] == theirs
