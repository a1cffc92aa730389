from __future__ import annotations

import datetime
import math

import pytest

from airflow_openai_batch.engine.durations import duration_text, parse_duration
from airflow_openai_batch.engine.errors import InputError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (datetime.timedelta(days=7), 604_800),
        (604_800, 604_800),
        (90.5, 90.5),
        ("604800", 604_800),
        ("90s", 90),
        ("15m", 900),
        ("36h", 129_600),
        ("7d", 604_800),
        (" 7 D ", 604_800),
        ("1.5h", 5400),
        ("2w", 1_209_600),
    ],
)
def test_a_duration_is_read_in_every_form(value: object, seconds: float) -> None:
    assert parse_duration(value, "x") == seconds


@pytest.mark.parametrize(
    "value",
    [
        *("", "soon", "7 days", "d", "-1h", "1h30m", "1e9", "0d", "9" * 400),
        *(0, -5, True, None, [], math.nan, math.inf),
        *(datetime.timedelta(0), datetime.timedelta(days=-1)),
    ],
)
def test_what_is_no_duration_names_the_setting(value: object) -> None:
    with pytest.raises(InputError, match=r"files_expire_after must be a duration above 0.*'7d' or '36h', not"):
        parse_duration(value, "files_expire_after")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(604_800, "7d"), (86_400, "24h"), (266_400, "74h"), (3600, "3600s"), (90, "90s"), (9000, "2.5h"), (0.5, "0.5s")],
)
def test_a_duration_is_told_as_a_person_writes_it(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
