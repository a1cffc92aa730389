from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from builders import RESPONSES
from upath import UPath

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.files import FilesSource, names_files, partition_columns
from airflow_openai_batch.engine.requests.sources import FileSource, source_of


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UPath]:
    path = UPath(tmp_path) if request.param == "local" else UPath(f"memory://{uuid.uuid4().hex}")
    path.mkdir(parents=True, exist_ok=True)
    yield path
    if request.param == "memory":
        path.fs.rm(path.path, recursive=True)


@pytest.fixture
def lake(folder: UPath) -> UPath:
    """Two days of part files, as Spark leaves them."""
    for number, name in enumerate(["day=1/part-10", "day=1/part-2", "day=2/part-1"]):
        write(folder / f"{name}.parquet", [number * 10, number * 10 + 1])
    for name in ["_SUCCESS", "day=1/.part-2.parquet.crc", "day=1/_metadata/x.parquet"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"no rows")
    return folder


def write(path: UPath, ids: list[int], **columns: list[Any]) -> UPath:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        pd.DataFrame({"id": ids, **columns}).to_parquet(file)
    return path


def source(rows: Any) -> FilesSource:
    return FilesSource(rows, lambda path: FileSource(path, endpoint=RESPONSES, ready=False))


def read(rows: Any) -> list[Any]:
    return [row["id"] for batch in source(rows).batches() for row in batch.to_pylist()]


def refusal(rows: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(rows)
    return str(caught.value)


def test_a_pattern_reads_its_files_by_name(lake: UPath) -> None:
    assert read(lake / "day=1" / "part-*.parquet") == [0, 1, 10, 11]
    assert read(lake / "day=*" / "part-?.parquet") == [10, 11, 20, 21]
    assert read(lake / "**" / "*.parquet") == [0, 1, 10, 11, 20, 21]


def test_a_directory_stands_for_all_files_below_it_but_hidden_ones(lake: UPath) -> None:
    assert read(lake) == [0, 1, 10, 11, 20, 21]
    assert read(lake / "day=2") == [20, 21]


def test_a_list_is_read_in_its_own_order_and_may_hold_patterns(lake: UPath) -> None:
    assert read([lake / "day=2" / "part-1.parquet", lake / "day=1" / "*.parquet"]) == [20, 21, 0, 1, 10, 11]


def columns(rows: Any, name: str) -> list[Any]:
    return [row[name] for batch in source_of(rows, endpoint=RESPONSES).batches() for row in batch.to_pylist()]


@pytest.mark.parametrize(
    "rows", ["", "day=*/part-*.parquet", "**/*.parquet"], ids=["directory", "pattern", "any depth"]
)
def test_folders_of_partitions_are_columns(lake: UPath, rows: str) -> None:
    assert columns(lake / rows if rows else lake, "day") == ["1", "1", "1", "1", "2", "2"]


def test_a_single_file_has_its_partitions_too_and_its_own_columns_win(folder: UPath) -> None:
    path = write(folder / "day=1" / "hour=05" / "a.parquet", [1], day=["own"])
    assert columns(path, "hour") == ["05"]
    assert columns(path, "day") == ["own"]
    (folder / "kind=x").mkdir()
    (folder / "kind=x" / "a.jsonl").write_bytes(b'{"id": 1}\n{"id": 2}\n')
    (folder / "kind=x" / "a.csv").write_bytes(b"id\n1\n")
    assert columns(folder / "kind=x" / "a.jsonl", "kind") == ["x", "x"]
    assert columns(folder / "kind=x" / "a.csv", "kind") == ["x"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s3://lake/t/day=2026-01-01/part-0.parquet", {"day": "2026-01-01"}),
        ("s3://lake/a=1/b=x%3Ay%20z/0.csv", {"a": "1", "b": "x:y z"}),
        ("lake/day=__HIVE_DEFAULT_PARTITION__/0.csv", {"day": None}),
        ("lake/day=/a=b=c/0.csv", {"day": "", "a": "b=c"}),
        ("lake/=1/x/day=1.csv", {}),
    ],
)
def test_how_hive_names_partitions(path: str, expected: dict[str, str | None]) -> None:
    assert partition_columns(Path(path)) == expected


def test_ready_made_lines_have_no_partition_columns(folder: UPath) -> None:
    (folder / "day=1").mkdir()
    line = b'{"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"model": "m", "input": "i"}}\n'
    (folder / "day=1" / "a.jsonl").write_bytes(line)
    [batch] = source_of(folder / "day=1" / "a.jsonl", endpoint=RESPONSES, ready=True).batches()
    assert "day" not in batch.schema.names


def test_texts_are_paths(lake: UPath) -> None:
    assert read(str(lake / "day=1" / "*.parquet")) == [0, 1, 10, 11]
    assert read([str(lake / "day=2" / "part-1.parquet")]) == [20, 21]


def test_a_file_with_the_name_of_a_pattern_is_a_file(folder: UPath) -> None:
    write(folder / "a[1].parquet", [1])
    write(folder / "a1.parquet", [2])
    assert read(folder / "a[1].parquet") == [1]


def test_files_without_rows_are_no_obstacle(lake: UPath) -> None:
    write(lake / "day=1" / "part-1.parquet", [])
    (lake / "c").mkdir()
    (lake / "c" / "1.jsonl").write_bytes(b"")
    (lake / "c" / "2.jsonl").write_bytes(b'{"id": 7}\n')
    assert read(lake / "day=1") == [0, 1, 10, 11]
    assert read(lake / "c" / "*.jsonl") == [7]


