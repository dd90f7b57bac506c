"""Tables in text: whatever separator, quotes and mark of order come, the numbers are those that were written."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebb.data.delimited import parsed, read_delimited
from ebb.errors import DataError

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 6))
NAMES = st.lists(st.text("abcxyz ,;é\"'", min_size=1, max_size=6).map(str.strip).filter(len), min_size=2, max_size=5,
                 unique=True)  # fmt: skip


def written(rows, separator, quoting=csv.QUOTE_MINIMAL):
    out = io.StringIO()
    csv.writer(out, delimiter=separator, quoting=quoting).writerows(rows)
    return out.getvalue()


@given(st.data(), NAMES, st.sampled_from(",;\t|"), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.booleans())
def test_what_was_written_is_read(data, names, separator, quoting, titled):
    rows = data.draw(st.lists(st.lists(NUMBERS, min_size=len(names), max_size=len(names)), min_size=1, max_size=6))
    first = [names] if titled else [[0.5] * len(names)]
    table = parsed(written([*first, *rows], separator, quoting), "table.csv")
    assert table.titled == titled
    assert list(table.columns) == (names if titled else [f"column {at}" for at in range(1, len(names) + 1)])
    np.testing.assert_array_equal(np.stack([*table.numbers.values()], 1), rows if titled else [*first, *rows])


def test_a_mark_of_byte_order_blank_lines_and_windows_ends_change_nothing(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,4\r\n")
    table = read_delimited(tmp_path / "a.csv")
    assert list(table.columns) == ["a", "b"]
    np.testing.assert_array_equal(table.numbers["b"], [2, 4])
    assert table.lines == (2, 4)


def test_one_column_is_a_table_too():
    assert len(parsed("data\n1\n2\n3\n", "t")) == 3
    assert len(parsed("1\n2\n3\n", "t")) == 3


def test_words_under_a_title_and_counted_titles():
    table = parsed("a,kind\n1,x\n2,y\n", "t")
    assert table.words == {"kind": ("x", "y")}
    assert table.titled
    assert not parsed("1,x\n2,y\n", "t").titled
    assert list(parsed("0,1,2\n0.5,0.5,0.5\n", "t").columns) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a;b\n1,5;2\n3;4\n", "line 2, column 'a': 1,5 is written with a decimal comma"),
        ("a,b\n1,2\n,4\n5,6\n", "line 3, column 'a': no value"),
        ("a,b\n1,2\nNA,4\nNA,6\n3,3\n4,4\n", "line 3, column 'a': no value, and 1 more"),
        ("a,b\n1,2\n3,inf\n", "line 3, column 'b': 'inf' is no finite number"),
        ("a,b\n1,2\n3,4x\n5,6\n", "line 3, column 'b': '4x' is no finite number"),
        ("a,b\n1,2\n3\n", "line 3: 1 values, where the first line has 2"),
        ("a,a\n1,2\n", "two columns are called 'a'"),
        ("a,b\n", "holds no rows"),
        ("", "holds no rows"),
    ],
)
def test_what_is_no_table_is_refused_with_its_place(text, said):
    with pytest.raises(DataError) as caught:
        parsed(text, "t.csv")
    assert said in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes("a,b\n1,ü\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_delimited(tmp_path / "a.csv")
