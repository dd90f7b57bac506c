"""Arrays in files: idx, npz, CIFAR-10's binary version, digits; and files that are not what they claim."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import io
import struct
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebb.data.scan import read
from ebb.edit.commission import Commission, write
from ebb.encode.conditioner import Conditioner
from ebb.encode.labels import Labels
from ebb.errors import DamagedError, DataError, EbbError, ResourceError
from ebb.recipe.recipe import Sampling
from ebb.store import memory
from ebb.store.provenance import Provenance
from ebb.system.sampler import Request

from ..edit.known import system

fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def idx(array):
    array = np.asarray(array, np.uint8)
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    """A small MNIST folder: 12 training images, 5 test images, as `suffix` says."""

    def make(suffix="", dash="-", test=True, train_labels=12):
        random = np.random.default_rng(0)
        sets = {"train": (12, train_labels)} | ({"t10k": (5, 5)} if test else {})
        arrays = {}
        for name, (images, labels) in sets.items():
            arrays[name] = random.integers(0, 256, (images, 6, 5), np.uint8), np.arange(labels, dtype=np.uint8) % 10
            for kind, array in zip(("images", "labels"), arrays[name], strict=True):
                data = idx(array)
                path = tmp_path / f"{name}-{kind}{dash}idx{array.ndim}-ubyte{suffix}"
                path.write_bytes(gzip.compress(data) if suffix else data)
        return arrays

    return make


@pytest.mark.parametrize(("suffix", "dash"), [("", "-"), (".gz", "-"), ("", ".")])
def test_mnist_files_come_back_with_their_test_set(tmp_path, mnist, suffix, dash):
    arrays = mnist(suffix, dash)
    dataset = read(str(tmp_path))
    assert dataset.summary.kind == "idx"
    np.testing.assert_array_equal(dataset.rows[:, 0], arrays["train"][0])
    np.testing.assert_array_equal(dataset.held_out.rows[:, 0], arrays["t10k"][0])
    assert dataset.names == tuple("0123456789")
    assert dataset.labels.tolist() == arrays["train"][1].tolist()
    assert dataset.held_out.labels.tolist() == arrays["t10k"][1].tolist()


def test_one_images_file_finds_its_labels_beside_it(tmp_path, mnist):
    arrays = mnist()
    dataset = read(str(tmp_path / "t10k-images-idx3-ubyte"))
    np.testing.assert_array_equal(dataset.rows[:, 0], arrays["t10k"][0])
    assert dataset.labels.tolist() == [0, 1, 2, 3, 4]
    assert dataset.held_out is None
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    without = read(str(tmp_path / "t10k-images-idx3-ubyte"))
    assert without.labels is None
    assert poor(without) == {("labels", 0, 5)}
    assert "t10k-labels-idx1-ubyte beside it" in str(without.summary.matches[0])


def test_labels_of_another_name_are_found_where_there_is_one_pair_and_missed_where_there_are_two(tmp_path, mnist):
    mnist()
    (tmp_path / "t10k-labels-idx1-ubyte").rename(tmp_path / "targets-idx1-ubyte")
    dataset = read(str(tmp_path))
    assert dataset.held_out.labels is None
    assert poor(dataset) == {("labels", 0, 5)}
    assert "targets-idx1-ubyte" in str(dataset.summary.matches[0])
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (tmp_path / name).unlink()
    assert read(str(tmp_path)).labels.tolist() == [0, 1, 2, 3, 4]


def test_a_test_set_is_known_by_any_part_of_its_name(tmp_path, mnist):
    arrays = mnist()
    for path in [*tmp_path.glob("*-ubyte")]:
        path.rename(tmp_path / f"emnist-{path.name.replace('t10k', 'test')}")
    np.testing.assert_array_equal(read(str(tmp_path)).held_out.rows[:, 0], arrays["t10k"][0])


def test_idx_files_inside_a_zip(tmp_path, mnist):
    arrays = mnist()
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for path in tmp_path.glob("*-ubyte"):
            archive.write(path, f"{path.name}/{path.name}")
    dataset = read(str(tmp_path / "archive.zip"))
    np.testing.assert_array_equal(dataset.rows[:, 0], arrays["train"][0])
    assert len(dataset.held_out.rows) == 5


def test_packed_and_unpacked_copies_are_one_set(tmp_path, mnist):
    mnist(".gz")
    mnist("")
    assert len(read(str(tmp_path)).rows) == 12


def test_idx_images_can_be_resized_and_coloured(tmp_path, mnist):
    mnist()
    assert read(str(tmp_path), size=8, channels=3).held_out.rows.shape == (5, 3, 8, 8)


def test_labels_alone_and_several_sets_are_refused(tmp_path, mnist):
    mnist()
    with pytest.raises(DataError, match="labels only"):
        read(str(tmp_path / "train-labels-idx1-ubyte"))
    (tmp_path / "extra-images-idx3-ubyte").write_bytes(idx(np.zeros((1, 4, 4))))
    with pytest.raises(DataError, match="one idx3 images file"):
        read(str(tmp_path))


def test_a_label_count_that_differs_is_damage(tmp_path, mnist):
    mnist(train_labels=11)
    with pytest.raises(DamagedError, match=r"12 images.*11 labels"):
        read(str(tmp_path))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "expected 360 bytes .* got 359|claims 360 bytes"),
        (lambda data: data + b"x", "expected 360 bytes .* got more"),
        (lambda data: b"\0\0\x0d\3" + data[4:], "expected the header 00000803, got 00000d03"),
        (lambda data: data[:4] + b"\xff" * 12 + data[16:], "claims"),
        (lambda data: data[:9], "cannot be read"),
        (lambda data: b"", "expected the header"),
    ],
)
def test_idx_headers_are_checked_against_the_file(tmp_path, mnist, packed, change, message):
    mnist(".gz" if packed else "")
    path = tmp_path / ("train-images-idx3-ubyte" + (".gz" if packed else ""))
    data = change(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(DamagedError, match=message) as caught:
        read(str(tmp_path))
    assert "train-images" in caught.value.what


def test_a_cut_gz_is_damage(tmp_path, mnist):
    mnist(".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedError):
        read(str(tmp_path))


def test_a_gz_bomb_is_read_no_further_than_its_header_says(tmp_path):
    data = gzip.compress(idx(np.zeros((2, 4, 4))) + bytes(40 * 2**20))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(data)
    with pytest.raises(DamagedError, match="got more"):
        read(str(tmp_path))


def test_an_idx_of_no_images(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((0, 4, 4))))
    with pytest.raises(DataError, match="empty"):
        read(str(tmp_path))


@fuzz
@given(st.binary(min_size=16, max_size=16), st.integers(0, 40), st.booleans())
def test_any_idx_header_is_read_or_refused(tmp_path, header, extra, sound):
    data = (b"\0\0\x08\3" + header[4:] if sound else header) + bytes(extra)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(data)
    with pytest.raises(EbbError):
        read(str(tmp_path))


# ---- npz


def npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize("keys", [("images", "labels"), ("x", "y"), ("x_train", "y_train")])
def test_npz_under_the_usual_keys(tmp_path, picture, keys):
    pixels = np.stack([picture(seed) for seed in range(3)])
    dataset = read(npz(tmp_path / "set.npz", **dict(zip(keys, (pixels, [7, 3, 7]), strict=True))))
    assert (dataset.summary.kind, dataset.summary.name) == ("npz", "set")
    np.testing.assert_array_equal(dataset.rows, pixels.transpose(0, 3, 1, 2))
    assert dataset.names == ("3", "7")
    assert dataset.labels.tolist() == [1, 0, 1]


def test_npz_without_labels_and_with_string_labels(tmp_path, picture):
    pixels = np.stack([picture(seed, channels=1) for seed in range(2)])
    np.savez(tmp_path / "a.npz", pixels)
    assert read(str(tmp_path / "a.npz")).labels is None
    dataset = read(npz(tmp_path / "b.npz", images=pixels, labels=np.array(["dog", "cat"])))
    assert dataset.names == ("cat", "dog")
    assert dataset.labels.tolist() == [1, 0]


def test_npz_test_split(tmp_path, picture):
    a, b = picture(1, channels=1)[None], picture(2, channels=1)[None]
    train = np.concatenate([a, a])
    dataset = read(npz(tmp_path / "mnist.npz", x_train=train, y_train=[5, 6], x_test=b, y_test=[[6]]))
    np.testing.assert_array_equal(dataset.held_out.rows[0], b)
    assert dataset.names == ("5", "6")
    assert dataset.held_out.labels.tolist() == [1]


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 1, 2)])
def test_npz_layouts(tmp_path, picture, axes):
    pixels = np.stack([picture(seed, 6, 7) for seed in range(2)])
    dataset = read(npz(tmp_path / "a.npz", images=pixels.transpose(axes)))
    np.testing.assert_array_equal(dataset.rows, pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("values", "expected", "clipped"),
    [
        (np.float32([0, 0.5, 1]), [0, 128, 255], False),
        (np.float64([-1, 0, 1]), [0, 128, 255], False),
        (np.float16([-0.0005, 0.25, 1]), [0, 64, 255], True),
        (np.int64([0, 7, 255]), [0, 7, 255], False),
        (np.array([False, True, True]), [0, 255, 255], False),
    ],
)
def test_npz_values_are_scaled_to_bytes_and_reported(tmp_path, finding, values, expected, clipped):
    pixels = np.zeros((3, 4, 4), values.dtype) + values[:, None, None]
    dataset = read(npz(tmp_path / "a.npz", images=pixels.astype(values.dtype)))
    assert dataset.rows[:, 0, 0, 0].tolist() == expected
    assert finding(dataset, f"{values.dtype} values") is not None
    assert (finding(dataset, "values out of range") is not None) == clipped


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((2, 4, 4), 3.5),
        np.full((2, 4, 4), np.nan),
        np.full((2, 4, 4), 256),
        np.full((2, 4, 4), -1),
        np.zeros((2, 4, 4), np.complex64),
        np.zeros((2, 4, 4), "U3"),
        np.zeros((2, 16), np.uint8),
        np.zeros((2, 4, 4, 4), np.uint8),
        np.zeros((2, 4, 4), object),
        np.zeros((0, 4, 4), np.uint8),
        np.zeros((2, 3, 3), np.uint8),
        np.zeros((2, 4, 4), [("a", "u1")]),
    ],
)
def test_npz_arrays_that_are_not_images(tmp_path, pixels):
    with pytest.raises(DataError):
        read(npz(tmp_path / "a.npz", images=pixels))


@pytest.mark.parametrize("labels", [[1], [1, 2, 3], [0.5, 1.0], [[1, 2], [3, 4]], np.array([None, 1], object)])
def test_npz_labels_that_do_not_fit(tmp_path, labels):
    with pytest.raises(DataError, match="labels"):
        read(npz(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), labels=labels))


def test_npz_with_other_keys_names_them(tmp_path):
    with pytest.raises(DataError, match="found pictures"):
        read(npz(tmp_path / "a.npz", pictures=np.zeros((2, 4, 4), np.uint8)))


def poor(images):
    """The sources of which little was used: how much of how many, and of what."""
    return {(match.condition, match.used, match.count) for match in images.summary.matches if match.little}


@pytest.mark.parametrize(
    ("keys", "labels"),
    [
        (("arr_0", "arr_1"), np.array([2, 0, 2])),
        (("arr_1", "arr_0"), np.array(["c", "a", "c"])),
        (("arr_0", "arr_1"), np.eye(3)[[2, 0, 2]]),
        (("arr_0", "arr_1"), np.array([2.0, 0.0, 2.0])),
        (("image", "label"), np.array([2, 0, 2])),
        (("X", "y"), np.array([[2], [0], [2]])),
        (("train_images", "train_labels"), np.array([2.0, 0.0, 2.0])),
        (("images", "label"), np.array([b"c", b"a", b"c"])),
        (("data", "target"), np.array([True, False, True])),
    ],
)
def test_npz_labels_are_found_by_name_or_by_shape(tmp_path, picture, keys, labels):
    pixels = np.stack([picture(seed) for seed in range(3)])
    dataset = read(npz(tmp_path / "a.npz", **dict(zip(keys, (pixels, labels), strict=True))))
    np.testing.assert_array_equal(dataset.rows, pixels.transpose(0, 3, 1, 2))
    assert dataset.labels.tolist() == [1, 0, 1]
    assert poor(dataset) == set()


@pytest.mark.parametrize("called", ["label_names", "class_names", "classes"])
@pytest.mark.parametrize("names", [["dog", "cat"], [b"dog", b"cat"]])
def test_npz_labels_have_the_names_that_come_with_them(tmp_path, picture, called, names):
    pixels = np.stack([picture(seed) for seed in range(3)])
    dataset = read(npz(tmp_path / "a.npz", images=pixels, labels=[1, 0, 1], **{called: np.array(names)}))
    assert [dataset.names[at] for at in dataset.labels] == ["cat", "dog", "cat"]
    numbers = read(npz(tmp_path / "b.npz", images=pixels, labels=[1, 0, 1], label_names=[10, 2]))
    assert numbers.names == ("2", "10")
    own = read(npz(tmp_path / "c.npz", images=pixels, labels=[1, 0, 1], classes=["a", "b", "c"]))
    assert own.names == ("0", "1")


def test_npz_labels_that_are_python_objects_are_refused_or_said(tmp_path, picture):
    pixels, labels = np.stack([picture(seed) for seed in range(2)]), np.array(["a", None], object)
    with pytest.raises(DataError, match="arr_1 holds Python objects"):
        read(npz(tmp_path / "a.npz", arr_0=pixels, arr_1=labels))
    assert poor(read(npz(tmp_path / "b.npz", images=pixels, kind=labels))) == {("labels", 0, 1)}


def test_npz_test_sets_of_other_names(tmp_path, picture):
    a, b = np.stack([picture(1), picture(2)]), picture(3)[None]
    arrays = {"train_images": a, "train_labels": [[0], [1]], "val_images": b, "val_labels": [[1]]}
    dataset = read(npz(tmp_path / "a.npz", **arrays))
    assert dataset.held_out.labels.tolist() == [1]
    np.testing.assert_array_equal(dataset.held_out.rows[0], picture(3).transpose(2, 0, 1))


def test_npz_labels_that_nobody_reads_are_said(tmp_path, picture):
    pixels = np.stack([picture(seed) for seed in range(3)])
    dataset = read(npz(tmp_path / "a.npz", images=pixels, kind=[1, 0, 1], weights=np.zeros(3)))
    assert dataset.labels is None
    assert poor(dataset) == {("labels", 0, 1)}
    both = read(npz(tmp_path / "b.npz", arr_0=pixels, arr_1=[1, 0, 1], arr_2=[0, 0, 1]))
    assert both.labels is None
    assert poor(both) == {("labels", 0, 2)}
    test = read(npz(tmp_path / "c.npz", x_train=pixels, y_train=[0, 1, 1], x_test=pixels[:2], answers=[0, 1]))
    assert test.held_out.labels is None
    assert poor(test) == {("labels", 0, 1)}


def test_npz_of_several_that_could_be_images_is_refused_with_their_shapes(tmp_path):
    with pytest.raises(DataError, match=r"arr_0 uint8 \[2, 4, 4\], arr_1 uint8 \[2, 4, 4\]"):
        read(npz(tmp_path / "a.npz", arr_0=np.zeros((2, 4, 4), np.uint8), arr_1=np.ones((2, 4, 4), np.uint8)))


def test_npz_captions_are_read_and_their_loss_is_said(tmp_path, picture):
    pixels = np.stack([picture(seed) for seed in range(2)])
    dataset = read(npz(tmp_path / "a.npz", images=pixels, captions=np.array(["one", "two "])))
    assert dataset.captions == ("one", "two")
    assert read(npz(tmp_path / "c.npz", images=pixels, caption=np.array(["one", "two"]))).captions == ("one", "two")
    for lost in (np.array(["one", "two"], object), np.array(["one"])):
        dataset = read(npz(tmp_path / "b.npz", images=pixels, texts=lost))
        assert dataset.captions is None
        assert {(condition, used) for condition, used, _ in poor(dataset)} == {("captions", 0)}


def sampled(out, pixels, request, names):
    """Pictures written as samples of a system that knows labels of these names."""
    made = Provenance("sample", "runs/a", (), "00", len(pixels))
    hears = Conditioner({"label": Labels(names)} if names else {})
    of = dataclasses.replace(system(0, pixels.shape[1:]), conditioner=hears)
    write(Commission(of, request, None, {"seed": 0}, made), pixels, out)


@pytest.mark.parametrize("names", [(), ("dog", "cat"), ("2", "10")])
def test_what_ebb_sampled_can_be_trained_on_again(tmp_path, picture, names):
    """With the labels' own names, and without labels."""
    pixels = np.stack([picture(seed).transpose(2, 0, 1) for seed in range(4)])
    request = Request({"label": [*names, *names]} if names else {}, 4, Sampling())
    sampled(tmp_path / "samples.npz", pixels, request, names)
    dataset = read(str(tmp_path / "samples.npz"))
    np.testing.assert_array_equal(dataset.rows, pixels)
    assert poor(dataset) == set()
    assert set(dataset.names) == set(names)
    assert dataset.labels is None if not names else [dataset.names[at] for at in dataset.labels] == [*names, *names]
    assert names != ("2", "10") or dataset.names == names


