import bz2
import gzip
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayesify.datasets.table import read_table, table_name
from bayesify.errors import DataError

FRAME = pd.DataFrame({"size": [1.5, 2.5, np.nan], "colour": ["red", "blue", "red"], "price": [3, 4, 5]})
XSS = "<script>alert(1)</script>"


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path) -> str:
    """The message; one line, and it names the file."""
    with pytest.raises(DataError) as caught:
        read_table(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "separator"),
    [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.csv", "|"), ("a.tsv", "\t"), ("a.txt", ";")],
)
def test_separators(tmp_path: Path, name: str, separator: str) -> None:
    path = write(tmp_path, name, FRAME.to_csv(index=False, sep=separator))
    pd.testing.assert_frame_equal(read_table(path), FRAME)


@pytest.mark.parametrize(
    ("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_compressed(tmp_path: Path, ending: str, pack) -> None:
    text = FRAME.to_csv(index=False).encode()
    pd.testing.assert_frame_equal(read_table(write(tmp_path, f"a.csv{ending}", pack(text))), FRAME)
    parquet = FRAME.to_parquet(index=False)
    pd.testing.assert_frame_equal(read_table(str(write(tmp_path, f"a.parquet{ending}", pack(parquet)))), FRAME)


def test_zip_of_one_table(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.md", "words")
        archive.writestr("a.csv", FRAME.to_csv(index=False))
    assert "ending (none)" in refusal(path)  # the name must say what is inside ...
    pd.testing.assert_frame_equal(read_table(path.rename(tmp_path / "a.csv.zip")), FRAME)  # ... as here
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "a") as archive:
        archive.writestr("b.csv", "x,y\n1,2\n")
    assert "holds 2 tables" in refusal(tmp_path / "a.csv.zip")


def test_quoted_fields_blank_lines_and_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", '\ufeff\n  \n"a\nb", c ,"d, e"\r\n1, x ,"p, q"\r\n\r\n   \r\n2,?,"r\ns"\r\n\r\n')
    frame = read_table(path)
    assert list(frame.columns) == ["a\nb", "c", "d, e"]
    assert frame["a\nb"].tolist() == [1, 2]
    assert frame["d, e"].tolist() == ["p, q", "r\ns"]
    assert frame["c"].isna().tolist() == [False, True]


def test_decimal_commas(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path, "a.csv", "a;b\n1,5;x\n-2,25;y\n"))
    assert frame["a"].tolist() == [1.5, -2.25]


def test_saved_index_and_hostile_name_are_columns(tmp_path: Path) -> None:
    frame = read_table(write(tmp_path, "a.csv", f",{XSS},y\n0,1,2\n1,3,4\n"))
    assert list(frame.columns) == ["Unnamed: 0", XSS, "y"]


def test_whole_number_names_are_a_header(tmp_path: Path) -> None:
    assert list(read_table(write(tmp_path, "a.csv", "0,1\n5,6\n7,8\n")).columns) == ["0", "1"]


def test_parquet_keeps_a_named_index(tmp_path: Path) -> None:
    FRAME.set_index(pd.Index([7, 8, 9], name="key")).to_parquet(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet")["key"].tolist() == [7, 8, 9]


@given(
    st.lists(
        st.tuples(st.integers(-(10**6), 10**6), st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]))),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(",;\t|"),
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str]], separator: str) -> None:
    words = [f"w{word}" for _, word in rows]  # a letter in front, so that no word reads as a number or as missing
    frame = pd.DataFrame({"number": [number for number, _ in rows], "word": words})
    path = tmp_path_factory.mktemp("trip") / "a.csv"
    frame.to_csv(path, index=False, sep=separator)
    pd.testing.assert_frame_equal(read_table(path), frame, check_dtype=False)


def test_missing_file_suggests_a_near_one(tmp_path: Path) -> None:
    write(tmp_path, "houses.csv", "a,b\n1,2\n")
    assert "Did you mean 'houses.csv'?" in refusal(tmp_path / "house.csv")
    assert "holds no table" in refusal(tmp_path / "nowhere" / "x.csv")


def test_directory(tmp_path: Path) -> None:
    write(tmp_path, "houses.csv", "a,b\n1,2\n")
    assert "is a directory" in refusal(tmp_path)
    assert "houses.csv" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["a.xlsx", "a.pkl", "a.npz", "a.json", "a", "a.gz"])
def test_wrong_file_type(tmp_path: Path, name: str) -> None:
    assert "cannot be read: save it as CSV" in refusal(write(tmp_path, name, "a,b\n1,2\n"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty (0 bytes)"),
        (b" \n\n", "is empty (3 bytes)"),
        (b"a,b\n", "a header but no row"),
        (b"a,b\n\n \n", "a header but no row"),
        (b"PAR1....", "Parquet file by content"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "binary data"),
        ("a,b\n1,2\n".encode("utf-16"), "UTF-16"),
        ("a,b\n1,2\n3,caf\xe9\n".encode("latin-1"), "byte 0xe9 in line 3"),
        (b"a,b,a,c,b,a\n1,2,3,4,5,6\n", "'a' (3 times), 'b' (2 times)"),
        (b"a, a\n1,2\n", "'a' (2 times)"),
        (b"a,b\n1,2\n3\n4,5,6\n7,8\n", "2 of 4 rows with another number of fields than the header's 2 (line 3 has 1)"),
        (b"a,b\n1,2,3\n4,5,6\n", "line 2 has 3"),
        (b"a\n1\n2\n", "one column ('a')"),
        (b"1.5,2\n1,2\n", "begins with a row of numbers"),
        (b"3,3\n1,2\n", "begins with a row of numbers"),
        (b'a,b\n1,"2\n3,4\n', "cannot be parsed at line 3"),
    ],
)
def test_refused_text(tmp_path: Path, content: bytes, words: str) -> None:
    message = refusal(write(tmp_path, "a.csv", content))
    assert words in message
    assert "'a.csv'" in message


@pytest.mark.parametrize(
    ("name", "pack"), [("a.csv.gz", gzip.compress), ("a.csv.bz2", bz2.compress), ("a.csv.xz", lzma.compress)]
)
def test_broken_compression(tmp_path: Path, name: str, pack) -> None:
    packed = pack(FRAME.to_csv(index=False).encode() * 50)
    assert "'a.csv" in refusal(write(tmp_path, name, packed[: len(packed) // 2]))
    assert "'a.csv" in refusal(write(tmp_path, name, b"a,b\n1,2\n"))
    assert "not a whole .zip" in refusal(write(tmp_path, "a.csv.zip", b"a,b\n1,2\n"))


def test_refused_parquet(tmp_path: Path) -> None:
    whole = FRAME.to_parquet()
    assert "not a Parquet file" in refusal(write(tmp_path, "a.parquet", whole[:-20]))
    assert "not a Parquet file" in refusal(write(tmp_path, "a.parquet", "a,b\n1,2\n"))
    assert "is empty" in refusal(write(tmp_path, "a.parquet", ""))
    assert "no row" in refusal(write(tmp_path, "a.parquet", FRAME.head(0).to_parquet()))


def test_duplicate_names_in_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "a.parquet")
    assert "'a' (2 times)" in refusal(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("path", "name"), [("x/houses.csv.gz", "houses"), ("houses.v2.parquet", "houses.v2"), (".csv", ".csv"), ("a", "a")]
)
def test_table_name(path: str, name: str) -> None:
    assert table_name(Path(path)) == name
