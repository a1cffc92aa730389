"""Data frames and Arrow tables: each type is sent and comes back as people see it, or is refused by name."""

from __future__ import annotations

import datetime
import decimal
import math
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from builders import RESPONSES, World
from values_kit import returned, sent, sent_as_json

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import BATCH_ROWS, json_column
from airflow_openai_batch.engine.requests.bodies import bodies_of
from airflow_openai_batch.engine.requests.sources import source_of
from airflow_openai_batch.engine.requests.tables import from_python

TIMES = pd.to_datetime(["2026-01-15 06:00", "2026-02-15 00:00"])
OF_PANDAS: dict[str, tuple[Any, list[Any]]] = {
    "period": (TIMES.to_period("M"), ["2026-01", "2026-02"]),
    "quarter": (TIMES.to_period("Q"), ["2026Q1", "2026Q1"]),
    "cut": (pd.cut([0.5, 1.5], [0, 1, 3]), ["(0, 1]", "(1, 3]"]),
    "interval": (pd.arrays.IntervalArray.from_breaks([0.0, 0.5, 1.0], closed="left"), ["[0.0, 0.5)", "[0.5, 1.0)"]),
    "category": (pd.Categorical(["a", None]), ["a", None]),
    "category of periods": (pd.Categorical(TIMES.to_period("M")), ["2026-01", "2026-02"]),
    "category of numbers": (pd.Categorical([7, 8]), [7, 8]),
    "sparse": (pd.arrays.SparseArray([0, 1]), [0, 1]),
    "nullable": (pd.array([1, None], dtype="Int64"), [1, None]),
    "boolean": (pd.array([True, None], dtype="boolean"), [True, None]),
    "arrow": (pd.array([decimal.Decimal("1.20"), None], dtype=pd.ArrowDtype(pa.decimal128(5, 2))), ["1.20", None]),
    "float32": (np.array([0.1, 2.5], dtype=np.float32), [0.1, 2.5]),
    "nanoseconds": (TIMES.astype("datetime64[ns]"), ["2026-01-15T06:00:00", "2026-02-15T00:00:00"]),
    "microseconds": (TIMES.astype("datetime64[us]"), ["2026-01-15T06:00:00", "2026-02-15T00:00:00"]),
    "zone": (TIMES.tz_localize("Europe/Berlin"), ["2026-01-15T06:00:00+01:00", "2026-02-15T00:00:00+01:00"]),
    "duration": (pd.to_timedelta([90, 5], unit="s"), ["PT90S", "PT5S"]),
    "objects": (pd.Series([{"a": {}}, [1, None]], dtype=object), [{"a": {}}, [1, None]]),
}


@pytest.mark.parametrize("name", OF_PANDAS)
def test_what_pandas_shows_is_sent_and_comes_back(world: World, name: str) -> None:
    values, expected = OF_PANDAS[name]
    frame = pd.DataFrame({"v": values})
    assert sent_as_json(frame) == [1.2 if value == "1.20" else value for value in expected]
    assert returned(world, frame) == expected