def test_samples_of_no_label_are_without_one(tmp_path, picture):
    pixels = np.stack([picture(seed).transpose(2, 0, 1) for seed in range(2)])
    sampled(tmp_path / "samples.npz", pixels, Request({"label": [None, "dog"]}, 2, Sampling()), ("dog", "cat"))
    assert read(str(tmp_path / "samples.npz")).summary.chosen["labels"] == "none: some images have no label"


def test_labels_that_have_no_name_are_refused(tmp_path):
    with pytest.raises(DataError, match="go from 0 to 2, and label_names names 2"):
        read(npz(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), labels=[0, 2], label_names=["a", "b"]))


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 1, 2)])
def test_an_npy_of_images_is_read_and_another_is_refused(tmp_path, picture, axes):
    pixels = np.stack([picture(seed) for seed in range(2)])
    np.save(tmp_path / "a.npy", pixels.transpose(axes))
    dataset = read(str(tmp_path / "a.npy"))
    np.testing.assert_array_equal(dataset.rows, pixels.transpose(0, 3, 1, 2))
    assert "np.savez" in dataset.summary.chosen["labels"]
    np.save(tmp_path / "b.npy", np.zeros((2, 16), np.uint8))
    with pytest.raises(DataError, match=r"expected \[n, h, w\]"):
        read(str(tmp_path / "b.npy"))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    with pytest.raises(DamagedError, match="claims"):
        read(str(tmp_path / "a.npy"))


