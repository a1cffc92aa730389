from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_openai_batch.engine.encoding import json_insides, text_column, utf8

texts = (
    st.text() | st.text(st.characters(max_codepoint=127)) | st.text(st.sampled_from('\\"\n\r\t\x00\x1f\x7f\u2028é😀a'))
)
layouts = st.sampled_from([pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])


@given(st.lists(texts | st.none(), max_size=6), layouts, st.integers(0, 3))
@example(["\x01\n"], pa.string(), 0)
@example([None, "\n", '"'], pa.large_string(), 1)
def test_a_column_is_escaped_as_each_text_alone(values: list[str | None], layout: pa.DataType, start: int) -> None:
    column = text_column(pa.array(values, pa.string()).cast(layout)[start:])
    assert column is not None
    expected = [value or "" for value in values[start:]]
    assert json_insides(column) == [msgspec.json.encode(value)[1:-1] for value in expected]
    assert utf8(column) == [value.encode() for value in expected]


@pytest.mark.parametrize("code", range(32))
def test_every_control_character_is_escaped_in_a_long_text(code: int) -> None:
    long = "x" * 70_000
    column = text_column(pa.array([long + chr(code), "\n" + long]))
    assert column is not None
    assert json_insides(column) == [msgspec.json.encode(t)[1:-1] for t in (long + chr(code), "\n" + long)]


@pytest.mark.parametrize("column", [pa.array([1]), pa.array([b"a"]), pa.array([["a"]]), pa.nulls(2), pa.array([True])])
def test_what_is_no_text_is_left_to_others(column: pa.Array) -> None:
    assert text_column(column) is None
