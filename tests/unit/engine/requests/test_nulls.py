from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.requests.arrow import is_json
from airflow_openai_batch.engine.requests.bodies import bodies_of
from airflow_openai_batch.engine.requests.lines import SKIPPED_DIGEST, Requests
from airflow_openai_batch.engine.requests.nulls import blank_rows, is_blank, left_out, prompt_of
from airflow_openai_batch.engine.requests.python_rows import python_batch

RESPONSES, CHAT, EMBEDDINGS = "/v1/responses", "/v1/chat/completions", "/v1/embeddings"
SYSTEM = {"role": "system", "content": "Label the ticket."}
BLANKS = [None, "", " \n\t", "\u00a0"]


@pytest.mark.parametrize("blank", BLANKS)
def test_what_is_only_white_space_is_blank_in_a_column_and_in_a_body(blank: Any) -> None:
    assert blank_rows(pa.record_batch({"text": ["a", blank, " b"]}), ["text"]) == [1]
    assert is_blank(blank) and is_blank([{"type": "input_text", "text": blank}])


@pytest.mark.parametrize(
    ("column", "places"),
    [
        (pa.array([1, None, 0]), [1]),
        (pa.array([1.5, float("nan"), None]), [1, 2]),
        (pa.array([["a"], [], None]), [1, 2]),
        (pa.array(["a", " ", None]).dictionary_encode(), [1, 2]),
        (pa.array(["a", " ", None], pa.large_string()), [1, 2]),
        (pa.array(["a", " ", None], pa.string_view()), [1, 2]),
        (pa.nulls(3), [0, 1, 2]),
        (pa.array([False, True, None]), [2]),
        (pa.array([{"a": 1}, None, {"a": None}], pa.struct([("a", pa.int64())])), [1]),
    ],
)
def test_columns_of_every_type_are_looked_at(column: pa.Array, places: list[int]) -> None:
    assert blank_rows(pa.record_batch({"c": column}), ["c"]) == places


def test_a_row_is_blank_if_every_column_is() -> None:
    batch = pa.record_batch({"a": [None, "x", None], "b": ["y", "", " "]})
    assert blank_rows(batch, ["a", "b"]) == [2]
    assert blank_rows(batch, ["a", "b", "gone"]) == [2]  # a column that the rows lack holds nothing
    assert blank_rows(batch, []) == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"input": [{"role": "developer", "content": "Label it."}, {"role": "user", "content": ""}]}, True),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]}, False),
        ({"input": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, False),
        ({"input": [{"role": "system", "content": "Tell a joke."}]}, False),
        ({"input": []}, True),
        ({"input": [1, 2]}, False),  # token ids
        ({}, False),  # lacks a parameter, which is another error
    ],
)
def test_the_prompt_of_a_body_is_what_the_user_says_in_it(body: dict[str, Any], expected: bool) -> None:
    assert is_blank(prompt_of(body, RESPONSES)) is expected


def rendered(body: Any, rows: dict[str, list[Any]], on_null: Any = "skip", endpoint: str = RESPONSES) -> Requests:
    return bodies_of(body, endpoint, on_null).render(pa.record_batch(rows), 0)


@pytest.mark.parametrize(
    ("body", "endpoint"),
    [
        ({"model": "m", "input": "Label: {text}"}, RESPONSES),
        ({"model": "m", "input": "{text}", "metadata": {"ticket": "{id}"}}, RESPONSES),
        ({"model": "m", "messages": [SYSTEM, {"role": "user", "content": "{text}"}]}, CHAT),
        ({"model": "m", "messages": [{**SYSTEM, "content": "{id}"}, {"role": "user", "content": "{text}"}]}, CHAT),
        ({"model": "m", "input": "{text!json}"}, EMBEDDINGS),
        (lambda row: {"model": "m", "input": row["text"] or ""}, RESPONSES),
        (lambda row: {"model": "m", "input": row["text"]} if row["text"] else None, EMBEDDINGS),
    ],
)
def test_a_row_that_leaves_the_prompt_empty_is_skipped_by_any_kind_of_body(body: Any, endpoint: str) -> None:
    made = rendered(body, {"id": ["1", "2", "3"], "text": ["a", None, "c"]}, endpoint=endpoint)
    assert made.models == ["m", None, "m"]
    assert made.digests[1] == SKIPPED_DIGEST and SKIPPED_DIGEST not in (made.digests[0], made.digests[2])


def test_a_row_with_one_column_filled_or_a_prompt_without_columns_is_sent() -> None:
    rows = {"subject": [None, "x"], "text": ["a", None]}
    assert rendered({"model": "m", "input": "{subject}: {text}"}, rows).models == "m"
    assert rendered({"model": "m", "input": "Say something."}, rows).models == "m"


def test_send_sends_what_it_always_sent() -> None:
    made = rendered({"model": "m", "input": "Label: {text}"}, {"text": ["a", None]}, "send")
    assert made.models == "m" and b"".join(made.blocks(1, 2)).endswith(b'{"input":"Label: ","model":"m"}}\n')


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": "m", "input": "{text}"}, r"row 1: the prompt uses \{text\}, which is null or blank there"),
        (
            lambda row: None if row["text"] is None else {"model": "m", "input": "x"},
            "row 1: the body function",
        ),
        (lambda row: {"model": "m", "input": row["text"] or " "}, "row 1: its prompt is blank"),
    ],
)
def test_fail_names_the_row_and_the_way_out(body: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"{message}.*on_null='skip'.*Nothing was uploaded"):
        rendered(body, {"text": ["a", None]}, "fail")


def test_a_model_that_only_a_skipped_row_lacks_is_not_missed() -> None:
    rows = {"m": ["m", None], "text": ["a", None]}
    assert rendered({"model": "{m}", "input": "{text}"}, rows).models == ["m", None]
    with pytest.raises(InputError, match=r"row 1: .*'model'"):
        rendered({"model": "{m}", "input": "{text}"}, rows, "send")


def test_the_first_row_is_counted_from_the_job() -> None:
    assert left_out([2], 100, "skip", "") == [2] and left_out([2], 100, "send", "") == []
    with pytest.raises(InputError, match="row 102"):
        left_out([2], 100, "fail", "it is empty")


@pytest.mark.parametrize("empty", [None, [], ""])
def test_nested_prompts_hold_nothing_as_plain_ones_do(empty: Any) -> None:
    """Messages of different shapes are a JSON column."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    batch = python_batch([{"m": messages}, {"m": empty}, {"m": [{"role": "user", "content": "x"}]}], 0, "", ready=False)
    assert is_json(batch.schema.field("m").type)
    assert blank_rows(batch, ["m"]) == [1]


def test_columns_are_found_in_either_form_of_unicode() -> None:
    batch = pa.record_batch({"e\u0301tat": ["x", " "]})
    assert blank_rows(batch, ["\u00e9tat"]) == [1]
