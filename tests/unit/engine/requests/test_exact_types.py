"""Casts to a common type change no value."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest

from airflow_openai_batch.engine.requests.arrow import json_column, json_type
from airflow_openai_batch.engine.requests.exact_types import cast_exactly, common_type, exact_type


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([1, None]), ["1", None]),
        (pa.array(["a", '"']), ['"a"', '"\\""']),
        (pa.array(["a", None]).dictionary_encode(), ['"a"', None]),
        (pa.array([[1, None], []]), ["[1,null]", "[]"]),
        (
            pa.array([{"b": None, "a": True}], pa.struct([("b", pa.null()), ("a", pa.bool_())])),
            ['{"b":null,"a":true}'],
        ),
        (pa.array([[math.inf]]), ['["inf"]']),
        (json_column(['{"a": 1}']), ['{"a": 1}']),
        (pa.nulls(2), [None, None]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_values_as_json(values: pa.Array, texts: list[str | None]) -> None:
    assert cast_exactly(values, json_type()).storage.to_pylist() == texts


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([2**60 + 1, None]), ["1152921504606846977", None]),
        (pa.array([0.1]), ["0.1"]),
        (pa.array([True]), ["true"]),
        (json_column(['{"a": 1}']), ['{"a": 1}']),
        (pa.array([b"hi"]), ["aGk="]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_values_as_text(values: pa.Array, texts: list[str | None]) -> None:
    assert cast_exactly(values, pa.large_string()).to_pylist() == texts


@pytest.mark.parametrize(
    ("a", "b", "extremes", "expected"),
    [
        (pa.int64(), pa.float64(), [2**53], pa.float64()),
        (pa.int64(), pa.float64(), [2**53 + 1], None),
        (pa.float32(), pa.int32(), [5], pa.float64()),
        (pa.int64(), pa.uint64(), [5], pa.int64()),
        (pa.int64(), pa.uint64(), [0, 2**63], pa.uint64()),
        (pa.int64(), pa.uint64(), [-1, 2**63], None),
        (pa.timestamp("s"), pa.timestamp("ns"), [2**63 - 1], pa.timestamp("ns")),
        (pa.timestamp("s"), pa.timestamp("ns"), [2**63], None),
        (pa.string(), json_type(), [], json_type()),
        (pa.list_(pa.int64()), pa.int64(), [5], json_type()),
        (pa.list_(pa.binary()), pa.string(), [], None),
        (pa.list_(pa.int64()), pa.list_(pa.float64()), [], json_type()),
    ],
    ids=str,
)
def test_a_common_type_depends_on_the_values(a: Any, b: Any, extremes: list[int], expected: Any) -> None:
    assert common_type(a, b, extremes) == expected
    assert common_type(b, a, extremes) == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (pa.decimal128(5, 2), pa.decimal128(10, 4), pa.decimal128(10, 4)),
        (pa.decimal128(38, 0), pa.decimal128(38, 38), pa.decimal256(76, 38)),
        (pa.decimal256(76, 0), pa.decimal256(76, 38), None),
        (pa.list_(pa.int8()), pa.large_list(pa.int16()), pa.large_list(pa.int16())),
        (pa.list_(pa.int64()), pa.list_(pa.uint64()), None),
        (pa.list_(pa.null()), pa.list_(pa.string()), pa.large_list(pa.string())),
        (pa.binary(2), pa.binary(), pa.large_binary()),
        (pa.struct([("a", pa.int64())]), pa.struct([("a", pa.string())]), None),
    ],
    ids=str,
)
def test_types_that_hold_others_whatever_the_values(a: Any, b: Any, expected: Any) -> None:
    assert exact_type(a, b) == exact_type(b, a) == expected