def npy_claiming(shape, data=b"\0" * 32):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + data


@pytest.mark.parametrize("shape", [(2, 4, 5), (10**9, 10**9, 10**9), (-2, -4, 4), (2, 4, 3)])
def test_an_npz_header_that_lies_is_damage(tmp_path, shape):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", npy_claiming(shape))
    with pytest.raises(DamagedError, match="claims"):
        read(str(tmp_path / "a.npz"))


def test_an_npz_larger_than_memory_is_refused_before_loading(tmp_path, monkeypatch):
    path = npz(tmp_path / "a.npz", images=np.zeros((2, 4, 4)))
    monkeypatch.setattr(memory, "available", lambda: 2 * 256 - 2)
    with pytest.raises(ResourceError, match="half of the available memory"):
        read(path)


@fuzz
@given(
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=4),
    st.one_of(st.just(0), st.integers(0, 600)),
    st.booleans(),
)
def test_a_damaged_npz_is_read_or_refused(tmp_path, changes, cut, outside):
    data = bytearray(npy_claiming((2, 4, 4)))
    file = io.BytesIO()
    for at, value in [] if outside else changes:
        data[at % 128] = value
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", data)
    whole = bytearray(file.getvalue())
    for at, value in changes if outside else []:
        whole[at % len(whole)] = value
    (tmp_path / "a.npz").write_bytes(whole[: max(1, len(whole) - cut)])
    with contextlib.suppress(EbbError):
        assert read(str(tmp_path / "a.npz")).rows.dtype == np.uint8


