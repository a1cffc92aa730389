"""Columns become the values that Arrow itself would make of them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from airflow_openai_batch.engine.requests.values import python_values, values_of

MOMENTS = [1_767_270_601, None, 1_782_864_000, -2_203_891_200]
"""Seconds since 1970: in winter, in summer, and in a year in which zones had odd offsets."""


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin", "+02:00", "America/New_York"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_moments_are_those_that_arrow_makes(unit: str, zone: str | None) -> None:
    column = pa.array(MOMENTS, pa.timestamp("s", zone)).cast(pa.timestamp(unit, zone))
    for part in (column, column.slice(1, 2), column.slice(1, 1)):
        found, expected = python_values(part), part.to_pylist()
        assert found == expected
        assert list(map(type, found)) == list(map(type, expected))
        assert [value and value.isoformat() for value in found] == [value and value.isoformat() for value in expected]
        zones = [[value and (value.tzname(), value.utcoffset()) for value in values] for values in (found, expected)]
        assert zones[0] == zones[1]


def test_a_year_that_python_does_not_have_is_an_error_as_arrow_raises_it() -> None:
    with pytest.raises(OverflowError):
        python_values(pa.array([2**62], pa.int64()).cast(pa.timestamp("us")))


def test_other_columns_are_as_arrow_has_them() -> None:
    for column in (pa.array([1, None]), pa.array(["a", None]), pa.array([{"a": [1]}, None]), pa.array([0.5])):
        assert python_values(column) == column.to_pylist()


def test_a_column_that_a_batch_lacks_is_null() -> None:
    assert values_of(pa.record_batch({"a": [1, 2]}), "b") == [None, None]
