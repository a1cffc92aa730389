from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from builders import BODY, RESPONSES, World
from upath import UPath

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import BATCH_ROWS
from airflow_openai_batch.engine.requests.sources import source_of

ROWS = [{"id": "007", "text": "a"}, {"id": "8", "text": "b\u2028c\u0085d"}]


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UPath]:
    path = UPath(tmp_path) if request.param == "local" else UPath(f"memory://{uuid.uuid4().hex}")
    path.mkdir(parents=True, exist_ok=True)
    yield path
    if request.param == "memory":
        path.fs.rm(path.path, recursive=True)


def read(path: Any) -> list[dict[str, Any]]:
    return [row for batch in source_of(path, endpoint=RESPONSES).batches() for row in batch.to_pylist()]


def refusal(path: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    return str(caught.value)


def jsonl(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def test_a_parquet_file_is_read(folder: UPath) -> None:
    path = folder / "rows.parquet"
    with path.open("wb") as file:
        pd.DataFrame(ROWS).to_parquet(file)
    assert read(path) == ROWS


def test_a_csv_file_is_read_as_text(folder: UPath) -> None:
    path = folder / "rows.CSV"
    path.write_bytes('\ufeffid,zip,note\n1,01234,NA\n2,"5,6",\n'.encode())
    assert read(path) == [{"id": "1", "zip": "01234", "note": "NA"}, {"id": "2", "zip": "5,6", "note": ""}]


def test_a_jsonl_file_is_split_at_newlines_only(folder: UPath) -> None:
    path = folder / "rows.jsonl"
    path.write_bytes(b"\n" + jsonl(ROWS).replace(b"\n", b"\r\n\n"))
    assert read(path) == ROWS


def test_a_jsonl_file_may_lack_its_last_newline(folder: UPath) -> None:
    (folder / "rows.ndjson").write_bytes(jsonl(ROWS)[:-1])
    assert read(folder / "rows.ndjson") == ROWS


def test_a_text_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(jsonl(ROWS))
    assert read(str(tmp_path / "rows.jsonl")) == ROWS
    assert read((tmp_path / "rows.jsonl").as_uri()) == ROWS


def test_a_large_jsonl_file_comes_in_chunks_and_in_order(folder: UPath) -> None:
    path = folder / "rows.jsonl"
    path.write_bytes(jsonl([{"n": i, "pad": "x" * 100} for i in range(BATCH_ROWS + 10)]))
    found = list(source_of(path, endpoint=RESPONSES).batches())
    assert [b.num_rows for b in found] == [BATCH_ROWS, 10]
    assert [row["n"] for b in found for row in b.to_pylist()] == list(range(BATCH_ROWS + 10))


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_an_empty_file_has_no_rows(folder: UPath, name: str) -> None:
    (folder / name).write_bytes(b"")
    assert read(folder / name) == []


def test_a_csv_file_with_a_header_only_has_no_rows(folder: UPath) -> None:
    (folder / "rows.csv").write_bytes(b"a,b\n")
    assert read(folder / "rows.csv") == []


def test_the_line_that_is_not_json_is_numbered(folder: UPath) -> None:
    (folder / "rows.jsonl").write_bytes(b'{"a":1}\n\n{"a":\n')
    assert "line 3 is not JSON" in refusal(folder / "rows.jsonl")


def test_a_line_that_is_no_object_is_named(folder: UPath) -> None:
    (folder / "rows.jsonl").write_bytes(b'{"a":1}\n[1]\n')
    assert "row 1 is no dict but list" in refusal(folder / "rows.jsonl")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.parquet", b"PAR1 not really PAR1"),
        ("rows.csv", b"a,b\n1,2\n1,2,3\n"),
        ("rows.csv", b"a\n\xff\xfe\n"),
        ("rows.jsonl", b'{"a":"\xff"}\n'),
    ],
)
def test_a_spoilt_file_is_named(folder: UPath, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert name in refusal(folder / name)


def test_csv_rows_with_more_fields_than_the_header_never_shift_the_columns(folder: UPath) -> None:
    (folder / "rows.csv").write_bytes(b"id,text\n1,one,x\n2,two,y\n")
    assert "more fields than its header" in refusal(folder / "rows.csv")


def test_a_short_csv_row_has_empty_texts(folder: UPath) -> None:
    (folder / "rows.csv").write_bytes(b"id,text\n1\n2,two\n")
    assert read(folder / "rows.csv") == [{"id": "1", "text": ""}, {"id": "2", "text": "two"}]


def test_a_missing_file_is_said_before_anything_is_sent(folder: UPath) -> None:
    assert "no such file. Nothing was uploaded" in refusal(folder / "none.csv")
    with pytest.raises(InputError, match="no such file"):
        _ = source_of(folder / "none.csv", endpoint=RESPONSES).version


def test_a_directory_is_no_file(folder: UPath) -> None:
    (folder / "rows.parquet").mkdir()
    (folder / "rows.parquet" / "x").write_bytes(b"1")
    assert "is a directory" in refusal(folder / "rows.parquet")


@pytest.mark.parametrize("name", ["rows.txt", "rows", "parquet.rows"])
def test_an_unknown_ending_is_refused(folder: UPath, name: str) -> None:
    with pytest.raises(InputError, match=r"must end in \.parquet, \.csv or \.jsonl"):
        source_of(folder / name, endpoint=RESPONSES)


def test_the_version_of_a_file_changes_with_its_content_and_not_otherwise(folder: UPath) -> None:
    path = folder / "rows.csv"
    path.write_bytes(b"a\n1\n")
    one = source_of(path, endpoint=RESPONSES).version
    assert source_of(path, endpoint=RESPONSES).version == one
    path.write_bytes(b"a\n1\n2\n")
    other = source_of(path, endpoint=RESPONSES).version
    assert other != one
    path.write_bytes(b"a\n1\n3\n")  # the same size
    if "memory" not in str(path):
        os.utime(path.path, (1, 1))
    assert source_of(path, endpoint=RESPONSES).version not in (one, other)
    (folder / "copy.csv").write_bytes(b"a\n1\n3\n")
    assert source_of(folder / "copy.csv", endpoint=RESPONSES).version != source_of(path, endpoint=RESPONSES).version


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_rows_may_be_a_plain_path(world: World, tmp_path: Path, ending: str) -> None:
    frame = pd.DataFrame([{"id": "t0", "text": "a"}, {"id": "t1", "text": "b"}])
    path = tmp_path / f"rows.{ending}"
    save: dict[str, Any] = {
        "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        "csv": lambda: frame.to_csv(path, index=False),
        "parquet": lambda: frame.to_parquet(path),
    }
    save[ending]()
    world.ended(data=path)
    assert world.job.n_rows == 2 and world.job.source_version is not None
    world.submit(str(path))
    assert world.job.epoch == 0, "the same file as a text is the same source"


def test_a_plain_path_that_is_not_there_is_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        world.submit(tmp_path / "nothing.jsonl", body=BODY)


def long_rows(n: int = 400) -> list[dict[str, Any]]:
    """Rows of 100 kB, of which 40 MB would be one record batch if only rows were counted."""
    return [{"id": str(i), "text": f"{i} " + "word " * 20_000} for i in range(n)]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "dicts", "nested", "lines"])
def test_whole_documents_come_a_few_at_a_time(tmp_path: Path, kind: str) -> None:
    rows: list[dict[str, Any]] = long_rows()
    given: Any = UPath(tmp_path / f"rows.{kind}")
    if kind == "jsonl":
        given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        pd.DataFrame(rows).to_csv(given, index=False)
    elif kind == "parquet":
        pd.DataFrame(rows).to_parquet(given)
    elif kind == "nested":
        rows = [{"id": row["id"], "messages": [{"role": "user", "content": row["text"]}]} for row in rows]
    elif kind == "lines":
        rows = [
            {"custom_id": row["id"], "method": "POST", "url": RESPONSES, "body": BODY | {"input": row["text"]}}
            for row in rows
        ]
    if kind in ("dicts", "nested", "lines"):
        given = iter(rows).__iter__
    batches = list(source_of(given, endpoint=RESPONSES, ready=kind == "lines").batches())
    assert max(batch.nbytes for batch in batches) < 10 * 1024 * 1024
    assert sum(batch.num_rows for batch in batches) == len(rows)
    if kind not in ("lines", "nested"):
        assert [row for batch in batches for row in batch.to_pylist()] == rows