# ---- CIFAR-10


@pytest.fixture
def cifar(tmp_path):
    """A small CIFAR-10 folder: two training batches of two, one test image; returns the training records."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    records = np.random.default_rng(0).integers(0, 256, (5, 3073), np.uint8)
    records[:, 0] = [3, 0, 1, 9, 3]
    (folder / "data_batch_2.bin").write_bytes(records[2:4].tobytes())
    (folder / "data_batch_1.bin").write_bytes(records[:2].tobytes())
    (folder / "test_batch.bin").write_bytes(records[4:].tobytes())
    words = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta.txt").write_text("\n".join(words) + "\n\n")
    return folder, records


def check_cifar(images, records):
    assert images.summary.kind == "cifar10 binary"
    np.testing.assert_array_equal(images.rows.reshape(4, -1), records[:4, 1:])
    np.testing.assert_array_equal(images.held_out.rows.reshape(1, -1), records[4:, 1:])
    assert [images.names[label] for label in images.labels] == ["cat", "airplane", "automobile", "truck"]
    assert [images.names[label] for label in images.held_out.labels] == ["cat"]


def test_the_binary_version_as_a_folder(cifar):
    check_cifar(read(str(cifar[0])), cifar[1])


@pytest.mark.parametrize("name", ["cifar-10-binary.tar.gz", "c.tgz", "c.tar"])
def test_the_binary_version_as_a_tar(cifar, tmp_path, name):
    with tarfile.open(tmp_path / name, "w" if name.endswith("tar") else "w:gz") as archive:
        archive.add(cifar[0], cifar[0].name)
    dataset = read(str(tmp_path / name))
    check_cifar(dataset, cifar[1])
    assert dataset.summary.name == name.split(".")[0]


def test_without_names_the_labels_are_numbers(cifar):
    (cifar[0] / "batches.meta.txt").unlink()
    dataset = read(str(cifar[0]))
    assert dataset.names == ("0", "1", "3", "9")
    assert "batches.meta.txt" in dataset.summary.chosen["labels"]


def test_damaged_batches(cifar):
    batch = cifar[0] / "data_batch_1.bin"
    data = batch.read_bytes()
    for wrong, message in (
        (data[:-1], "multiple of 3073"),
        (b"", "multiple of 3073"),
        (b"\x0a" + data[1:], "below 10"),
    ):
        batch.write_bytes(wrong)
        with pytest.raises(DamagedError, match=message):
            read(str(cifar[0]))


def test_a_cut_tar_is_damage(cifar, tmp_path):
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as archive:
        archive.add(cifar[0], cifar[0].name)
    data = (tmp_path / "c.tar.gz").read_bytes()
    (tmp_path / "c.tar.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DamagedError):
        read(str(tmp_path / "c.tar.gz"))


# ---- digits and real data


def test_digits(tmp_path, monkeypatch):
    datasets = pytest.importorskip("sklearn.datasets")
    monkeypatch.chdir(tmp_path)
    dataset = read("digits")
    assert dataset.rows.shape == (1797 - 89, 1, 8, 8)
    assert dataset.rows.max() == 255
    assert dataset.names == tuple("0123456789")
    assert len(dataset.held_out.rows) == 89
    whole, theirs = read("digits", hold_back=False), datasets.load_digits()
    assert np.array_equal(whole.labels, theirs.target)
    assert np.array_equal(np.rint(whole.rows[:, 0] * (16 / 255)), theirs.images)
    assert dataset.summary.name == "digits"


def test_digits_without_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ResourceError, match=r"pip install 'ebb\[demo\]'"):
        read("digits")


def test_a_folder_called_digits_comes_first(tmp_path, monkeypatch, picture, save):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "digits" / "a.png", picture())
    assert len(read("digits").rows) == 1


def test_mnist(shared):
    dataset = read(shared("mnist"))
    assert dataset.rows.shape == (60000, 1, 28, 28)
    assert dataset.held_out.rows.shape == (10000, 1, 28, 28)
    assert dataset.labels[:5].tolist() == [5, 0, 4, 1, 9]
    np.testing.assert_allclose(dataset.rows.mean() / 255, 0.1307, atol=1e-4)  # the mean everyone normalises with
    assert dataset.summary.findings == ()
    assert dataset.summary.classes["1"] == 6742
