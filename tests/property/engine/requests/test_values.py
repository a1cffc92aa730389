"""Random tables from every source: what is sent and what comes back is what a naive oracle says, or the job is refused.

The oracle knows nothing of the engine: each kind of column says what a person sees of a value, as JSON.
"""

from __future__ import annotations

import base64
import csv
import datetime
import decimal
import json
import re
import tempfile
import unicodedata
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from builders import KEY, World, answer
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.results.sinks import FileSink, ListSink
from airflow_openai_batch.engine.results.writer import write_results
from airflow_openai_batch.engine.store.job_store import JobStore

REQUESTS = "airflow_openai_batch.engine.requests"
NAMES = ["text", "_x1", "имя", "名前", "é", "e\u0301t\u0301", "नाम", "ชื่อ", "V", "status", "output"]
texts = st.text(max_size=8) | st.sampled_from(["", '"', "\\", "{text}", "null", "NaN", "\u2028", "1", "a,b\n"])
integers = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 2**53 + 1, 2**60 + 1])
floats = st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | floats | texts
nested = st.recursive(
    st.lists(leaves, max_size=3) | st.dictionaries(texts, leaves, max_size=3),
    lambda inner: st.lists(inner | leaves, max_size=3) | st.dictionaries(texts, inner | leaves, max_size=3),
    max_leaves=5,
)


class Kind(NamedTuple):
    """A kind of column: its Arrow type, its values in Python, and what a person sees of one."""

    type: Any
    values: st.SearchStrategy[Any]
    shown: Callable[[Any], Any] = lambda value: value


def _whole(bits: int, signed: bool) -> Kind:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return Kind(
        getattr(pa, f"{'' if signed else 'u'}int{bits}")(), st.integers(low, high) | st.sampled_from([low, high])
    )


