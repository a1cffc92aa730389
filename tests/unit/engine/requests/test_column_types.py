"""Columns whose types differ between files or chunks come back exactly, or are refused by row and column."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import World
from values_kit import returned

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.column_types import ColumnTypes

BIG = 2**60 + 1
DAY = datetime.datetime(2026, 1, 2, 3, 4, 5, 678900)  # noqa: DTZ001
LAST = datetime.datetime(9999, 12, 30)  # noqa: DTZ001
INT, FLOAT, NS, US = pa.int64(), pa.float64(), pa.timestamp("ns"), pa.timestamp("us")


def files(folder: Path, *columns: pa.Array) -> Path:
    for number, column in enumerate(columns):
        pq.write_table(pa.table({"v": column}), folder / f"{number}.parquet")
    return folder


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ([pa.array([BIG], INT), pa.array([None], FLOAT)], [BIG, None]),
        ([pa.array([None], FLOAT), pa.array([BIG], INT)], [None, BIG]),
        ([pa.array([7], INT), pa.array([1.5], FLOAT)], [7.0, 1.5]),
        ([pa.array([0.1], pa.float32()), pa.array([0.1], FLOAT)], [0.1, 0.1]),
        ([pa.array([2**63 + 5], pa.uint64()), pa.array([7], INT)], [2**63 + 5, 7]),
        ([pa.array([7], pa.uint64()), pa.array([-1], pa.int8())], [7, -1]),
        ([pa.array([2**32 - 1], pa.uint32()), pa.array([-1], pa.int32())], [2**32 - 1, -1]),
        ([pa.array([LAST], US), pa.array([None], NS)], ["9999-12-30T00:00:00", None]),
        ([pa.array([DAY], US), pa.array([DAY], NS)], [DAY.isoformat()] * 2),
        ([pa.array([1], pa.duration("s")), pa.array([1], pa.duration("ns"))], ["PT1S", "PT0.000000001S"]),
        ([pa.array(["a"]).dictionary_encode(), pa.array(["b"])], ["a", "b"]),
        ([pa.array(["a"], pa.string_view()), pa.array(["b"], pa.large_string())], ["a", "b"]),
        (
            [pa.array([decimal.Decimal("1.20")]), pa.array([decimal.Decimal("12345.678")]), pa.array([7])],
            ["1.200", "12345.678", "7.000"],
        ),
        ([pa.array([[1]]), pa.array([["a", None]])], [[1], ["a", None]]),
        ([pa.array([[BIG]]), pa.array([[0.5]])], [[BIG], [0.5]]),
        ([pa.array([{"a": 1}]), pa.array([{"a": None, "b": "x"}])], [{"a": 1, "b": None}, {"a": None, "b": "x"}]),
        ([pa.array([datetime.date(2026, 1, 2)], pa.date64()), pa.array([None], pa.date32())], ["2026-01-02", None]),
    ],
    ids=lambda value: ", ".join(str(column.type) for column in value) if isinstance(value[0], pa.Array) else "",
)
def test_columns_of_several_files_come_back_exactly(
    world: World, tmp_path: Path, columns: list[pa.Array], expected: list[Any]
) -> None:
    (tmp_path / "in").mkdir()
    assert returned(world, str(files(tmp_path / "in", *columns))) == expected


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ([pa.array([1, BIG], INT), pa.array([0.5], FLOAT)], 1),
        ([pa.array([0.5], FLOAT), pa.array([1, -BIG], INT)], 2),
        ([pa.array([2**63 + 5], pa.uint64()), pa.array([-1], INT)], 0),
        ([pa.array([DAY, LAST], US), pa.array([DAY], NS)], 1),
        ([pa.array([DAY], NS), pa.array([DAY, LAST], US)], 2),
        ([pa.array([10**12], pa.duration("s")), pa.array([1], pa.duration("ns"))], 0),
    ],
    ids=lambda value: ", ".join(str(column.type) for column in value) if isinstance(value, list) else "",
)
def test_what_no_type_holds_is_refused_by_row_and_column(
    world: World, tmp_path: Path, columns: list[pa.Array], row: int
) -> None:
    with pytest.raises(
        InputError, match=rf"{len(columns) - 1}\.parquet.*column 'v' changes .*widest is in row {row}\)"
    ):
        world.submit(str(files(tmp_path, *columns)), custom_id=None, body={"model": "m", "input": "i"})
    assert world.api.made == {}


@pytest.mark.parametrize(
    "columns",
    [
        [pa.array(["a"]), pa.array([1])],
        [pa.array([True]), pa.array([1])],
        [pa.array([datetime.date(2026, 1, 2)]), pa.array([DAY])],
        [pa.array([DAY]), pa.array([DAY], pa.timestamp("us", "UTC"))],
        [pa.array([decimal.Decimal("1.2")]), pa.array([1.5])],
    ],
    ids=lambda columns: ", ".join(str(column.type) for column in columns),
)
def test_types_that_do_not_go_together_are_refused(columns: list[pa.Array]) -> None:
    types = ColumnTypes()
    types.add(pa.record_batch({"v": columns[0]}), 0)
    with pytest.raises(InputError, match="From row 5 on, column 'v' changes its type"):
        types.add(pa.record_batch({"v": columns[1]}), 5)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0, 2**60]).cast(US),
        pa.array([0, -(2**57)]).cast(US),
        pa.array([0, 2**30], pa.int32()).cast(pa.date32()),
    ],
    ids=["year 38503", "year -2599", "date"],
)
def test_times_that_nobody_can_read_are_refused(column: pa.Array) -> None:
    with pytest.raises(InputError, match="row 11, column 'v': the time lies outside of the years 1 to 9999"):
        ColumnTypes().add(pa.record_batch({"v": column}), 10)


def test_a_column_without_values_has_the_type_that_is_said_first() -> None:
    types = ColumnTypes()
    for column in (pa.nulls(1), pa.array([None], FLOAT), pa.nulls(1)):
        types.add(pa.record_batch({"v": column}), 0)
    assert types.schema.field("v").type == FLOAT


def test_rows_that_were_paid_for_by_an_older_version_come_back_as_text() -> None:
    types = ColumnTypes(or_text=True)
    for column in (pa.array([BIG]), pa.array([0.5]), pa.array(["a"]), pa.array([DAY])):
        types.add(pa.record_batch({"v": column}), 0)
    assert types.schema.field("v").type == pa.large_string()


@pytest.mark.parametrize("names", [["\u00e9t\u00e9", "e\u0301te\u0301"], ["\u1e69", "s\u0323\u0307"]])
def test_columns_whose_names_look_the_same_are_refused(names: list[str]) -> None:
    types = ColumnTypes()
    types.add(pa.record_batch({names[0]: ["a"]}), 0)
    with pytest.raises(InputError, match="in two Unicode forms"):
        types.add(pa.record_batch({names[1]: ["a"]}), 1)