@pytest.mark.parametrize("name", ["period", "quarter", "interval"])
def test_parquet_that_pandas_has_written_shows_the_same_without_pandas(tmp_path: Path, name: str) -> None:
    pd.DataFrame({"v": OF_PANDAS[name][0]}).to_parquet(tmp_path / "in.parquet")
    # In a process that has not imported pandas, Arrow does not know pandas' types, and gives what they are stored as.
    code = (
        "from airflow_openai_batch.engine.requests.sources import source_of;"
        f"batches = source_of({str(tmp_path / 'in.parquet')!r}, endpoint={RESPONSES!r}).batches();"
        "print([batch.column('v').to_pylist() for batch in batches])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([OF_PANDAS[name][1]])


def test_intervals_of_time_and_missing_ones() -> None:
    bins = pd.arrays.IntervalArray.from_breaks(pd.to_datetime(["2026-01-01", "2026-01-02", "2026-01-03"]))
    shown = [str(value) for value in bins]
    frame = pd.DataFrame({"v": bins})
    table = pa.Table.from_pandas(frame)
    assert sent(frame) == sent(table) == shown
    assert sent(pd.DataFrame({"v": pd.arrays.IntervalArray([pd.Interval(0, 1), None])})) == ["(0.0, 1.0]", ""]
    assert sent(pd.DataFrame({"v": pd.array([pd.Period("2026-01", "M"), pd.NaT])})) == ["2026-01", ""]


NO_TEXT = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
"""A text that is no UTF-8."""
ONE = uuid.UUID(int=1)
OF_ARROW: list[tuple[pa.Array, list[Any]]] = [
    (pa.array([ONE.bytes, None], pa.uuid()), [str(ONE), None]),
    (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([2, None], pa.int8())), [True, None]),
    (json_column(['{"b": 1.50, "a": null}', None]), [{"b": 1.5, "a": None}, None]),
    (pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32())), [{"k": 1}, None]),
    (pa.array([[(1, ["x"])], []], pa.map_(pa.int32(), pa.list_(pa.string()))), [{"1": ["x"]}, {}]),
    (
        pa.array([{"m": [("k", 0.5)]}, None], pa.struct([("m", pa.map_(pa.string(), pa.float64()))])),
        [{"m": {"k": 0.5}}, None],
    ),
    (pc.run_end_encode(pa.array([1, 1])), [1, 1]),
    (pa.array([7, None]).dictionary_encode(), [7, None]),
    (pa.array(["a", None]).dictionary_encode(), ["a", None]),
    (pa.array([[1, 2]], pa.list_(pa.int32(), 2)), [[1, 2]]),
    (pa.array([0.1, None], pa.float16()), [0.1, None]),
    (pa.array([1, None], pa.time64("ns")), ["00:00:00.000000001", None]),
    (pa.array([1_000, None], pa.time64("ns")), ["00:00:00.000001", None]),
    (pa.array([1, None], pa.timestamp("ns", "UTC")), ["1970-01-01T00:00:00.000000001Z", None]),
    (pa.array([1, None], pa.timestamp("s", "UTC")), ["1970-01-01T00:00:01Z", None]),
    (pa.array([b"hi", None]), ["aGk=", None]),
    (pa.nulls(2), [None, None]),
    (pa.array([{}, None], pa.struct([])), [{}, None]),
    (pa.array([{"a": {}}, None]), [{"a": {}}, None]),
]
if int(pa.__version__.partition(".")[0]) > 21:  # which refuses to store them, and so does this package
    OF_ARROW.append((pa.array([[1, None]], pa.list_view(pa.int32())), [[1, None]]))


@pytest.mark.parametrize(("column", "expected"), OF_ARROW, ids=[str(column.type) for column, _ in OF_ARROW])
def test_what_arrow_holds_is_sent_and_comes_back(world: World, column: pa.Array, expected: list[Any]) -> None:
    table = pa.table({"v": column})
    assert sent_as_json(table) == expected
    assert returned(world, table) == expected


