from __future__ import annotations

import csv
import datetime
import decimal
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from upath import UPath

from airflow_openai_batch.engine.errors import InputError, StoreError
from airflow_openai_batch.engine.requests.arrow import json_column
from airflow_openai_batch.engine.requests.values import decimal_text, json_rows
from airflow_openai_batch.engine.results.sinks import FileSink, ListSink

ROWS: list[dict[str, Any]] = [
    {"id": "007", "text": 'a,"b"\n\u2028', "n": 1, "x": 1.5, "ok": True, "list": ["a"], "map": {"k": None}},
    {"id": "8", "text": None, "n": None, "x": None, "ok": None, "list": None, "map": None},
]


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UPath]:
    path = UPath(tmp_path / "new") if request.param == "local" else UPath(f"memory://{uuid.uuid4().hex}")
    yield path
    if request.param == "memory" and path.exists():
        path.fs.rm(path.path, recursive=True)


def write(path: UPath, rows: list[dict[str, Any]] = ROWS, dead: tuple[bytes, ...] = ()) -> FileSink:
    batch = pa.RecordBatch.from_pylist(rows)
    with FileSink(path) as sink:
        sink.begin(batch.schema)
        sink.write(batch.slice(0, 1))
        sink.write(batch.slice(1))
        for text in dead:
            sink.dead_letter(text)
        sink.finish()
    return sink


def test_parquet_is_read_back_with_its_types(folder: UPath) -> None:
    write(folder / "x.parquet")
    with (folder / "x.parquet").open("rb") as file:
        assert pa.parquet.read_table(file).to_pylist() == ROWS


def test_jsonl_is_read_back(folder: UPath) -> None:
    write(folder / "x.jsonl")
    data = (folder / "x.jsonl").read_bytes()
    assert [json.loads(text) for text in data.split(b"\n") if text] == ROWS
    with (folder / "x.jsonl").open("rb") as file:
        assert pd.read_json(file, lines=True, dtype={"id": str})["id"].tolist() == ["007", "8"]


def test_csv_is_read_back(folder: UPath) -> None:
    write(folder / "x.csv")
    with (folder / "x.csv").open("rb") as file:
        found = pd.read_csv(file, dtype=str, keep_default_na=False).to_dict("records")
    assert found == [
        {
            "id": "007",
            "text": ROWS[0]["text"],
            "n": "1",
            "x": "1.5",
            "ok": "True",
            "list": '["a"]',
            "map": '{"k":null}',
        },
        {"id": "8", "text": "", "n": "", "x": "", "ok": "", "list": "", "map": ""},
    ]


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_an_empty_table_is_a_file_with_its_columns(folder: UPath, ending: str) -> None:
    with FileSink(folder / f"x.{ending}") as sink:
        sink.begin(pa.schema([("a", pa.string())]))
        sink.finish()
    assert (folder / f"x.{ending}").exists()


def half_written(sink: FileSink, batch: pa.RecordBatch) -> None:
    sink.begin(batch.schema)
    sink.write(batch)
    raise ZeroDivisionError


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv"])
def test_what_was_not_finished_never_appears(folder: UPath, ending: str) -> None:
    batch = pa.RecordBatch.from_pylist(ROWS)
    with pytest.raises(ZeroDivisionError), FileSink(folder / f"x.{ending}") as sink:
        half_written(sink, batch)
    assert not folder.exists() or not list(folder.iterdir())


def test_a_second_run_replaces_the_table_and_the_dead_letter(folder: UPath) -> None:
    path, dead = folder / "x.jsonl", folder / "x.jsonl.dead_letter.jsonl"
    sink = write(path, dead=(b"\xff one", b"two"))
    assert dead.read_bytes() == b"\xff one\ntwo\n"
    assert (sink.dead_letter_uri, sink.n_dead_letter) == (str(dead), 2)
    assert write(path, ROWS[:1]).dead_letter_uri is None
    assert not dead.exists() and len(path.read_bytes().splitlines()) == 1
    assert [p.name for p in folder.iterdir()] == ["x.jsonl"]


@pytest.mark.parametrize("name", ["x.txt", "x", "x.parquet.gz"])
def test_an_unknown_ending_is_refused(folder: UPath, name: str) -> None:
    with pytest.raises(InputError, match=r"must end in \.parquet, \.jsonl, \.csv"):
        FileSink(folder / name)


def test_a_place_that_cannot_be_written_says_that_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"No answer is lost.*nothing is paid again"):
        write(UPath(tmp_path / "file" / "x.csv"))


ODD = {
    "date": datetime.date(2026, 1, 2),
    "time": datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC),
    "pause": datetime.timedelta(seconds=90),
    "money": decimal.Decimal("1.20"),
    "bytes": b"hi",
    "nan": float("nan"),
}


def test_values_that_json_does_not_know_are_written_as_text(tmp_path: Path) -> None:
    write(UPath(tmp_path / "x.jsonl"), [ODD])
    found = json.loads((tmp_path / "x.jsonl").read_bytes())
    assert (found["date"], found["money"], found["bytes"], found["nan"]) == ("2026-01-02", "1.20", "aGk=", None)
    assert found["time"].startswith("2026-01-02T03:04:00") and found["pause"] == "PT90S"
    write(UPath(tmp_path / "x.csv"), [ODD])
    cells = pd.read_csv(tmp_path / "x.csv", dtype=str).iloc[0]
    assert (cells["date"], cells["money"], cells["bytes"]) == ("2026-01-02", "1.20", "aGk=")


