"""Labels: of class folders with strays, broken files and names alike, and in a test set."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ebb.data.scan import read


@pytest.fixture
def folders(tmp_path, picture, save):
    """Writes so many images into each of these folders."""

    def write(**counts):
        for at, (name, count) in enumerate(counts.items()):
            for number in range(count):
                save(tmp_path / name.replace("__", "/") / f"{number}.png", picture(100 * at + number))
        return tmp_path

    return write


def lost(images):
    return {(match.condition, match.used, match.count) for match in images.summary.matches if match.little}


@pytest.mark.parametrize("strays", [1, 2])
def test_a_few_images_beside_class_folders_are_left_out_by_name(folders, picture, save, finding, strays):
    where = folders(cat=4, dog=4)
    for number in range(strays):
        save(where / f"preview{number}.png", picture(999 + number))
    dataset = read(str(where))
    assert dataset.labels.tolist() == [0] * 4 + [1] * 4
    found = finding(dataset, "beside the class folders")
    assert found.examples == ("preview0.png", "preview1.png")[:strays]
    assert found.action.startswith("left out")
    assert lost(dataset) == set()


def test_many_images_beside_class_folders_keep_and_their_labels_are_a_loss(folders, picture, save, finding):
    where = folders(cat=4, dog=4)
    for number in range(3):
        save(where / f"preview{number}.png", picture(999 + number))
    dataset = read(str(where))
    assert dataset.labels is None
    assert len(dataset.rows) == 11
    assert finding(dataset, "beside the class folders").examples == ("preview0.png", "preview1.png", "preview2.png")
    assert lost(dataset) == {("labels", 0, 8)}
    assert "preview0.png" in str(dataset.summary.matches[0])


def test_five_of_a_hundred_and_one_in_a_hundred_are_few(folders, picture, save):
    where = folders(cat=10, dog=10)
    for number in range(5):
        save(where / f"{number}.png", picture(999 + number))
    assert read(str(where)).names == ("cat", "dog")
    save(where / "6.png", picture(998))
    assert read(str(where)).labels is None


def test_a_class_without_a_good_image_is_no_label(folders, finding):
    where = folders(cat=2, dog=2, eel=2)
    for number in range(2):
        (where / "dog" / f"{number}.png").write_bytes(b"damaged" * number)
    dataset = read(str(where))
    assert dataset.names == ("cat", "eel")
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.summary.classes == {"cat": 2, "eel": 2}
    assert finding(dataset, "class without an image").examples == ("dog",)
    assert "but for 1 without" in dataset.summary.chosen["labels"]


def test_a_broken_image_without_a_label_costs_no_labels(folders):
    where = folders(cat=2)
    rows = [json.dumps({"file_name": f"{at}.png", "label": at}) for at in range(2)]
    (where / "cat" / "metadata.jsonl").write_text("\n".join(rows))
    (where / "cat" / "broken.png").write_bytes(b"damaged")
    assert read(str(where)).names == ("0", "1")


@pytest.mark.parametrize("twin", ["Cat", "cat ", "CAT"])
def test_classes_of_like_names_are_said(folders, finding, twin):
    dataset = read(str(folders(**{"cat": 2, twin: 2, "dog": 2})))
    assert len(dataset.names) == 3
    assert set(finding(dataset, "classes of like names").examples) == {'"cat"', f'"{twin}"'}


@pytest.mark.parametrize("leftover", [".hidden", "__MACOSX", ".ipynb_checkpoints", "@eaDir", "$RECYCLE.BIN"])
def test_what_systems_leave_behind_is_no_class(folders, picture, save, leftover):
    where = folders(cat=2, dog=2)
    save(where / leftover / "1.png", picture(999))
    save(where / "cat" / "._1.png", picture(998))
    (where / ".DS_Store").write_bytes(b"")
    dataset = read(str(where))
    assert dataset.names == ("cat", "dog")
    assert len(dataset.rows) == 4
    assert not any(found.kind == "not an image" for found in dataset.summary.findings)


def test_a_class_that_only_the_test_set_has_is_no_label(folders, finding):
    dataset = read(str(folders(train__cat=2, train__dog=2, test__dog=1, test__eel=3)))
    assert dataset.names == dataset.held_out.names == ("cat", "dog")
    assert dataset.held_out.labels.tolist() == [1]
    assert finding(dataset.held_out, "of a class that no training image has").count == 3


def test_a_test_set_of_other_classes_alone_is_none(folders, finding):
    dataset = read(str(folders(train__cat=2, train__dog=2, test__eel=3)))
    assert dataset.held_out is None
    assert finding(dataset, "held out, of classes that no training image has").count == 3


def test_a_test_set_without_class_folders_has_no_labels_and_says_so(folders, finding):
    dataset = read(str(folders(train__cat=2, train__dog=2, test=3)))
    assert dataset.names == ("cat", "dog")
    assert dataset.held_out.labels is None
    assert finding(dataset.held_out, "without a label").count == 3


def test_arrays_of_a_class_that_only_the_test_set_has_are_left_out(tmp_path, picture):
    x = np.stack([picture(at) for at in range(5)])
    np.savez(tmp_path / "a.npz", x_train=x[:2], y_train=[0, 1], x_test=x[2:], y_test=[1, 7, 0])
    dataset = read(str(tmp_path / "a.npz"))
    assert dataset.names == ("0", "1")
    assert dataset.held_out.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(dataset.held_out.rows, x[[2, 4]].transpose(0, 3, 1, 2))


def test_labels_of_rows_that_name_no_image_are_a_loss_and_the_folders_are_used(folders):
    where = folders(cat=2, dog=2)
    rows = [json.dumps({"file_name": f"photo{at}.png", "label": at}) for at in range(2)]
    (where / "metadata.jsonl").write_text("\n".join(rows))
    dataset = read(str(where))
    assert dataset.names == ("cat", "dog")
    assert lost(dataset) == {("labels", 0, 2)}


def test_labels_of_some_images_are_a_loss(folders):
    where = folders(cat=4)
    rows = [json.dumps({"file_name": f"{at}.png", "label": at}) for at in range(3)]
    (where / "cat" / "metadata.jsonl").write_text("\n".join(rows))
    dataset = read(str(where))
    assert dataset.labels is None
    assert lost(dataset) == {("labels", 0, 4)}


def test_labels_and_captions_survive_the_split(folders):
    where = folders(cat=105, dog=105)
    for path in where.rglob("*.png"):
        path.with_suffix(".caption").write_text(f"{path.parent.name} {path.stem}")
    dataset = read(str(where))
    assert len(dataset.held_out.rows) == 10
    for part in (dataset, dataset.held_out):
        assert [part.names[at] for at in part.labels] == [text.split()[0] for text in part.captions]