def test_decimals_are_numbers_as_json_with_all_their_digits() -> None:
    digits = decimal.Decimal("12345678901234567890.12345")
    assert sent(pa.table({"v": [digits]})) == [str(digits)]
    table = pa.table({"v": [decimal.Decimal("1.20")], "many": [[decimal.Decimal("0.10")]]})
    assert sent_as_json(table) == [1.2]
    assert sent(table, "{many}") == ["[0.10]"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([(1, 2, 3)], pa.month_day_nano_interval()), "Column 'v' has the type month_day_nano_interval"),
        (pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])]), "Column 'v' has the type sparse_union"),
        (
            pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((1, 2, 2))),
            r"Column 'v' has the type arrow\.fixed_shape_tensor",
        ),
        (pa.ListArray.from_arrays([0, 1], pa.array([ONE.bytes], pa.uuid())), "Column 'v' has the type list<"),
        (pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int32())), "row 0, column 'v': .*same key twice"),
        (pa.array([[1.0, math.inf]]), "row 0, column 'v': .*an infinite number"),
        (json_column(["{"]), "row 0, column 'v': cannot be read as"),
        (NO_TEXT, r"row 0, column 'v': .*not valid UTF-8"),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_what_cannot_be_shown_is_refused_by_name(column: pa.Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sent(pa.table({"v": column}))


def test_a_column_that_is_no_text_is_refused_though_nobody_uses_it(world: World, tmp_path: Path) -> None:
    texts = pa.concat_arrays([pa.array(["a"] * 5000), NO_TEXT])
    pq.write_table(
        pa.table({"id": list(map(str, range(5001))), "text": ["x"] * 5001, "other": texts}), tmp_path / "a.parquet"
    )
    with pytest.raises(InputError, match=r"a\.parquet.*row 5000, column 'other'"):
        world.submit(str(tmp_path / "a.parquet"))


def test_infinity_is_sent_as_text_and_refused_as_json(world: World) -> None:
    rows = pd.DataFrame({"v": [math.inf, -math.inf, 0.5]})
    assert sent(rows) == ["inf", "-inf", "0.5"]
    with pytest.raises(InputError, match=r"row 0, column 'v': .*an infinite number"):
        sent_as_json(rows)
    with pytest.raises(InputError, match="row 0: the body holds an infinite number"):
        world.submit(rows, body=lambda row: {"model": "m", "input": "i", "temperature": row["v"]}, custom_id=None)
    assert returned(world, rows) == ["inf", "-inf", 0.5]


def test_a_required_value_that_cannot_be_written_is_refused_by_row_and_column() -> None:
    table = pa.table({"v": pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int32()))})
    [batch] = source_of(table, endpoint=RESPONSES).batches()
    with pytest.raises(InputError, match=r"row 7, column 'v': .*same key twice"):
        bodies_of({"model": "m", "input": "{v!json}"}, RESPONSES).render(batch, 7)


def test_the_index_of_a_frame_is_a_column_if_it_has_a_name() -> None:
    frame = pd.DataFrame({"v": ["a", "b"], "n": [1, 2]})
    for indexed, names in [
        (frame, ["v", "n"]),
        (frame.set_index("n"), ["v", "n"]),
        (frame.set_index(["n", "v"]).assign(x=1), ["x", "n", "v"]),
        (frame.loc[[1, 0]], ["v", "n"]),
    ]:
        assert [b.schema.names for b in source_of(indexed, endpoint=RESPONSES).batches()] == [names]


def test_a_type_of_a_frame_that_cannot_be_stored_is_named() -> None:
    with pytest.raises(InputError, match=r"Column 'v' of the data frame has the type complex128"):
        sent(pd.DataFrame({"v": [1j]}))


def test_rows_of_later_frames_are_counted_on() -> None:
    def frames() -> Any:
        yield pd.DataFrame({"v": ["a", "b"]})
        yield pd.DataFrame({"v": pd.Series(["c", "\ud800"], dtype=object)})

    with pytest.raises(InputError, match="row 3, column 'v'"):
        sent(frames)


def test_times_of_the_day_before_python_are_refused_where_they_are_used() -> None:
    years = pa.array([datetime.datetime(2026, 1, 2), None]).cast(pa.int64())  # noqa: DTZ001
    far = pa.concat_arrays([years, pa.array([2**60])]).cast(pa.timestamp("us"))
    with pytest.raises(InputError, match="row 2, column 'v'"):
        sent(pa.table({"v": far}))


@pytest.mark.parametrize("value", ["a", 1, 0.5, True, {"a": 1}, [1, 2], b"x", datetime.date(2026, 1, 2)], ids=str)
def test_a_column_without_values_for_a_while_keeps_its_type(value: Any) -> None:
    """Else each such while would be a file of its own."""
    n = 3 * BATCH_ROWS
    rows = ({"id": i, "rare": value if i // BATCH_ROWS != 1 else None} for i in range(n))
    batches = list(from_python(rows, endpoint=RESPONSES, ready=False))
    assert [batch.num_rows for batch in batches] == [BATCH_ROWS] * 3
    assert len({str(batch.schema) for batch in batches}) == 1
    assert batches[1].column("rare").null_count == BATCH_ROWS


def test_a_column_that_has_no_value_at_first_gets_its_type_later() -> None:
    rows = ({"id": i, "rare": "x" if i >= BATCH_ROWS else None} for i in range(3 * BATCH_ROWS - 1))
    batches = list(from_python(rows, endpoint=RESPONSES, ready=False))
    assert [str(batch.schema.field("rare").type) for batch in batches] == ["null", "string", "string"]
