"""How fast requests are asked: never faster than the server allows, and again at full speed when it does."""

from __future__ import annotations

import pytest

from airflow_openai_batch.engine.api.rate_limits import RateLimits, exhausted_s, rate_limits_of
from airflow_openai_batch.engine.direct.pacing import Pacer

NOW = 1_000.0


def filled(pacer: Pacer, now: float = NOW, n_tokens: int = 10) -> int:
    """Send as many requests as it admits. Returns how many."""
    n = 0
    while pacer.admits(n, n_tokens, now):
        n += 1
    return n


def test_without_limits_as_many_as_wanted_are_on_their_way() -> None:
    assert filled(Pacer(8)) == 8


@pytest.mark.parametrize(
    ("limits", "n"),
    [
        (RateLimits(3, 20.0, None, None), 3),
        (RateLimits(0, 20.0, None, None), 0),
        (RateLimits(100, 20.0, 25, 20.0), 2),
        (RateLimits(None, None, 9, 20.0), 0),
    ],
)
def test_no_more_are_sent_than_the_limits_have_room_for(limits, n) -> None:
    pacer = Pacer(8)
    pacer.answered(limits, NOW)
    assert filled(pacer) == n
    assert not pacer.admits(0, 10, NOW + 19.9)
    assert pacer.paused_until == NOW + 20
    # Then one asks how much there is.
    assert filled(pacer, NOW + 20) == 1
    pacer.answered(RateLimits(100, 0.0, 1000, 0.0), NOW + 21)
    assert filled(pacer, NOW + 21) == 8


def test_a_limit_without_a_reset_holds_nobody_up_for_ever() -> None:
    pacer = Pacer(8)
    pacer.answered(RateLimits(0, None, None, None), NOW)
    assert filled(pacer, NOW) == 1


def test_a_refusal_holds_all_back_and_makes_room_for_fewer() -> None:
    pacer = Pacer(8)
    mark = pacer.mark
    for _ in range(8):  # all that were on their way are refused
        pacer.refused(mark, None, NOW)
    assert pacer.paused_until == NOW + 1
    assert not pacer.admits(0, 10, NOW + 0.9)
    assert filled(pacer, NOW + 1) == 4
    pacer.refused(pacer.mark, None, NOW + 1)
    assert pacer.paused_until == NOW + 3
    assert filled(pacer, NOW + 3) == 2
    pacer.answered(RateLimits(), NOW + 3)
    assert filled(pacer, NOW + 3) == 3, "more again, one by one"


def test_the_pause_that_is_asked_for_counts_also_from_an_older_request() -> None:
    pacer = Pacer(8)
    mark = pacer.mark
    pacer.refused(mark, 30.0, NOW)
    pacer.refused(mark, 45.0, NOW)
    assert pacer.paused_until == NOW + 45


def test_pauses_double_as_long_as_nobody_is_answered() -> None:
    pacer, now = Pacer(8), NOW
    pauses = []
    for _ in range(8):
        pacer.refused(pacer.mark, None, now)
        pauses.append(pacer.paused_until - now)
        now = pacer.paused_until
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1.0), ("6m0s", 360.0), ("12ms", 0.012), ("1h2m", 3600.0), ("1.5s", 1.5), ("20", 20.0), ("soon", None)],
)
def test_the_durations_of_headers_are_read(text, seconds) -> None:
    limits = rate_limits_of({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": text})
    assert limits == RateLimits(None, None, 0, seconds)
    assert exhausted_s({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": text}) == seconds


@pytest.mark.parametrize("text", ["", "-1", "nan", "1e400", "many", "9" * 40])
def test_a_count_that_cannot_be_read_says_nothing(text) -> None:
    assert rate_limits_of({"x-ratelimit-remaining-requests": text}).requests is None
