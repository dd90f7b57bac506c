"""Tables beside images: names read as they are meant and no further, fields of other names, other kinds of file."""

from __future__ import annotations

import json
import shutil
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebb.data.match import Match, Names, unescaped
from ebb.data.metadata import Fields
from ebb.data.scan import read


@pytest.fixture
def photos(tmp_path, picture, save):
    """Writes images of these paths into a folder called photos, and a table of rows beside them."""

    def write(paths, rows, name="metadata.jsonl", encoding="utf-8"):
        root = tmp_path / "photos"
        for at, path in enumerate(paths):
            save(root / path, picture(at))
        text = rows if isinstance(rows, str) else "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding)
        return root

    return write


def named(names, **more):
    return [{"file_name": name, "text": f"of {at}", **more} for at, name in enumerate(names)]


def little(images):
    return {(match.condition, match.used, match.count) for match in images.summary.matches if match.little}


MEANT = {
    "other slashes": ("train/{}.png", "train\\{}.png"),
    "the data folder's own name": ("{}.png", "photos/{}.png"),
    "and its own within": ("train/{}.png", "photos/train/{}.png"),
    "a path of Windows": ("{}.png", "C:\\Users\\me\\photos\\{}.png"),
    "another machine's path": ("train/{}.png", "/mnt/data/v2/train/{}.png"),
    "an address": ("{}.png", "file:///mnt/{}.png"),
    "here": ("{}.png", "./{}.png"),
    "a way around": ("a/{}.png", "b/../a/{}.png"),
    "escapes": ("my photo {}.png", "my%20photo%20{}.png"),
    "letters of another case": ("IMG_{}.PNG", "img_{}.png"),
    "no suffix": ("a.b/{}.png", "a.b/{}"),
    "another suffix": ("{}.png", "{}.jpg"),
    "composed accents": ("cafe\u0301 {}.png", "caf\u00e9 {}.png"),
    "no folder": ("images/{}.png", "{}.png"),
    "blanks around": ("{}.png", " {}.png "),
    "all of it": ("Fotos/Stra\u00dfe {}.PNG", "D:\\alt\\fotos\\Stra%C3%9Fe%20{}"),
}


@pytest.mark.parametrize("how", MEANT)
def test_names_are_read_as_they_are_meant_and_said(photos, how):
    path, name = MEANT[how]
    dataset = read(str(photos([path.format(at) for at in "123"], named(name.format(at) for at in "123"))))
    assert dataset.captions == ("of 0", "of 1", "of 2")
    assert little(dataset) == set()
    said = dataset.summary.chosen.get("metadata", "")
    assert said.startswith("3 names read otherwise than written") == (how not in ("here", "a way around"))


def test_an_absolute_path_inside_the_data(photos):
    root = photos(["cat/1.png", "2.png"], [])
    rows = [{"file_name": str(root / "cat" / "1.png"), "text": "a cat"}, {"file_name": "2.png", "text": "a dog"}]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read(str(root)).captions == ("a dog", "a cat")


MISTAKEN = {
    "two of that name": (["a/1.png", "b/1.png"], ["1.png", "x.png"]),
    "two of that stem": (["1.png", "1.bmp"], ["1", "x.png"]),
    "another folder's": (["a/1.png", "a/2.png"], ["b/1.png", "c/2.png"]),
    "another folder's, which all have": (["a/1.png", "a/2.png"], ["b/1.png", "b/2.png"]),
    "other names": (["1.png", "2.png"], ["01.png", "02.png"]),
    "a part of a name": (["a1.png", "a2.png"], ["1.png", "2.png"]),
    "outside": (["1.png", "2.png"], ["../x/9.png", "/"]),
}


@pytest.mark.parametrize("how", MISTAKEN)
def test_names_that_may_mean_something_else_are_not_guessed(photos, how):
    paths, names = MISTAKEN[how]
    dataset = read(str(photos(paths, named(names))))
    assert dataset.captions is None
    assert little(dataset) == {("captions", 0, 2)}
    match = dataset.summary.matches[1]
    assert match.examples == tuple(names)
    assert min(paths) in match.advice


def test_a_row_that_names_an_image_exactly_goes_before_one_that_resembles_it(photos):
    dataset = read(str(photos(["a.png", "b.png"], named(["a.png", "A.PNG", "b.png"]))))
    assert dataset.captions == ("of 0", "of 2")


def test_a_table_names_nothing_of_another_folder(photos):
    root = photos(["train/1.png", "test/2.png"], named(["2.png", "1.png"]), "train/metadata.jsonl")
    dataset = read(str(root))
    assert dataset.captions == ("of 1",)
    assert dataset.held_out.captions == ("",)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="/\\\0"), min_size=1), min_size=1, unique=True))
def test_every_path_means_itself(parts):
    """Whatever it holds, among any others."""
    pictures = [f"{at}/{part}.png" for at, part in enumerate(parts)]
    names = Names(pictures, "", "/data/photos", pictures)
    assert [names.exactly(picture) for picture in pictures] == pictures
    assert all(names.loosely(picture) in (picture, None) for picture in pictures)


