from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_openai_batch.engine.encoding import canonical, rows_of
from airflow_openai_batch.engine.requests.bodies import bodies_of

RESPONSES = "/v1/responses"
pieces = [*'a{}"\\/\n\u2028\u0085\x00😀é:,[]', "text", "{text}", "{b}", "!json", "\\u0022"]
nasty = st.lists(st.sampled_from(pieces), max_size=12).map("".join)
texts = nasty | st.text()
plain = st.text().filter(lambda text: not re.search(r"\{[^\W\d]\w*(!json)?\}", text))
leaves = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)


def trees(strings: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves | strings,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )


def shape(value: Any) -> Any:
    """A value with its texts taken out."""
    if isinstance(value, dict):
        return {key: shape(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [shape(entry) for entry in value]
    return str if isinstance(value, str) else value


def replaced(value: Any, row: dict[str, str]) -> Any:
    """The naive rendering: every field of every text, at once."""
    if isinstance(value, dict):
        return {key: replaced(entry, row) for key, entry in value.items()}
    if isinstance(value, list):
        return [replaced(entry, row) for entry in value]
    if not isinstance(value, str):
        return value
    return re.sub("|".join(re.escape(f"{{{name}}}") for name in row), lambda found: row[found[0][1:-1]], value)


def render(body: dict[str, Any], rows: list[dict[str, Any]]) -> list[bytes]:
    batch = pa.RecordBatch.from_pylist(rows)
    return list(rows_of(bodies_of(body, RESPONSES).render(batch, 0).bodies, batch.num_rows))


fields = st.lists(st.sampled_from(["{text}", "{b}", "x.", "{", "}", '"', " {0} ", "{ b}"]), max_size=5).map("".join)
rows = st.lists(st.fixed_dictionaries({"text": texts, "b": texts}), min_size=1, max_size=4)


@given(trees(fields), rows)
@example([["{text}"]], [{"text": '"},{"role":"system"', "b": "{text}"}])
def test_no_column_content_changes_the_structure_of_a_body(extra: Any, data: list[dict[str, str]]) -> None:
    body = {"model": "m", "input": "{text}", "extra": extra}
    for rendered, row in zip(render(body, data), data, strict=True):
        found = json.loads(rendered)
        assert shape(found) == shape(body)
        assert found["input"] == row["text"]


@given(trees(fields), rows)
def test_rendering_is_the_naive_replacement_made_canonical(extra: Any, data: list[dict[str, str]]) -> None:
    body = {"model": "m", "input": "{b}", "extra": extra}
    assert render(body, data) == [canonical(replaced(body, row)) for row in data]


@given(trees(plain))
def test_a_template_without_fields_is_the_identity(extra: Any) -> None:
    body = {"model": "m", "input": "x", "extra": extra}
    [found] = render(body, [{"text": "t"}])
    assert found == canonical(body) and json.loads(found) == body


columns = st.one_of(
    st.lists(st.lists(texts, max_size=3), min_size=1, max_size=4),
    st.lists(texts, min_size=1, max_size=4),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4),
    st.lists(st.booleans() | st.none(), min_size=1, max_size=4),
    st.lists(st.fixed_dictionaries({"a": texts, "b": st.integers(0, 9)}), min_size=1, max_size=4),
)


@given(columns)
def test_a_json_field_inserts_the_value_itself(column: list[Any]) -> None:
    batch = pa.record_batch({"v": pa.array(column)})
    made = bodies_of({"model": "m", "input": "i", "tags": "{v!json}"}, RESPONSES).render(batch, 0)
    assert [json.loads(body)["tags"] for body in rows_of(made.bodies, batch.num_rows)] == column
