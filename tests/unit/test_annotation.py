"""Result rows in the forms of Label Studio, Argilla and OpenAI's fine-tuning."""

from __future__ import annotations

import json

import pytest

from airflow_openai_batch.annotation import (
    agreement,
    argilla_records,
    fine_tuning_examples,
    is_doubtful,
    label_studio_tasks,
    split,
)
from airflow_openai_batch.engine.errors import InputError

GOOD = {"text": "a «text»", "custom_id": "t-1", "status": "succeeded", "model": "m", "label": "Yes", "confidence": 0.9}
UNSURE = {**GOOD, "custom_id": "t-2", "label": "No", "confidence": 0.3}
REFUSED = {**GOOD, "custom_id": "t-3", "status": "refused", "model": None, "label": None, "confidence": None}
ROWS = [GOOD, UNSURE, REFUSED]


def test_what_is_unsure_or_has_no_answer_is_for_a_person():
    sure, doubtful = split(ROWS)
    assert ([row["custom_id"] for row in sure], [row["custom_id"] for row in doubtful]) == (["t-1"], ["t-2", "t-3"])
    assert not is_doubtful({**UNSURE, "sure": 0.8}, confidence="sure"), "the threshold itself is enough"
    assert is_doubtful(GOOD, threshold=0.95)


@pytest.mark.parametrize("value", [None, 1.1, -0.1, "0.9", True, float("nan")])
def test_a_confidence_that_is_none_is_refused_by_row(value):
    with pytest.raises(InputError, match=r"confidence of the row t-1 must be between 0 and 1"):
        is_doubtful({**GOOD, "confidence": value})


def test_label_studio_gets_predictions_with_scores():
    assert list(label_studio_tasks(ROWS[:1], label="label", data=["text"], from_name="topic")) == [
        {
            "data": {"text": "a «text»", "custom_id": "t-1"},
            "predictions": [
                {
                    "model_version": "m",
                    "score": 0.9,
                    "result": [
                        {"from_name": "topic", "to_name": "text", "type": "choices", "value": {"choices": ["Yes"]}}
                    ],
                }
            ],
        }
    ]
    *_, refused = label_studio_tasks(ROWS, label="label", data=["text"])
    assert refused == {"data": {"text": "a «text»", "custom_id": "t-3"}}
    (many,) = label_studio_tasks([{**GOOD, "label": ["a", "b"]}], label="label", data=[], confidence=None)
    assert many["predictions"][0]["result"][0]["value"] == {"choices": ["a", "b"]}
    assert "score" not in many["predictions"][0]


def test_argilla_gets_suggestions_with_scores():
    first, _, refused = argilla_records(ROWS, label="label", fields=["text"], question="topic", metadata=["confidence"])
    assert first == {
        "id": "t-1",
        "fields": {"text": "a «text»"},
        "metadata": {"confidence": 0.9},
        "suggestions": {"topic": {"value": "Yes", "score": 0.9, "agent": "m"}},
        "responses": {},
        "vectors": {},
    }
    assert refused["suggestions"] == {}


def test_fine_tuning_gets_conversations_of_good_rows_only():
    found = list(fine_tuning_examples(ROWS, system="Label it.", user="Text: {text}\n{no column}", assistant="{label}"))
    assert found[0] == {
        "messages": [
            {"role": "system", "content": "Label it."},
            {"role": "user", "content": "Text: a «text»\n{no column}"},
            {"role": "assistant", "content": "Yes"},
        ]
    }
    assert len(found) == 2
    (corrected,) = fine_tuning_examples([{"text": "x", "label": ["a"]}], user="{text}", assistant="{label}")
    assert corrected["messages"][1] == {"role": "assistant", "content": '["a"]'}
    json.dumps(found)


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda: label_studio_tasks([GOOD], label="lbl", data=[]), "no column 'lbl'. Columns: text, "),
        (lambda: argilla_records([GOOD], label="label", fields=["body"]), "no column 'body'"),
        (lambda: fine_tuning_examples([GOOD], user="{txt}", assistant="x"), "no column 'txt'"),
        (lambda: fine_tuning_examples([GOOD, {**GOOD, "label": " "}], user="{text}", assistant="{label}"), "Row 1: "),
    ],
)
def test_a_missing_column_is_named(convert, message):
    with pytest.raises(InputError) as error:
        list(convert())
    assert message in str(error.value)


def test_the_share_of_equal_choices_is_a_confidence():
    assert agreement('["Yes", "No", " Yes", "Yes"]') == ("Yes", 0.75)
    for wrong in ("Yes", "[]", "[1]", '{"a": 1}'):
        with pytest.raises(InputError, match="n above 1"):
            agreement(wrong)