def test_what_is_not_there_is_said(lake: UPath) -> None:
    (lake / "empty").mkdir(exist_ok=True)
    write(lake / "empty" / "_only_hidden.parquet", [1])
    assert "no file has a name like this" in refusal(lake / "day=3" / "*.parquet")
    assert "no such file" in refusal([lake / "day=1" / "absent.parquet"])
    assert "no file in this directory" in refusal(lake / "empty")
    assert "empty text" in refusal([""])


def test_a_file_named_twice_would_be_paid_for_twice(lake: UPath) -> None:
    path = lake / "day=1" / "part-2.parquet"
    assert "paid for, twice" in refusal([path, lake / "day=1" / "*.parquet"])


def test_a_directory_of_several_kinds_wants_a_pattern(lake: UPath) -> None:
    (lake / "day=1" / "part-2.parquet.dead_letter.jsonl").write_bytes(b"{}\n")
    assert "(jsonl, parquet)" in refusal(lake)
    assert read(lake / "day=1" / "*.parquet") == [0, 1, 10, 11]


def test_an_unknown_ending_is_named(lake: UPath) -> None:
    (lake / "day=2" / "rows.xlsx").write_bytes(b"")
    assert "rows.xlsx" in refusal(lake / "day=2" / "*.xlsx")


def test_a_file_that_lacks_a_column_is_named(folder: UPath) -> None:
    write(folder / "1.parquet", [1], text=["a"])
    write(folder / "2.parquet", [2], text=["b"], note=["later files may have more"])
    assert read(folder / "*.parquet") == [1, 2]
    write(folder / "3.parquet", [3], note=["c"])
    told = refusal(folder / "*.parquet")
    assert "3.parquet" in told
    assert "lacks 'text'" in told


def test_a_row_of_jsonl_may_leave_out_what_it_does_not_have(folder: UPath) -> None:
    (folder / "1.jsonl").write_bytes(b'{"id": 1, "note": "x"}\n')
    (folder / "2.jsonl").write_bytes(b'{"id": 2}\n')
    assert read(folder / "*.jsonl") == [1, 2]


def test_a_file_with_other_types_is_named(folder: UPath) -> None:
    write(folder / "1.parquet", [1], size=[1])
    write(folder / "2.parquet", [2], size=[1.5])  # whole numbers and fractions go together
    write(folder / "3.parquet", [3], size=["large"])
    assert "3.parquet" in refusal(folder)
    assert "column types" in refusal(folder)


def test_the_version_changes_with_any_file_and_with_their_number(lake: UPath) -> None:
    pattern = lake / "**" / "*.parquet"
    before = source(pattern).version
    assert before == source(pattern).version
    assert len(before) < 100
    write(lake / "day=1" / "part-2.parquet", [5, 6, 7])
    changed = source(pattern).version
    write(lake / "day=3" / "part-1.parquet", [8])
    assert len({before, changed, source(pattern).version}) == 3


def test_a_file_that_is_only_rewritten_has_another_version(tmp_path: Path) -> None:
    path = write(UPath(tmp_path) / "a.parquet", [1])
    before = source([path]).version
    os.utime(tmp_path / "a.parquet", ns=(1, 1))
    assert source([path]).version != before


def test_files_are_listed_once_so_that_version_and_rows_are_of_the_same(lake: UPath) -> None:
    files = source(lake / "day=1" / "*.parquet")
    assert files.version.startswith("files:2|")
    write(lake / "day=1" / "part-3.parquet", [99])
    assert [row for batch in files.batches() for row in batch.column("id").to_pylist()] == [0, 1, 10, 11]


@pytest.mark.parametrize(
    ("rows", "is_files"),
    [
        ("s3://lake/rows.parquet", False),
        ("s3://lake/rows-*.parquet", True),
        (["s3://lake/rows.parquet"], True),
        (["rows.CSV", Path("day=1"), "s3://lake/day=1", "gs://conn@lake/day 1/*.jsonl"], True),
        (["Please label this ticket."], False),
        (["first.csv\nis the name of a file"], False),
        ([{"id": 1}], False),
        ([], False),
        (["rows.parquet", {"id": 1}], False),
        (pd.DataFrame({"open": [1], "name": [2]}), False),
        ([pd.DataFrame({"open": [1], "name": [2]})], False),
        (list, False),
    ],
    ids=str,
)
def test_what_names_files(rows: Any, is_files: bool) -> None:
    assert names_files(rows) is is_files


def test_a_directory_is_known_by_what_it_is(lake: UPath) -> None:
    assert names_files(lake / "day=1")
    assert names_files(str(lake / "day=1"))
    assert not names_files(lake / "day=3")
    assert not names_files(lake / "_SUCCESS")


def test_a_storage_that_cannot_be_reached_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = UPath(tmp_path / "day=1")

    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route")

    for name in ("info", "isdir", "exists"):
        monkeypatch.setattr(type(path.fs), name, fail)
    assert names_files(path)
    assert "cannot be reached: ConnectionError('no route')" in refusal(path)
    assert "cannot be reached" in refusal(path / "*.parquet")


def test_the_rows_parameter_takes_lists_patterns_and_directories(lake: UPath) -> None:
    for rows, ids in [
        (lake / "day=1" / "*.parquet", [0, 1, 10, 11]),
        (str(lake / "day=2"), [20, 21]),
        ([str(lake / "day=2" / "part-1.parquet"), lake / "day=1" / "part-2.parquet"], [20, 21, 10, 11]),
    ]:
        read = source_of(rows, endpoint=RESPONSES)
        assert [row["id"] for batch in read.batches() for row in batch.to_pylist()] == ids