def _moment(unit: str, zone: str | None) -> Kind:
    ns = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[unit]
    low, high = (-(2**62), 2**62) if unit == "ns" else (-62_000_000_000 * 10**9 // ns, 253_000_000_000 * 10**9 // ns)
    return Kind(pa.timestamp(unit, zone), st.integers(low, high), lambda ticks: ("moment", ticks * ns, zone))


def _pause(unit: str) -> Kind:
    ns = {"s": 10**9, "us": 10**3, "ns": 1}[unit]
    return Kind(pa.duration(unit), st.integers(-(2**52), 2**52), lambda ticks: ("pause", ticks * ns))


KINDS = {
    **{f"{'' if s else 'u'}int{b}": _whole(b, s) for b in (8, 16, 32, 64) for s in (True, False)},
    "float64": Kind(pa.float64(), floats),
    "float32": Kind(
        pa.float32(), st.floats(width=32, allow_nan=False, allow_infinity=False), lambda v: float(str(np.float32(v)))
    ),
    "bool": Kind(pa.bool_(), st.booleans()),
    "string": Kind(pa.string(), texts),
    "large": Kind(pa.large_string(), texts),
    "category": Kind(pa.dictionary(pa.int32(), pa.string()), texts),
    "binary": Kind(pa.binary(), st.binary(max_size=5), lambda value: base64.b64encode(value).decode()),
    "decimal": Kind(pa.decimal128(12, 3), st.decimals(-(10**8), 10**8, places=3), lambda value: ("decimal", value)),
    "wide decimal": Kind(
        pa.decimal128(20, 1), st.decimals(-(10**18), 10**18, places=1), lambda value: ("decimal", value)
    ),
    "date": Kind(
        pa.date32(), st.dates(datetime.date(2, 1, 1), datetime.date(9998, 1, 1)), lambda value: value.isoformat()
    ),
    **{f"moment {u} {z}": _moment(u, z) for u in ("s", "us", "ns") for z in (None, "UTC")},
    **{f"pause {u}": _pause(u) for u in ("s", "us", "ns")},
    "list": Kind(pa.list_(pa.int64()), st.lists(integers | st.none(), max_size=3)),
    "list of texts": Kind(pa.list_(pa.string()), st.lists(texts, max_size=3)),
    "struct": Kind(
        pa.struct([("a", pa.int64()), ("b", pa.string())]),
        st.fixed_dictionaries({"a": integers | st.none(), "b": texts | st.none()}),
    ),
    "map": Kind(pa.map_(pa.string(), pa.int64()), st.dictionaries(texts, integers, max_size=3)),
    "uuid": Kind(pa.uuid(), st.uuids(), str),
}


class Column(NamedTuple):
    """A column of one file: its kind, and its values."""

    kind: str
    values: list[Any]

    @property
    def array(self) -> pa.Array:
        kind = KINDS[self.kind]
        values = [
            v.bytes if isinstance(v, uuid.UUID) else list(v.items()) if self.kind == "map" and v is not None else v
            for v in self.values
        ]
        if pa.types.is_dictionary(kind.type):
            return pa.array(values, pa.string()).dictionary_encode()
        return pa.array(values, kind.type)

    @property
    def shown(self) -> list[Any]:
        return [None if value is None else KINDS[self.kind].shown(value) for value in self.values]


# -- the oracle --------------------------------------------------------------------------------------------------------


def means(got: Any, shown: Any, *, as_text: bool = False) -> bool:
    """Return whether a JSON value, or a text in a prompt, is what a person sees of a value."""
    if isinstance(shown, tuple):
        word, value, *zone = shown
        if word == "decimal":
            return decimal.Decimal(str(got)) == value or (
                not as_text and isinstance(got, float) and got == float(value)
            )
        return _ns_of_moment(got, zone[0]) == value if word == "moment" else _ns_of_pause(got) == value
    if shown is None:
        return got == "" if as_text else got is None
    if not as_text or isinstance(shown, str):
        return same(got, shown)
    return same(json.loads(got), shown)


def same(got: Any, shown: Any) -> bool:
    """Return whether two JSON values are equal: 1 is 1.0 where a column has floats, and true is never 1.

    Beside decimals, which are texts in results, a whole number is one too.
    """
    if isinstance(got, str) and isinstance(shown, int):
        return re.fullmatch(r"-?\d+\.0+", got) is not None and decimal.Decimal(got) == shown
    if isinstance(shown, dict):
        return isinstance(got, dict) and got.keys() == shown.keys() and all(same(got[k], shown[k]) for k in shown)
    if isinstance(shown, list):
        return isinstance(got, list) and len(got) == len(shown) and all(map(same, got, shown))
    return bool(got == shown) and isinstance(got, bool) == isinstance(shown, bool)


def _ns_of_moment(text: str, zone: str | None) -> int:
    assert text.endswith(("Z", "+00:00")) == (zone is not None), text
    whole, _, fraction = text.removesuffix("Z").removesuffix("+00:00").partition(".")
    seconds = (datetime.datetime.fromisoformat(whole) - datetime.datetime(1970, 1, 1)) // datetime.timedelta(seconds=1)  # noqa: DTZ001
    return seconds * 10**9 + int(fraction.ljust(9, "0") or 0)


def _ns_of_pause(text: str) -> int:
    found = re.fullmatch(r"(-?)P(?:(\d+)D)?(?:T(\d+)(?:\.(\d+))?S)?", text)
    assert found, text
    sign, days, seconds, fraction = found.groups()
    total = (int(days or 0) * 86_400 + int(seconds or 0)) * 10**9 + int((fraction or "").ljust(9, "0"))
    return -total if sign else total


def without_nulls(shown: Any) -> Any:
    """Return what a struct of Arrow is as JSON in a request: without keys that it has not."""
    return {k: v for k, v in shown.items() if v is not None} if isinstance(shown, dict) else shown


# -- the jobs ----------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """What a job sent for each row, and its result rows."""

    sent: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    world: World


def run(world: World, data: Any, names: Sequence[str]) -> Run | str:
    """Return what a job does, or the message with which it was refused before anything was sent."""
    fields = {f"t{i}": f"{{{name}}}" for i, name in enumerate(names)}
    fields |= {f"j{i}": f"{{{name}!json}}" for i, name in enumerate(names)}
    try:
        world.ended(answer, data, body={"model": "m", "input": "i", "metadata": fields}, custom_id=None)
    except InputError as error:
        return "" if world.api.made else str(error)
    sink = ListSink(max_bytes=1 << 30)
    write_results(world.store, world.job, sink)
    asked = [request for name in world.api.made for request in world.api.requests(name)]
    return Run([request["body"]["metadata"] for request in asked], sink.rows, world)


def result_name(name: str) -> str:
    return f"input_{name}" if name in ("status", "output") else name


def check(done: Run, names: Sequence[str], shown: list[list[Any]], *, is_typed: bool) -> None:
    n_rows = len(shown[0])
    assert len(done.sent) == len(done.rows) == n_rows
    for i, name in enumerate(names):
        for row in range(n_rows):
            value = shown[i][row]
            assert means(done.rows[row][result_name(name)], value), (name, row)
            assert means(done.sent[row][f"t{i}"], value, as_text=True), (name, row)
            assert means(done.sent[row][f"j{i}"], without_nulls(value) if is_typed else value), (name, row)


def worlds() -> tuple[tempfile.TemporaryDirectory[str], World]:
    folder = tempfile.TemporaryDirectory()
    return folder, World(JobStore(UPath(folder.name) / "store", KEY))


names_of_columns = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)


@st.composite
def typed_files(draw: st.DrawFn) -> tuple[list[str], list[list[Column]]]:
    """Return column names, and for each of one to three files its columns, whose kinds may differ from file to file."""
    names = draw(names_of_columns)
    files = []
    kinds = [draw(st.sampled_from(sorted(KINDS))) for _ in names]
    for _ in range(draw(st.integers(1, 3))):
        n_rows = draw(st.integers(1, 4))
        columns = []
        for i, _ in enumerate(names):
            kinds[i] = draw(st.sampled_from([kinds[i], kinds[i], draw(st.sampled_from(sorted(KINDS)))]))
            values = st.lists(KINDS[kinds[i]].values | st.none(), min_size=n_rows, max_size=n_rows)
            columns.append(Column(kinds[i], draw(values)))
        files.append(columns)
    return names, files


