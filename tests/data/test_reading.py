"""Tables as data: which column is what, rows or series or windows, what is held out, and how values are brought to
scale and back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebb.data import windows
from ebb.data.columns import roles
from ebb.data.delimited import Columns
from ebb.data.reading import as_asked
from ebb.data.series import Heading, Scale, Series, Vectors, agreed
from ebb.data.sources import named
from ebb.errors import DataError, UsageError
from ebb.recipe.recipe import Recipe


def saved(path, rows, header="", **more):
    np.savetxt(path, rows, delimiter=",", header=header, comments="", fmt="%.8g", **more)
    return str(path)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def walks(count, times, seed=0):
    return np.cumsum(noise(count, times, seed=seed), 1)


@given(st.integers(0, 10**6), st.integers(1, 5), st.booleans())
def test_units_come_back_and_constant_columns_as_they_were(seed, columns, whole):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(20, columns + 1)) * 10.0 ** rng.integers(-3, 5, columns + 1) + rng.normal(scale=100)
    rows = np.rint(rows) if whole else rows
    rows[:, rng.integers(columns + 1)] = 7.25
    names = [f"c{at}" for at in range(columns + 1)]
    scale = Scale.of(names, list(rows.T))
    if not scale.varying:
        return
    x = scale.unit(torch.from_numpy(rows))
    assert x.shape == (20, len(scale.varying))
    np.testing.assert_allclose(scale.stored(x), rows, rtol=1e-4, atol=1e-4 * np.abs(rows).max())
    assert (scale.stored(torch.randn_like(x))[:, [names.index(one) for one in scale.constant]] == 7.25).all() or whole
    torch.testing.assert_close(x.mean(0), torch.zeros(x.shape[1]), atol=1e-3, rtol=0)


def test_a_modality_is_the_same_from_its_json():
    scale = Scale.of(["a", "b"], list(noise(2, 30)))
    for one in (Vectors(scale, Heading(("a", "b", "k"), "k")), Series(scale, Heading(("a", "b")), long=True)):
        assert type(one).from_json(one.to_json()) == one


def test_rows_with_a_label_a_constant_column_words_and_a_counter(tmp_path):
    table = tmp_path / "t.csv"
    rows = [f"{i},{a:.4f},3,{'x' if i % 3 else 'y'},n{i},{b:.4f}" for i, (a, b) in enumerate(noise(300, 2))]
    table.write_text("\n".join(["index,a,fixed,kind,note,b", *rows]))
    found = as_asked(str(table), Recipe())
    assert found.summary.shape == (2,)
    assert found.names == ("x", "y")
    notes = {note.kind: note.examples for note in found.summary.findings}
    assert notes == {
        "constant column": ("fixed",),
        "column of words": ("note",),
        "column that counts the rows": ("index",),
    }
    assert found.held_out.summary.count == 15
    assert found.modality.heading == Heading(("a", "fixed", "kind", "b"), "kind")
    line = found.modality.table(found.rows[:1], ["y"]).splitlines()
    assert line[0] == "a,fixed,kind,b"
    assert line[1].split(",")[1:3] == ["3", "y"]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"a": noise(40), "label": np.arange(40) % 3.0}, "label"),
        ({"a": noise(40), "target": noise(40, seed=1)}, None),
        ({"a": noise(40), "sort": ("x", "y") * 20}, "sort"),
        ({"a": noise(40), "b": np.arange(40) % 3.0}, None),
    ],
)
def test_the_label_is_found_by_name_or_by_words(columns, expected):
    assert roles(Columns(columns, titled=True), "t").label == expected


def test_without_names_whole_numbers_at_an_edge_are_labels():
    columns = {"column 1": np.arange(40) % 2.0, "column 2": noise(40), "column 3": noise(40)}
    assert roles(Columns(columns, titled=False), "t").label == "column 1"


def test_numbered_columns_that_go_on_are_series_and_others_are_not(tmp_path):
    names = ",".join(f"t{at}" for at in range(12))
    smooth = as_asked(saved(tmp_path / "smooth.csv", walks(60, 12), names), Recipe())
    assert smooth.summary.shape == (1, 12)
    assert as_asked(saved(tmp_path / "rough.csv", noise(60, 12), names), Recipe()).summary.shape == (12,)
    assert as_asked(saved(tmp_path / "bare.csv", walks(60, 12)), Recipe()).modality.heading.titled is False


def sine(count, every, channels=1):
    return np.sin(2 * np.pi * (np.arange(count)[:, None] + np.arange(channels)) / every) + 0.01 * noise(count, channels)


def test_one_long_series_is_cut_into_windows_that_hold_its_period_and_its_end_is_held_out(tmp_path):
    series = sine(2000, 50, 2)
    found = as_asked(saved(tmp_path / "long.csv", series, "u,v"), Recipe())
    assert found.summary.shape == (2, 64)
    assert found.summary.chosen["windows"].endswith("it repeats after about 50 rows")
    written = np.loadtxt(tmp_path / "long.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(found.rows[7], written[7:71].T)
    assert {*found.rows[-1][0]}.isdisjoint({*found.held_out.rows[0][0]}), "a row is in both"
    np.testing.assert_array_equal(found.held_out.rows[-1], written[-64:].T)
    lines = found.modality.table(found.rows[:2]).splitlines()
    assert (lines[0], len(lines)) == ("series,u,v", 129)


def test_the_length_of_windows_can_be_asked_for_and_rows_too(tmp_path):
    place = saved(tmp_path / "long.csv", sine(2000, 50), "u")
    assert as_asked(place, Recipe(data={"window": 20})).summary.shape == (1, 20)
    assert as_asked(place, Recipe(data={"window": 0})).summary.shape == (1,)
    with pytest.raises(UsageError, match="holds windows of 2 to 250"):
        as_asked(place, Recipe(data={"window": 300}))


def test_rows_sorted_by_their_label_are_no_series(tmp_path):
    rows = np.concatenate([noise(300, 3) + 10 * kind for kind in range(3)])
    labels = np.repeat(np.arange(3), 300)[:, None]
    place = saved(tmp_path / "sorted.csv", np.concatenate([rows, labels], 1), "a,b,c,class")
    assert as_asked(place, Recipe()).summary.shape == (3,)


def test_period_and_memory_of_known_series():
    assert windows.period(sine(1000, 40)[:, 0]) == pytest.approx(40, abs=1)
    assert windows.period(noise(1000)) is None
    x = np.zeros(20_000)
    for at, step in enumerate(noise(19_999), 1):
        x[at] = 0.9 * x[at - 1] + step
    assert windows.memory(x) == pytest.approx(-1 / np.log(0.9), abs=2)  # AR(1): rho^k = 1/e
    assert windows.roughness(x) == pytest.approx(1 - 0.9, abs=0.01)
    assert windows.roughness(noise(20_000)) == pytest.approx(1, abs=0.03)


def test_arrays_are_data_and_what_is_written_is_read_again(tmp_path):
    np.savez(
        tmp_path / "a.npz", rows=noise(30, 3), names=["a", "b", "c"], labels=np.arange(30) % 2, label_names=["n", "y"]
    )
    found = as_asked(str(tmp_path / "a.npz"), Recipe())
    assert (found.summary.shape, found.names, found.modality.scale.names) == ((3,), ("n", "y"), ("a", "b", "c"))
    np.savez(tmp_path / "b.npz", **found.modality.arrays(found.rows))
    np.testing.assert_array_equal(as_asked(str(tmp_path / "b.npz"), Recipe()).rows, found.rows)
    np.savez(tmp_path / "s.npz", series=noise(30, 2, 16))
    assert as_asked(str(tmp_path / "s.npz"), Recipe()).summary.shape == (2, 16)
    np.save(tmp_path / "d.npy", noise(30, 4))
    assert as_asked(str(tmp_path / "d.npy"), Recipe()).summary.shape == (4,)
    np.savez(tmp_path / "bad.npz", rows=np.where(np.eye(20) > 0, np.nan, 1.0))
    with pytest.raises(DataError, match=r"value at \[0, 0\] is not finite, and 19 more"):
        as_asked(str(tmp_path / "bad.npz"), Recipe())


@pytest.mark.parametrize(("name", "shape"), [("iris", (4,)), ("diabetes", (11,))])
def test_tables_of_scikit_learn_come_by_name(name, shape):
    assert as_asked(name, Recipe()).summary.shape == shape


@pytest.mark.parametrize("option", [{"data": {"size": 8}}, {"data": {"flip": True}}, {"beside": "mask"}])
def test_options_of_pictures_are_refused_for_a_table(tmp_path, option):
    place = saved(tmp_path / "t.csv", noise(30, 3), "a,b,c")
    with pytest.raises(UsageError, match="is of pictures"):
        as_asked(place, Recipe(**option))


def test_windows_are_refused_for_pictures():
    with pytest.raises(UsageError, match="digits is no table"):
        as_asked("digits", Recipe(data={"window": 8}))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("a", "c"), "has no column 'b', which the model was trained with"),
        (("a", "b", "c", "d"), "has a column 'd', which the model was not trained with"),
        (("b", "a", "c"), "columns in another order: column 1 is 'b', not 'a'"),
    ],
)
def test_columns_that_differ_are_refused_by_name(given, said):
    with pytest.raises(DataError) as caught:
        agreed(("a", "b", "c"), given, "t.csv")
    assert said in str(caught.value)
    agreed(("a", "b"), ("a", "b"), "t.csv")


def test_too_few_rows_and_nothing_that_varies_are_refused(tmp_path):
    with pytest.raises(DataError, match="has 3 rows"):
        as_asked(saved(tmp_path / "few.csv", noise(3, 2), "a,b"), Recipe())
    with pytest.raises(DataError, match="no column varies: a, b"):
        as_asked(saved(tmp_path / "same.csv", np.ones((20, 2)), "a,b"), Recipe())


def test_a_run_of_a_table_is_called_after_its_file(tmp_path):
    (tmp_path / "power.csv").touch()
    assert named(str(tmp_path / "power.csv")) == "power"