@given(st.text())
def test_escapes_are_those_of_a_url(text):
    quoted = "".join(f"%{byte:02x}" for byte in text.encode("utf-8", "surrogatepass"))
    assert unescaped(quoted) == text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


# ---- fields of other names


@pytest.mark.parametrize("field", ["caption", "captions", "prompt", "description", "Caption", "TEXT"])
def test_captions_of_another_field_are_read_and_said(photos, field):
    rows = [{"file_name": "1.png", field: "one"}, {"file_name": "2.png", field: "two"}]
    dataset = read(str(photos(["1.png", "2.png"], rows)))
    assert dataset.captions == ("one", "two")
    assert dataset.summary.chosen["captions"] == f'from "{field}" in metadata.jsonl'


@pytest.mark.parametrize(
    "field", ["image", "file", "path", "filename", "image_path", "File Name", "file-name", "imageName"]
)
def test_names_of_another_field_are_read_and_said(photos, field):
    rows = [{field: "1.png", "text": "one", "label": 3}, {field: "2.png", "text": "two", "label": 3}]
    dataset = read(str(photos(["1.png", "2.png"], rows)))
    assert dataset.captions == ("one", "two")
    assert dataset.names == ("3",)
    assert dataset.summary.chosen["images"] == f'named by "{field}" in metadata.jsonl'


def test_a_field_that_is_filled_goes_before_one_that_is_empty(photos):
    dataset = read(str(photos(["1.png"], [{"file_name": "1.png", "text": "", "prompt": "one"}])))
    assert dataset.captions == ("one",)


def test_a_field_that_is_asked_for_keeps_its_meaning(photos):
    rows = [{"file_name": f"{at}.png", "class": at / 2, "text": "one"} for at in range(2)]
    dataset = read(str(photos(["0.png", "1.png"], rows)), fields=Fields(("class",)))
    assert dataset.labels is None
    assert dataset.metadata.numbers[:, 0].tolist() == [0, 0.5]


def test_a_table_of_which_nothing_is_read_is_a_loss(photos):
    root = photos(["1.png"], [{"file_name": "1.png", "title": "a cat", "size": 3}])
    dataset = read(str(root))
    assert little(dataset) == {("captions", 0, 1)}
    assert "title, size" in str(dataset.summary.matches[-1])
    assert little(read(str(root), fields=Fields(("size",)))) == set()


@pytest.mark.parametrize(
    ("name", "text"), [("metadata.jsonl", "\n"), ("metadata.csv", "file_name,text\n"), ("metadata.json", "[]")]
)
def test_an_empty_table_is_a_loss(photos, name, text):
    assert little(read(str(photos(["1.png", "2.png"], text, name)))) == {("captions", 0, 2)}


def test_numbers_of_few_images_are_a_loss(photos):
    rows = [{"file_name": f"{at}.png", "size": 1.0 if at < 2 else None} for at in range(8)]
    dataset = read(str(photos([f"{at}.png" for at in range(8)], rows)), fields=Fields(("size",)))
    assert little(dataset) == {("numbers", 2, 8)}


# ---- several rows, other kinds of file


def test_rows_that_contradict_each_other_are_said_and_the_last_is_used(photos, finding):
    rows = [*named(["1.png", "2.png"], label=1), {"file_name": "2.png", "text": "another"}, *named(["1.png"])]
    dataset = read(str(photos(["1.png", "2.png"], rows)))
    assert dataset.captions == ("of 0", "another")
    assert dataset.names == ("1",)
    found = finding(dataset, "several rows for one image")
    assert (found.count, found.examples, found.action) == (1, ("2.png",), "the last is used")


