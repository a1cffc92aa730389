from __future__ import annotations

import json
from typing import Any

import pytest
from builders import strict
from pydantic import BaseModel, ConfigDict, field_validator

from airflow_openai_batch.engine.schema.response_format import response_schema
from airflow_openai_batch.engine.schema.validation import ResponseSchema, class_check

STRICT = strict(a={"type": "string"}, b={"type": ["integer", "null"]})


def made(model: Any) -> ResponseSchema:
    found = response_schema(model)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a":"x","b":null}', None),
        ('{"a":"x","b":3}', None),
        ("", "not JSON"),
        ('{"a":"x","b"', "not JSON"),
        ('"a"', "not of type"),
        ('{"a":"x"}', "required"),
        ('{"a":"x","b":"3"}', "b: "),
        ('{"a":"x","b":1,"c":2}', "does not know"),
    ],
)
def test_an_answer_is_checked_against_the_whole_schema(text: str, problem: str | None) -> None:
    values, found = made(STRICT).read(text)
    assert found is None if problem is None else found is not None and problem in found
    assert values == (tuple(json.loads(text).values()) if problem is None else None)


class Rated(BaseModel):
    """Its validator knows more than its schema."""

    model_config = ConfigDict(defer_build=True)
    stars: int
    why: str

    @field_validator("stars")
    @classmethod
    def _in_range(cls, stars: int) -> int:
        if stars == 0:
            raise RuntimeError("the secret text")
        if stars > 5:
            raise ValueError("at most five")
        return stars


def test_a_class_checks_by_its_own_validators() -> None:
    check = class_check(Rated)
    assert check is not None
    assert check('{"stars": 5, "why": "quick"}') is None
    assert check('{"stars": 6, "why": "quick"}') == "stars: Value error, at most five"
    assert check('{"stars": 4}') == "why: Field required"
    assert (check("not JSON") or "").startswith(": Invalid JSON")


def test_the_check_of_a_class_says_nothing_of_the_answer() -> None:
    check = class_check(Rated)
    assert check is not None
    assert check('{"stars": 0, "why": "quick"}') == "a validator raised RuntimeError"
    assert "quick" not in (check('{"stars": "many", "why": "quick"}') or "quick")


@pytest.mark.parametrize("model", [None, STRICT])
def test_only_a_class_has_validators_of_its_own(model: Any) -> None:
    assert class_check(model) is None