def is_mixed(files: list[list[Column]], i: int) -> bool:
    return len({columns[i].kind for columns in files}) > 1


@settings(max_examples=60)
@given(typed_files())
def test_columns_of_parquet_files_come_back_or_are_refused_by_name(drawn: tuple[list[str], list[list[Column]]]) -> None:
    names, files = drawn
    folder, world = worlds()
    with folder:
        place = Path(folder.name) / "in"
        place.mkdir()
        for number, columns in enumerate(files):
            table = pa.table({name: column.array for name, column in zip(names, columns, strict=True)})
            pq.write_table(table, place / f"{number}.parquet")
        done = run(world, str(place), [unicodedata.normalize("NFC", name) for name in names])
        if isinstance(done, str):
            assert any(is_mixed(files, i) and f"column {name!r}" in done for i, name in enumerate(names)), done
            assert re.search(r"[Ff]rom row \d+", done)
            return
        shown = [[value for columns in files for value in columns[i].shown] for i in range(len(names))]
        check(done, names, shown, is_typed=True)


SIMPLE = {
    "text": texts,
    "int": integers,
    "float": floats,
    "bool": st.booleans(),
    "nested": nested,
    "nested or plain": nested | leaves,
}


@st.composite
def python_rows(draw: st.DrawFn) -> tuple[list[str], list[dict[str, Any]]]:
    """Return column names and rows as JSON has them, in which some keys are absent."""
    names = draw(names_of_columns)
    kinds = {name: draw(st.sampled_from(sorted(SIMPLE))) for name in names}
    n_rows = draw(st.integers(1, 7))
    rows = []
    for i in range(n_rows):
        row = {name: draw(SIMPLE[kinds[name]] | st.none()) for name in names}
        rows.append({name: value for name, value in row.items() if i == 0 or value is not None or draw(st.booleans())})
    return names, rows


@settings(max_examples=60)
@given(python_rows(), st.sampled_from(["dicts", "jsonl", "frame", "callable", "frames"]), st.integers(1, 4))
def test_rows_of_python_and_json_come_back(
    drawn: tuple[list[str], list[dict[str, Any]]], route: str, chunk: int
) -> None:
    names, rows = drawn
    folder, world = worlds()
    with folder, patch(f"{REQUESTS}.tables.BATCH_ROWS", chunk), patch(f"{REQUESTS}.sources.BATCH_ROWS", chunk):
        path = Path(folder.name) / "in.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

        def frame(some: list[dict[str, Any]]) -> pd.DataFrame:
            return pd.DataFrame({name: pd.Series([row.get(name) for row in some], dtype=object) for name in names})

        data: Any = {
            "dicts": rows,
            "jsonl": str(path),
            "frame": frame(rows),
            "callable": lambda: iter(rows),
            "frames": lambda: [frame(rows[i : i + chunk]) for i in range(0, len(rows), chunk)],
        }[route]
        shown = [[row.get(name) for row in rows] for name in names]
        done = run(world, data, names)
        if isinstance(done, str):
            assert "row" in done
            assert any(
                _cannot_be_one(values) and repr(name) in done for name, values in zip(names, shown, strict=True)
            ), done
            return
        check(done, names, shown, is_typed=False)
        out = Path(folder.name) / "out.jsonl"
        write_results(world.store, world.job, FileSink(UPath(out)))
        assert [json.loads(line) for line in out.read_bytes().splitlines()] == done.rows


def _cannot_be_one(values: list[Any]) -> bool:
    """Return whether plain values cannot be one column, for which only nested ones are an excuse."""
    kinds = {type(value) for value in values if value is not None}
    is_too_large = any(isinstance(value, int) and not -(2**63) <= value < 2**63 for value in values)
    return len(kinds) > 1 or is_too_large


@settings(max_examples=40)
@given(
    st.data(),
    names_of_columns,
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_texts_of_csv_files_come_back(draw: st.DataObject, names: list[str], delimiter: str, quoting: int) -> None:
    from airflow_openai_batch.options import CsvFile

    cell = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6) | texts
    rows = draw.draw(st.lists(st.lists(cell, min_size=len(names), max_size=len(names)), min_size=1, max_size=6))
    folder, world = worlds()
    with folder:
        path = Path(folder.name) / "in.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=delimiter, quoting=quoting).writerows([names, *rows])
        data: Any = path if delimiter == "," else CsvFile(path, delimiter=delimiter)
        done = run(world, data, names)
        if isinstance(done, str):
            assert re.search(r"line \d+: quotes follow backslashes", done), done
            assert any("\\" in field for row in rows for field in row)
            return
        check(done, names, [list(column) for column in zip(*rows, strict=True)], is_typed=False)
