"""Reading files: separators, markers of missing values, compression, Parquet, and every way a file can be wrong."""

from __future__ import annotations

import bz2
import gzip
import lzma
import resource
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest

from kan_core.errors import KANError
from kan_tabular.data import files
from kan_tabular.data.files import read_file


@pytest.fixture
def read(tmp_path):
    def reader(content, name="my.csv", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_file(path, **options)

    return reader


@pytest.fixture
def refused(read):
    def check(content, *parts, **options):
        with pytest.raises(KANError) as error:
            read(content, **options)
        text = str(error.value)
        assert "\n" not in text
        assert options.get("name", "my.csv") in text
        for part in parts:
            assert part in text, text

    return check


MESSY = """id, age ,sex,member,score,note,y
1,23, m,True,1.5,?,no
2,,f,,2.5,NA,yes
3, 41 ,f ,False,n/a,x,no
4,NaN,  ,True,-1e3,null,yes
"""


def test_a_messy_file(read):
    frame = read(MESSY)
    assert list(frame.columns) == ["id", "age", "sex", "member", "score", "note", "y"]
    np.testing.assert_array_equal(frame["age"], [23, np.nan, 41, np.nan])
    assert frame["sex"].tolist()[:3] == ["m", "f", "f"]
    assert frame["sex"].isna().tolist() == [False, False, False, True]
    assert frame["member"].dtype == "boolean"
    assert frame["member"].isna().tolist() == [False, True, False, False]
    np.testing.assert_array_equal(frame["score"], [1.5, 2.5, np.nan, -1000])
    assert frame["note"].isna().tolist() == [True, True, False, True]
    assert frame["sex"].dtype == "str"


def test_markers_given_replace_the_usual_ones(read):
    frame = read("a,b\nNA,1\n-,2\n,3\n", na_values=["-"])
    assert frame["a"].tolist()[0] == "NA"
    assert frame["a"].isna().tolist() == [False, True, True]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found(read, separator):
    frame = read(separator.join("ab") + "\n" + separator.join("12") + "\n")
    assert frame.to_dict("list") == {"a": [1], "b": [2]}


def test_a_quoted_separator_and_line_end_do_not_count(read):
    frame = read('a,b\n"x, with; ""quotes""",1\n"two\nlines",2\n')
    assert frame["a"].tolist() == ['x, with; "quotes"', "two\nlines"]


def test_decimal_commas(read, refused):
    text = "a;b\n1,5;2,25\n3,5;4,75\n"
    refused(text, "'a' have decimal commas", "--data.decimal")
    assert read(text, decimal=",").to_numpy().tolist() == [[1.5, 2.25], [3.5, 4.75]]


def test_two_possible_separators_are_told(refused):
    refused("a;b,c\n1;2,3\n4;5,6\n", "2 with comma", "2 with semicolon", "--data.separator")


def test_a_wrong_separator_says_how_many_columns_it_found(refused):
    refused("a,b,c\n1,2,3\n", "1 column was found with the separator ';'", "--data.separator", separator=";")
    refused("a b c\n1 2 3\n", "1 column was found with the separator ','", "'a b c'")


def test_a_separator_of_two_characters(refused):
    refused("a,b\n1,2\n", "',,' must be one character", separator=",,")


def test_text_columns_keep_their_zeros(read):
    assert read("code,y\n007,1\n010,2\n", text=["code"])["code"].tolist() == ["007", "010"]


def test_a_column_that_becomes_text_late_is_text_throughout(read):
    values = [*map(str, range(40_000)), *(f"word{i}" for i in range(60_000))]
    frame = read("a,b\n" + "".join(f"{value},1\n" for value in values))
    assert frame["a"].tolist() == values


def test_a_byte_order_mark(read):
    assert list(read(b"\xef\xbb\xbfa,b\n1,2\n").columns) == ["a", "b"]


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_compressed_text(read, suffix, compress):
    assert read(compress(b"a,b\n1,2\n"), name=f"my.csv{suffix}").to_numpy().tolist() == [[1, 2]]


def test_a_zip_archive_holds_one_file(tmp_path, refused):
    path = tmp_path / "my.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("my.csv", "a;b\n1;2\n")
    assert read_file(path).to_numpy().tolist() == [[1, 2]]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other.csv", "a;b\n1;2\n")
    with pytest.raises(KANError, match="holds 2 files"):
        read_file(path)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zip"])
def test_a_damaged_archive(refused, suffix):
    refused(b"this is not compressed at all", name=f"my.csv{suffix}")


def test_a_truncated_archive(refused):
    rng = np.random.default_rng(0)
    text = "a,b\n" + "".join(f"{x},{y}\n" for x, y in rng.random((20_000, 2)))
    refused(gzip.compress(text.encode())[:-1000], "damaged", name="my.csv.gz")


def test_a_missing_file(tmp_path):
    with pytest.raises(KANError, match=r"none\.csv: there is no such file"):
        read_file(tmp_path / "none.csv")


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
def test_an_empty_file(refused, content):
    refused(content, "is empty")


def test_a_header_alone(refused):
    refused("a,b\n", "a header but no rows")


def test_no_text(refused):
    refused(b"PK\x03\x04\0\0\0", "is no text")
    refused("a,b\nä,1\n".encode("latin-1"), "UTF-8")


def test_duplicate_column_names(refused):
    refused("a,b,a\n1,2,3\n", "two columns are called 'a'")


def test_rows_with_too_many_values_are_counted(refused):
    refused("a,b\n1,2\n3,4,5\n6,7\n8,9,10,11\n", "2 row(s)", "2 values of the header", "line 3 has 3 values")


def test_rows_with_too_few_values_are_no_missing_values(refused):
    refused("a,b,c\n1,2,3\n4,5\n", "1 row(s)", "line 3 has 2 values")


def test_values_beyond_the_header_are_no_index(refused):
    refused("a,b\n1,2,3\n4,5,6\n", "2 row(s)", "line 2 has 3 values", separator=",")


def test_an_empty_value_behind_the_last_separator_is_none(read):
    assert read("a,b\n1,2,\n3,4,\n").to_numpy().tolist() == [[1, 2], [3, 4]]


def test_a_missing_value_at_the_end_is_no_short_row(read):
    assert read("a,b\n1,\n2,3\n")["b"].isna().tolist() == [True, False]


def test_numbers_with_some_text(refused, read):
    text = "a,b\n1,2\nbroken,3\n4,5\n"
    refused(text, "column 'a' mixes numbers and text", "'broken' in row 2", "--data.na_values")
    assert read(text, na_values=["broken"])["a"].isna().tolist() == [False, True, False]
    assert read(text, text=["a"])["a"].tolist() == ["1", "broken", "4"]


def test_text_with_some_numbers_is_categories(read):
    assert read("a,b\nx,2\ny,3\n4,5\n")["a"].tolist() == ["x", "y", "4"]


def test_a_quote_that_never_closes(refused):
    refused('a,b\n1,2\n"3,4\n5,6\n')


# Parquet ----------------------------------------------------------------------------------------------------------


def test_parquet_with_nullable_columns(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {
            "i": pd.array([1, None, 3], dtype="Int64"),
            "flag": pd.array([True, None, False], dtype="boolean"),
            "s": ["a", None, "b "],
            "c": pd.Categorical(["u", "v", "u"]),
            "y": [0.5, 1.5, 2.5],
        }
    )
    path = tmp_path / "my.parquet"
    frame.to_parquet(path)
    found = read_file(path)
    assert found["i"].isna().tolist() == [False, True, False]
    assert found["flag"].dtype == "boolean"
    assert found["s"].tolist()[2] == "b"
    assert found["c"].dtype == "str"
    assert read_file(path, na_values=["u"])["c"].isna().tolist() == [True, False, True]


def test_broken_parquet(refused):
    pytest.importorskip("pyarrow")
    refused(b"PAR1 and nothing else", "cannot be read as Parquet", name="my.parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "my.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(KANError, match=r"my\.parquet: Parquet needs pyarrow: pip install .kan-tabular\[parquet\]"):
        read_file(tmp_path / "my.parquet")


# Size -------------------------------------------------------------------------------------------------------------


def test_reading_takes_little_more_memory_than_the_table(tmp_path):
    """A table of 40 MB from 35 MB of text; several copies, or objects, would need hundreds."""
    rows, columns = 100_000, 50
    cells = np.random.default_rng(0).integers(48, 58, size=(rows, columns, 7), dtype=np.uint8)
    cells[:, :, 0], cells[:, :, -1], cells[:, -1, -1] = ord("."), ord(","), ord("\n")
    path = tmp_path / "large.csv"
    path.write_bytes((",".join(f"c{j}" for j in range(columns)) + "\n").encode() + cells.tobytes())
    del cells
    files.read_file(path).shape  # noqa: B018  (warm: what libraries load once is not the table's)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    frame = files.read_file(path)
    assert frame.shape == (rows, columns)
    assert set(frame.dtypes.astype(str)) == {"float64"}
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 120
