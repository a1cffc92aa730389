"""CSV files are read as they were meant, or refused with the line and what to write instead."""

from __future__ import annotations

import csv
import datetime
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from builders import RESPONSES, World
from values_kit import returned

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.csv_files import CsvFile
from airflow_openai_batch.engine.requests.sources import source_of


def read(folder: Path, text: str | bytes, **dialect: Any) -> list[list[Any]]:
    path = folder / "rows.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    rows = CsvFile(path, **dialect) if dialect else path
    return [list(row.values()) for batch in source_of(rows, endpoint=RESPONSES).batches() for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a\n1\n\n2\n", [["1"], [""], ["2"]]),
        ('a\n""\n1\n', [[""], ["1"]]),
        ("a,b\n1,2\n\n3,4\n", [["1", "2"], ["3", "4"]]),
        ("a,b\r\n1,2\r\n", [["1", "2"]]),
        ('a,b\n"1\n2","x ""y"" z"\n', [["1\n2", 'x "y" z']]),
        ('a,b\n"C:\\dir\\",2\n', [["C:\\dir\\", "2"]]),
        ('a,b\n"{""say"": ""\\""hi\\"" ""}",2\n', [['{"say": "\\"hi\\" "}', "2"]]),
        ("a,b\n1,2", [["1", "2"]]),
        ("a,b\n" + "x" * 200_000 + ",2\n", [["x" * 200_000, "2"]]),
    ],
)
def test_plain_files(tmp_path: Path, text: str, rows: list[list[str]]) -> None:
    assert read(tmp_path, text) == rows


def test_no_row_of_an_empty_value_is_lost(world: World, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("v\na\n\nb\n")
    assert returned(world, str(tmp_path / "in.csv")) == ["a", "", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('id,text\n1,"He said \\"hi\\" to me"\n', r"line 2: .*backslash escapes quotes.*escape="),
        ('id,text,n\n1,x,y\n1,"a\\",b"\n', r"line 3: quotes follow backslashes.*escape="),
        ('id,text\n1,5\\" screen\n', r"line 2: quotes follow backslashes"),
        ('id,text\n1,"a"b\n', "line 2: .*must be doubled"),
        ('id,text\n1,"never\nends\n', "line 2: .*quoted fields must end"),
        ("id;text\n1;x\n", r"its header is one column, 'id;text'.*CsvFile\(path, delimiter=';'\)"),
        ("id\ttext\n1\tx\n", r"delimiter='\\t'"),
        ("a,a\n1,2\n", "several columns named 'a'"),
        ("a,b\n1,2\n1,2,3\n", "row 1: its rows have more fields than its header: 3 instead of 2"),
        (b"a\n1\n\xe9\n", r"the file is not utf-8.*encoding='cp1252'"),
    ],
)
def test_what_could_be_read_wrong_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=r"rows\.csv") as caught:
        read(tmp_path, text)
    assert re.search(message, str(caught.value)), caught.value


@pytest.mark.parametrize(
    ("text", "dialect", "rows"),
    [
        ('a,b\n1,"He said \\"hi\\" to me"\n', {"escape": "\\"}, [["1", 'He said "hi" to me']]),
        ('a,b\n1,"x\\",y"\n', {"escape": "\\"}, [["1", 'x",y']]),
        ('a,b\n1,"C:\\dir \\\\ \\N"\n', {"escape": "\\"}, [["1", "C:\\dir \\ \\N"]]),
        ("a;b\n1,5;x\n", {"delimiter": ";"}, [["1,5", "x"]]),
        ("a|b\n'x|y'|z\n", {"delimiter": "|", "quote": "'"}, [["x|y", "z"]]),
        ("a\tb\n1\t2\n", {"delimiter": "\t"}, [["1", "2"]]),
        (b"a\n\xe9\n", {"encoding": "latin-1"}, [["\u00e9"]]),
        ("\ufeffa\n1\n".encode("utf-16"), {"encoding": "utf-16"}, [["1"]]),
    ],
)
def test_other_dialects(tmp_path: Path, text: str | bytes, dialect: dict[str, Any], rows: list[list[str]]) -> None:
    assert read(tmp_path, text, **dialect) == rows


def test_columns_may_have_types(tmp_path: Path) -> None:
    types = {"n": "int", "x": "float", "ok": "bool", "day": "date", "at": "datetime", "tags": "json", "zip": "text"}
    text = ",".join(types) + '\n7,1.5,true,2026-01-02,2026-01-02T03:04:05,"[1, {}]",01\n,,,,,,\n'
    found, empty = read(tmp_path, text, types=types)
    day = datetime.date(2026, 1, 2)
    assert found == [7, 1.5, True, day, datetime.datetime(2026, 1, 2, 3, 4, 5), "[1, {}]", "01"]  # noqa: DTZ001
    assert empty == [None] * 6 + [""]


@pytest.mark.parametrize("type_name", ["int", "float", "bool", "date", "datetime", "json"])
def test_a_value_of_another_type_is_refused_by_row_and_column(tmp_path: Path, type_name: str) -> None:
    with pytest.raises(InputError, match=rf"row 4097, column 'v': the value cannot be read as {type_name}") as caught:
        read(tmp_path, "v,w\n" + ",x\n" * 4097 + "patient Jane,x\n", types={"v": type_name})
    assert "Jane" not in str(caught.value)


def test_a_type_of_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"types names 'nr', which the header has not\. Columns: n"):
        read(tmp_path, "n\n1\n", types={"nr": "int"})


@pytest.mark.parametrize(
    "dialect", [{"delimiter": ";;"}, {"quote": ""}, {"escape": "xx"}, {"types": {"a": "number"}}], ids=str
)
def test_a_dialect_that_cannot_be_is_refused_when_it_is_written(dialect: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="CsvFile: "):
        CsvFile("rows.csv", **dialect)


def test_a_dialect_holds_for_many_files_whatever_their_names_end_in(tmp_path: Path) -> None:
    for number in range(2):
        folder = tmp_path / f"day={number}"
        folder.mkdir()
        (folder / "rows.txt").write_text(f"a;b\n{number};x\n")
    source = source_of(CsvFile(str(tmp_path / "day=*" / "*.txt"), delimiter=";"), endpoint=RESPONSES)
    rows = [row for batch in source.batches() for row in batch.to_pylist()]
    assert rows == [{"a": "0", "b": "x", "day": "0"}, {"a": "1", "b": "x", "day": "1"}]


def test_another_dialect_is_another_version_of_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a\n1\n")
    ways: list[Any] = [
        path,
        CsvFile(path, escape="\\"),
        CsvFile(path, types={"a": "int"}),
        CsvFile([path], types={"a": "int"}),
    ]
    assert source_of(CsvFile(path), endpoint=RESPONSES).version == source_of(path, endpoint=RESPONSES).version
    assert len({source_of(rows, endpoint=RESPONSES).version for rows in ways}) == 4


def test_what_csv_and_pandas_write_is_read_back(tmp_path: Path) -> None:
    texts = ["", " x ", '"', 'a"b', "a,b", "a\nb", "a\r\nb", "NA", "null", "\u2028", "\\", "a\\,b", "é", "\t"]
    with (tmp_path / "one.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["v"], *([text] for text in texts)])
    pd.DataFrame({"v": texts, "n": "x"}).to_csv(tmp_path / "two.csv", index=False)
    for name in ("one.csv", "two.csv"):
        batches = source_of(str(tmp_path / name), endpoint=RESPONSES).batches()
        assert [text for batch in batches for text in batch.column("v").to_pylist()] == texts