TABLES = {
    "csv": ("metadata.csv", 'file_name,text,label\n1.png,"one, and more",x\n2.png,two,y\n'),
    "csv of Excel": ("metadata.csv", "Filename;Caption;Class\r\n1.png;one, and more;x\r\n2.png;two;y\r\n"),
    "tabs": ("metadata.csv", "file_name\ttext\tlabel\n1.png\tone, and more\tx\n2.png\ttwo\ty"),
    "a list": ("metadata.json", json.dumps([*named(["1.png"], label="x"), *named(["2.png"], label="y")])),
    "by name": ("metadata.json", json.dumps({"1": {"caption": "of 0", "label": "x"}, "2.png": {"caption": "of 0", "label": "y"}})),
    "csv with what Excel writes above": ("metadata.csv", 'sep=;\r\nfile_name;text;label\r\n1.png;"one, and more";x\n2.png;two;y'),
    "csv of bars": ("metadata.csv", "file_name|text|label\n1.png|one, and more|x\n2.png|two|y"),
    "lines of an old Mac": ("metadata.jsonl", "\r".join(json.dumps(row) for row in named(["1.png", "2.png"], label="x"))),
    "lines with commas": ("metadata.jsonl", ",\n".join(json.dumps(row) for row in named(["1.png", "2.png"], label="x"))),
    "lines": ("metadata.json", "\n".join(json.dumps(row) for row in named(["1.png", "2.png"], label="x"))),
    "a list in lines": ("metadata.jsonl", json.dumps(named(["1.png", "2.png"], label="x"), indent=1)),
    "capitals": ("Metadata.JSONL", "\n".join(json.dumps(row) for row in named(["1.png", "2.png"], label="x"))),
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", TABLES)
def test_tables_of_other_kinds_are_read(photos, kind, encoding):
    name, text = TABLES[kind]
    dataset = read(str(photos(["1.png", "2.png"], text, name, encoding)))
    assert None not in dataset.captions
    assert dataset.captions[0] == ("one, and more" if name.endswith("csv") else "of 0")
    assert dataset.names in (("x",), ("x", "y"))
    assert little(dataset) == set()
    assert dataset.summary.kind == "imagefolder"


def test_captions_by_name_alone(photos):
    root = photos(["1.png", "2.png"], json.dumps({"1.png": "one", "2.png": ["two", "zwei"]}), "metadata.json")
    assert read(str(root)).captions == ("one", "two")


def test_cells_are_numbers_where_they_are_written_so(photos):
    text = "file_name,text,label,size\n1.png,7,10,0.5\n2.png,007,9,\n"
    dataset = read(str(photos(["1.png", "2.png"], text, "metadata.csv")), fields=Fields(("size",)))
    assert dataset.captions == ("7", "007")
    assert dataset.names == ("9", "10")
    assert dataset.summary.chosen["numbers"] == "size from 0.5 to 0.5 (1 images)"


def test_a_row_of_too_many_cells_is_left_out_and_named(photos, finding):
    dataset = read(str(photos(["1.png", "2.png"], "file_name,text\n1.png,a, b\n2.png,two", "metadata.csv")))
    assert dataset.captions == ("", "two")
    assert "metadata.csv, line 2 has 3 cells, expected 2" in finding(dataset, "broken row").examples[0]
    assert little(dataset) == {("captions", 1, 2)}


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.json"])
def test_a_table_of_something_else_does_not_stop_and_is_said(photos, name):
    text = {"metadata.csv": "a;b\n1;2\n", "metadata.json": '{"version": 1, "author": {"name": "x"}}'}[name]
    dataset = read(str(photos(["1.png"], text, name)))
    assert dataset.captions is None
    assert little(dataset)


def test_a_table_of_which_no_row_can_be_read_is_a_loss_of_captions(photos):
    """Its head cannot say more, and a loss of numbers alone would be told nowhere."""
    root = photos(["1.png", "2.png"], "file_name,text\n1.png,\xe9\n2.png,\xe9\n", "metadata.csv", "latin-1")
    dataset = read(str(root))
    assert ("captions", 0, 2) in little(dataset)
    assert "UTF-8" in next(match.advice for match in dataset.summary.matches if match.little)


def test_a_label_of_nothing_is_none(photos):
    rows = [{"file_name": f"{at}.png", "label": label} for at, label in enumerate(("", " ", "x"))]
    dataset = read(str(photos(["0.png", "1.png", "2.png"], rows)))
    assert dataset.names == ()
    assert ("labels", 0, 3) in little(dataset)


def test_another_encoding_in_one_line_is_left_out_and_named(photos, finding):
    root = photos(["1.png", "2.png"], [])
    lines = [
        json.dumps(row, ensure_ascii=False).encode("latin-1") for row in named(["1.png"]) + named(["2.png"], x="é")
    ]
    (root / "metadata.jsonl").write_bytes(b"\n".join(lines))
    dataset = read(str(root))
    assert dataset.captions == ("of 0", "")
    assert finding(dataset, "broken row").examples == ("metadata.jsonl, line 2 is not UTF-8",)


def test_a_zip_reads_its_table_as_its_folder_does(photos, tmp_path):
    root = photos(["a/1.png", "a/2.png"], named(["photos\\a\\1.png", "photos/a/2"]))
    before = read(str(root))
    packed = shutil.make_archive(str(tmp_path / "photos"), "zip", root)
    assert before.captions == ("of 0", "of 1")
    assert read(packed).summary.fingerprint == before.summary.fingerprint


def test_accents_of_the_table_and_of_the_file_are_one(photos):
    """As on a disk that a Mac wrote."""
    name = unicodedata.normalize("NFD", "été.png")
    assert read(str(photos([name], named(["été.png"])))).captions == ("of 0",)


def test_a_match_counts_and_names():
    match = Match.of("labels", "labels", "are there", 10, ["a\x1b"] * 6, "write them")
    assert (match.used, match.little) == (4, True)
    assert str(match) == "labels: 4 of 10 are there; not " + ", ".join(["a\\x1b"] * 5) + ", …"
    assert not Match.of("labels", "labels", "are there", 10, ["a"], "").little
    assert not Match.of("labels", "labels", "are there", 0, [], "").little
