"""When to look again, and which pages of the listing to read: numbers in, numbers out."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_openai_batch.engine.model import Batch
from airflow_openai_batch.polling.schedule import TOP, Outage, Pages, backoff_s, follow, is_logged, pause_s

NOW = 1_800_000_000.0


def batch(status: str = "in_progress", done: int = 0, total: int = 100, **more: Any) -> Batch:
    return Batch(id="b", status=status, n_completed=done, n_total=total, **{"created_at": NOW - 36_000, **more})


def pause(*looks: tuple[float, Batch], longest_s: float = 60.0) -> float:
    """The pause after some looks, each at so many seconds."""
    track = None
    for at, seen in looks:
        track = follow(track, seen, NOW + at)
    assert track is not None
    return pause_s(track, NOW + looks[-1][0], longest_s)


# -- when --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_s", "expected"), [(-50, 5), (0, 5), (20, 5), (50, 10), (150, 30), (299, 59.8), (300, 60), (86_400, 60)]
)
def test_the_pause_is_a_fifth_of_a_batch_s_age(age_s: float, expected: float) -> None:
    assert pause((0, batch(created_at=NOW - age_s))) == pytest.approx(expected)


def test_a_server_that_does_not_say_when_a_batch_was_made_is_looked_at_often_at_first() -> None:
    old = batch(created_at=None)
    assert pause((0, old)) == 5
    assert pause((0, old), (100, old)) == 20
    assert pause((0, old), (1000, old)) == 60


@pytest.mark.parametrize("longest_s", [0.1, 1, 4.9, 5, 30, 600])
def test_the_poll_interval_is_the_longest_pause_and_five_seconds_the_shortest(longest_s: float) -> None:
    assert pause((0, batch()), longest_s=longest_s) == longest_s
    assert pause((0, batch(created_at=NOW)), longest_s=longest_s) == min(5, longest_s)


def test_a_status_that_has_just_changed_is_followed_closely() -> None:
    before, after = (0, batch()), (100, batch("finalizing"))
    assert pause(before, after) == 5
    assert pause(before, after, (150, batch("finalizing"))) == 10
    assert pause(before, after, (3700, batch("finalizing"))) == 60


def test_half_of_the_time_that_is_left_by_the_counts_is_waited() -> None:
    # 10 requests in 60 s: 70, 40, 10, 1 of 100 are left for 420, 240, 60, 6 s.
    assert pause((0, batch(done=20)), (60, batch(done=30))) == 60
    assert pause((0, batch(done=50)), (60, batch(done=60)), longest_s=600) == 120
    assert pause((0, batch(done=80)), (60, batch(done=90))) == 30
    assert pause((0, batch(done=89)), (60, batch(done=99))) == 5
    assert pause((0, batch(done=89, n_failed=0)), (60, batch(done=50, n_failed=49))) == 5


def test_counts_that_stand_still_say_less_and_less() -> None:
    looks = [(0, batch(done=80)), (60, batch(done=99)), (120, batch(done=99))]
    assert pause(*looks) == 12
    assert pause(*looks, (3600, batch(done=99))) == 60


def test_full_counts_may_mean_the_end_or_hours_of_writing_files() -> None:
    full = batch(done=100)
    assert pause((0, batch(done=50)), (60, full)) == 5
    assert pause((0, full)) == 5
    assert pause((0, full), (100, full)) == 20
    assert pause((0, full), (7200, full)) == 60


def test_counts_that_say_nothing_change_nothing() -> None:
    assert pause((0, batch(total=0)), (60, batch(total=0))) == 60
    assert pause((0, batch(done=30)), (60, batch(done=20))) == 60
    assert pause((0, batch(done=0)), (60, batch(done=0))) == 60


def test_a_look_that_shows_nothing_new_is_told_from_one_that_does() -> None:
    first = follow(None, batch(), NOW)
    assert follow(first, batch(), NOW + 60) is first
    assert follow(first, batch(done=1), NOW + 60) is not first


def test_failures_are_followed_by_ever_longer_pauses() -> None:
    assert [backoff_s(n, 60) for n in range(1, 10)] == [5, 10, 20, 40, 80, 160, 320, 600, 600]
    assert [backoff_s(n, 0.5) for n in (1, 2, 3)] == [0.5, 1, 2]
    assert backoff_s(100_000, 60) == 600


def test_a_long_outage_is_a_few_lines_in_a_log() -> None:
    assert [n for n in range(1, 200) if is_logged(n)] == [1, 2, 4, 8, 16, 32, 64, 128]


# -- outages -----------------------------------------------------------------------------------------------------------


def failed(
    outage: Outage, what: str, *, at: float, n: int = 100, pause_s: float = 5, asked_s: float | None = None
) -> Any:
    return outage.failed(what, n, at, pause_s, asked_s)


def test_one_batch_is_no_outage_however_often_it_fails() -> None:
    outage = Outage()
    assert not any(failed(outage, "a", at=at) for at in range(10))
    assert outage.n == 0
    assert outage.until <= 9


def test_two_batches_in_a_row_are_an_outage_and_the_only_one_is_too() -> None:
    outage = Outage()
    assert [failed(outage, "a", at=0), failed(outage, "b", at=0)] == [False, True]
    assert (outage.n, outage.until) == (1, 5)
    alone = Outage()
    assert failed(alone, "a", at=0, n=1)


def test_a_success_in_between_makes_it_none() -> None:
    outage = Outage()
    failed(outage, "a", at=0)
    outage.succeeded()
    assert not failed(outage, "b", at=1)
    assert outage.n == 0


def test_looks_that_fail_together_are_one_failure_of_the_connection() -> None:
    outage = Outage()
    steps = [failed(outage, str(number), at=0.1) for number in range(32)]
    assert sum(steps) == outage.n == 1
    assert failed(outage, "probe", at=6, pause_s=10)
    assert (outage.n, outage.until) == (2, 16)
    outage.succeeded()
    assert outage.n == 0


def test_the_pause_that_the_server_asks_for_holds_all_once_it_is_the_connections() -> None:
    outage = Outage()
    assert not failed(outage, "a", at=0, asked_s=3600)
    assert outage.until <= 0  # one batch holds no other
    assert failed(outage, "b", at=1, asked_s=30)
    assert outage.until == 31
    outage.succeeded()
    assert outage.until == 31


# -- pages of the listing ----------------------------------------------------------------------------------------------


def test_one_batch_is_not_worth_a_page() -> None:
    assert Pages().choose([None], n_new=1) == []
    assert Pages().choose(["p"], n_new=0) == []


def test_two_new_batches_are_looked_for_on_top() -> None:
    assert Pages().choose([None, None], n_new=2) == [TOP]


def test_pages_are_read_that_showed_two_batches_or_more() -> None:
    assert Pages().choose(["p", "q", "q", "r", "p", "q", TOP, TOP], n_new=0) == ["q", "p", TOP]


def test_of_pages_with_one_batch_each_one_at_a_time_is_read() -> None:
    pages = Pages()
    assert {tuple(pages.choose(["p", "q", "r"], n_new=0)) for _ in range(3)} == {("p",), ("q",), ("r",)}


def test_what_no_page_shows_is_looked_for_as_long_as_retrieves_have_earned_it() -> None:
    pages = Pages()

    def looks() -> bool:
        if pages.choose([None] * 5, n_new=0) != [TOP]:
            return False
        assert not pages.goes_on(5, n_found=0, n_unknown_found=0, is_past=False)
        return True

    n_read = 0
    for _ in range(100):
        n_read += looks()
        pages.asked(5)
    assert 40 <= n_read <= 52, "a tenth of 500 retrieves"


def test_reading_goes_on_while_pages_show_what_is_looked_for() -> None:
    pages = Pages()
    assert pages.goes_on(200, n_found=100, n_unknown_found=100, is_past=False)
    assert not pages.goes_on(1, n_found=100, n_unknown_found=100, is_past=False)
    assert not pages.goes_on(200, n_found=100, n_unknown_found=100, is_past=True)


def test_many_new_batches_are_worth_some_pages_in_vain() -> None:
    pages = Pages()
    pages.choose([None] * 1000, n_new=1000)
    n = 0
    while pages.goes_on(1000, n_found=0, n_unknown_found=0, is_past=False):
        n += 1
    assert n == 20


def test_without_a_cursor_only_the_top_is_read() -> None:
    pages = Pages()
    pages.can_page = False
    assert pages.choose(["p", "p", TOP, TOP], n_new=0) == [TOP]
    assert not pages.goes_on(200, n_found=100, n_unknown_found=100, is_past=False)
