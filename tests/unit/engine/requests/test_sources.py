from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from builders import RESPONSES

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import BATCH_ROWS
from airflow_openai_batch.engine.requests.sources import source_of

ROWS = [{"id": "007", "text": "a"}, {"id": "8", "text": "b\u2028c"}]


def read(rows: Any) -> list[dict[str, Any]]:
    return [row for batch in source_of(rows, endpoint=RESPONSES).batches() for row in batch.to_pylist()]


def version(rows: Any) -> str | None:
    return source_of(rows, endpoint=RESPONSES).version


def frames() -> Iterator[pd.DataFrame]:
    yield pd.DataFrame(ROWS[:1])
    yield pd.DataFrame(ROWS[1:])


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        tuple(ROWS),
        pd.DataFrame(ROWS),
        pd.DataFrame(ROWS, index=["x", "y"]),
        pa.Table.from_pylist(ROWS),
        lambda: ROWS,
        lambda: iter(ROWS),
        lambda: pd.DataFrame(ROWS),
        lambda: list(frames()),
        frames,
    ],
    ids=["list", "tuple", "pandas", "indexed", "arrow", "call-list", "call-iter", "call-frame", "call-frames", "gen"],
)
def test_rows_in_memory_come_out_as_they_are(rows: Any) -> None:
    assert read(rows) == ROWS


def test_a_frame_with_columns_named_open_and_name_is_a_frame() -> None:
    assert read(pd.DataFrame({"open": [1.5], "name": ["ACME"]})) == [{"open": 1.5, "name": "ACME"}]


def test_a_generator_of_frames_is_never_held_as_a_whole() -> None:
    alive = 0

    def tables() -> Iterator[pa.Table]:
        nonlocal alive
        for _ in range(5):
            alive += 1
            yield pa.Table.from_pylist(ROWS)

    next(source_of(tables, endpoint=RESPONSES).batches())
    assert alive == 1


def test_many_rows_come_in_order_and_in_chunks() -> None:
    found = list(source_of(lambda: ({"n": i} for i in range(BATCH_ROWS * 2 + 1)), endpoint=RESPONSES).batches())
    assert [batch.num_rows for batch in found] == [BATCH_ROWS, BATCH_ROWS, 1]
    assert [row["n"] for batch in found for row in batch.to_pylist()] == list(range(BATCH_ROWS * 2 + 1))


def test_missing_values_of_a_frame_are_null() -> None:
    assert read(pd.DataFrame({"t": ["a", None], "n": [1.5, float("nan")]})) == [
        {"t": "a", "n": 1.5},
        {"t": None, "n": None},
    ]


def test_keys_that_some_dicts_lack_are_null() -> None:
    assert read([{"a": 1}, {"b": 2}]) == [{"a": 1, "b": None}, {"a": None, "b": 2}]


def test_a_column_that_is_empty_at_first_gets_the_type_of_the_later_rows() -> None:
    assert read([{"a": None}] * 5000 + [{"a": "x"}])[-1] == {"a": "x"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"a": 1}, ["a"]], "row 1 is no dict but list"),
        ([{"a": 1}, {2: 1}], "row 1: column names must be texts"),
        ([{}, {}], "row 0 has no columns"),
        ([{"a": 1}, {"a": "x"}], r"Column 'a' cannot be stored as one type: it holds int \(row 0\), str \(row 1\)"),
        ([{"a": 1}, {"a": 2**70}], "row 1, column 'a': a whole number of 22 digits is too large"),
        ([{"a": "x"}, {"a": "y\ud800"}], "row 1, column 'a': the text holds half of a surrogate pair.*at character 1"),
        ([{"a": {"b": "\ud800"}}], "row 0, column 'a': cannot be written as JSON"),
        ([{"b\ud800": 1}], "row 0: the column name .* holds half of a surrogate pair"),
        ({"a": 1}, "rows must be a list of dicts.* not dict"),
        (17, "rows must be a list of dicts.* not int"),
        ({"a", "b"}, "rows must be a list of dicts"),
        (lambda: {"a": 1}, "must return or yield dicts, it returned dict"),
        (lambda: None, "it returned NoneType"),
        (lambda: "rows", "it returned str"),
    ],
)
def test_bad_rows_are_named(rows: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(rows)


def test_rows_without_any_key_are_null_after_others() -> None:
    rows = [{"a": "x", "b": 1}] * BATCH_ROWS + [{}]
    assert read(lambda: iter(rows))[-1] == {"a": None, "b": None}


@pytest.mark.parametrize("rows", [[], pd.DataFrame({"a": []}), list, pa.table({})])
def test_empty_inputs_have_no_rows(rows: Any) -> None:
    assert read(rows) == []


# -- versions --------------------------------------------------------------------------------------------------------


def test_the_version_of_rows_in_memory_is_their_content() -> None:
    assert version(ROWS) == version([dict(row) for row in ROWS])
    others = [ROWS[:1], ROWS[::-1], [{**ROWS[0], "text": "A"}, ROWS[1]], [{"id": "007", "texts": "a"}, ROWS[1]]]
    assert len({version(rows) for rows in [ROWS, *others]}) == 5


def test_the_version_of_a_table_does_not_depend_on_how_it_is_chunked() -> None:
    whole = pa.Table.from_pylist(ROWS * 10)
    assert version(whole) == version(pa.concat_tables([whole.slice(0, 3), whole.slice(3)]))


def test_a_callable_has_no_version() -> None:
    assert version(lambda: ROWS) is None


def test_a_source_can_be_read_twice() -> None:
    source = source_of(ROWS, endpoint=RESPONSES)
    assert [b.to_pylist() for b in source.batches()] == [b.to_pylist() for b in source.batches()]


def test_ready_made_lines_are_checked_and_taken() -> None:
    lines = [{"custom_id": "a", "method": "POST", "url": RESPONSES, "body": {"model": "m", "input": "x"}}]
    [batch] = source_of(lines, endpoint=RESPONSES, ready=True).batches()
    assert list(batch.to_pylist()[0].values()) == ["a", b'{"model":"m","input":"x"}']


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"url": RESPONSES, "body": {}}, "row 0 is no request line.*custom_id"),
        ({"custom_id": 1, "url": RESPONSES, "body": {}}, "row 0 is no request line"),
        ({"custom_id": "a", "url": RESPONSES, "body": "{}"}, "row 0 is no request line"),
        ({"custom_id": "a", "url": "/v1/chat/completions", "body": {}}, "row 0: must be POST /v1/responses"),
        ({"custom_id": "a", "url": RESPONSES, "method": "GET", "body": {}}, "row 0: must be POST"),
    ],
)
def test_bad_ready_made_lines_are_named(line: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(source_of([line], endpoint=RESPONSES, ready=True).batches())


@pytest.mark.parametrize("rows", [pd.DataFrame({"custom_id": ["a"], "body": ["b"]}), frames], ids=["frame", "frames"])
def test_ready_made_lines_are_no_table(rows: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a table"):
        list(source_of(rows, endpoint=RESPONSES, ready=True).batches())
    with pytest.raises(InputError, match=r"come in a \.jsonl file"):
        source_of(str(tmp_path / "x.csv"), endpoint=RESPONSES, ready=True)