def test_a_list_is_plain_json(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pylist([*ROWS])
    with ListSink() as sink:
        sink.begin(batch.schema)
        sink.write(batch)
        sink.finish()
    assert sink.rows == ROWS == json.loads(json.dumps(sink.rows))


def test_a_list_has_a_limit_over_all_its_parts() -> None:
    batch = pa.RecordBatch.from_pylist([{"a": "x" * 60}])
    sink = ListSink(max_bytes=150)
    sink.write(batch)
    sink.write(batch)
    with pytest.raises(InputError, match="larger than 150 bytes"):
        sink.write(batch)


FINE = pa.record_batch(
    {
        "at": pa.array([1_500_000_000_000_000_000], pa.timestamp("ns")),
        "ns": pa.array([1], pa.timestamp("ns", "UTC")),
        "took": pa.array([90_000_000_001], pa.duration("ns")),
        "float": pa.array([0.1], pa.float32()),
        "most": pa.array([float("inf")]),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        "json": json_column(['{"b": 1.50, "a": null}']),
    }
)
SHOWN = {
    "at": "2017-07-14T02:40:00",
    "ns": "1970-01-01T00:00:00.000000001Z",
    "took": "PT90.000000001S",
    "float": 0.1,
    "most": "inf",
    "map": {"k": 1},
    "json": {"b": 1.5, "a": None},
}


def test_fine_values_are_the_same_in_json_and_csv(tmp_path: Path) -> None:
    for name in ("x.jsonl", "x.csv"):
        with FileSink(UPath(tmp_path / name)) as sink:
            sink.begin(FINE.schema)
            sink.write(FINE)
            sink.finish()
    text = (tmp_path / "x.jsonl").read_text()
    assert json.loads(text) == SHOWN
    assert '{"b": 1.50, "a": null}' in text
    cells = pd.read_csv(tmp_path / "x.csv", dtype=str).iloc[0]
    assert cells["took"] == SHOWN["took"]
    assert (cells["at"], cells["float"], cells["most"]) == (SHOWN["at"], "0.1", "inf")
    assert (cells["map"], cells["json"]) == ('{"k":1}', '{"b": 1.50, "a": null}')


def test_parquet_has_json_columns_as_texts(tmp_path: Path) -> None:
    with FileSink(UPath(tmp_path / "x.parquet")) as sink:
        sink.begin(FINE.schema)
        sink.write(FINE)
        sink.finish()
    found = pa.parquet.read_table(tmp_path / "x.parquet")
    assert found.schema.field("json").type == pa.large_string()
    assert found.drop(["json"]).equals(pa.Table.from_batches([FINE]).drop(["json"]))


def test_times_of_older_jobs_that_python_has_not_are_written(tmp_path: Path) -> None:
    far = pa.record_batch({"at": pa.array([2**58, None]).cast(pa.timestamp("us"))})
    with ListSink() as sink:
        sink.begin(far.schema)
        sink.write(far)
    assert [row["at"] for row in sink.rows] == ["11103-08-29 17:22:31.711744", None]


FORMULAS = [
    "=1+1",
    "+49 30",
    "- a bullet",
    "@sum",
    "\tx",
    "\rx",
    "'=1",
    "''",
    "'quoted'",
    "-5",
    "+1.5e3",
    "a=b",
    "",
    None,
]


def csv_cells(path: UPath, *, quote: bool) -> tuple[list[str], int]:
    batch = pa.RecordBatch.from_pylist([{"n": n, "text": text} for n, text in enumerate(FORMULAS, -3)])
    with FileSink(path, quote_formulas=quote) as sink:
        sink.begin(batch.schema)
        sink.write(batch)
        sink.finish()
    with path.open(newline="") as file:
        return [row["text"] for row in csv.DictReader(file)], sink.n_formulas


def test_csv_keeps_texts_that_look_like_formulas_and_counts_them(tmp_path: Path) -> None:
    assert csv_cells(UPath(tmp_path / "x.csv"), quote=False) == ([text or "" for text in FORMULAS], 7)


def test_a_text_that_was_marked_as_no_formula_can_be_read_back(tmp_path: Path) -> None:
    cells, n_formulas = csv_cells(UPath(tmp_path / "x.csv"), quote=True)
    assert n_formulas == 7
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@\t\r") and cell not in ("-5", "+1.5e3")]
    assert cells[:2] == ["'=1+1", "'+49 30"]
    assert [re.sub(r"^'(?='*[=+\-@\t\r])", "", cell) for cell in cells] == [text or "" for text in FORMULAS]


def test_other_formats_have_texts_as_they_are(tmp_path: Path) -> None:
    path = UPath(tmp_path / "x.jsonl")
    with FileSink(path, quote_formulas=True) as sink:
        batch = pa.RecordBatch.from_pylist([{"text": "=1"}])
        sink.begin(batch.schema)
        sink.write(batch)
        sink.finish()
    assert json.loads(path.read_bytes()) == {"text": "=1"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0E-12", "0"),
        ("1.00000E-7", "0.000000100000"),
        ("0.000004250000", "0.000004250000"),
        ("1.20", "1.20"),
        ("0.00", "0.00"),
        ("1E+3", "1000"),
    ],
)
def test_decimals_are_written_as_people_write_them(value: str, text: str) -> None:
    assert decimal_text(decimal.Decimal(value)) == text


def test_costs_of_nothing_and_of_next_to_nothing_are_plain_in_every_text_format() -> None:
    costs = pa.array([decimal.Decimal("0"), decimal.Decimal("0.0000001"), None], pa.decimal128(18, 12))
    rows = list(json_rows(pa.RecordBatch.from_arrays([costs], ["cost"])))
    assert rows == [b'{"cost":"0"}', b'{"cost":"0.000000100000"}', b'{"cost":null}']
