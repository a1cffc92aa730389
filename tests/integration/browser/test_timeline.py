"""The timeline of a job: bars of its batches with the forecast, with mouse, keyboard and screen reader."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from night import Night
from playwright.sync_api import Locator, Route, expect
from viewer import NAV, Viewer

pytestmark = pytest.mark.slow
See = Callable[..., Viewer]
DAG_ID = "ticket_labels"
HOUR_S = 3600.0


def told_progress(value: dict[str, Any]) -> dict[str, Any]:
    """The job as it is, three hours later than it began, with twelve nights before it."""
    now = time.time()
    steps = [[now + HOUR_S * (0.4 + k * 0.25), (k + 1) / 13] for k in range(12)]
    forecast = {"basis": "jobs", "n_earlier": 12, "n_shorter": 0, "p50_at": None, "p90_at": None, "steps": steps}
    return {**value, "forecast": forecast, "finish_at": now + 4 * HOUR_S, "updated_at": now, "batches": []}


def told_shards(n: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """So many shards: the first two have ended, the last one is asked again, the others run."""

    def change(value: dict[str, Any]) -> dict[str, Any]:
        now = time.time()
        began_at = now - 3 * HOUR_S
        shards = []
        for i in range(n):
            created_at = began_at + i * 30
            batch = {**value["shards"][0]["batch"], "id": f"batch_{i:04}", "created_at": created_at}
            batch |= {"status": "in_progress", "in_progress_at": created_at + 300, "ended_at": None}
            shard = {**value["shards"][0], "id": f"0-{i:05}", "state": "running", "batch": batch, "settled_at": None}
            if i < 2:
                batch |= {"status": "completed", "ended_at": created_at + HOUR_S}
                shard |= {"state": "settled", "settled_at": created_at + HOUR_S + 120}
            if i == n - 1:
                batch |= {"created_at": now - HOUR_S, "in_progress_at": None, "status": "validating"}
                shard |= {"id": "0-00000.1", "round": 1, "parent": "0-00000"}
            shards.append(shard)
        return {**value, "shards": shards, "n_shards": n, "updated_at": now}

    return change


def answering(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Route], None]:
    def answer(route: Route) -> None:
        response = route.fetch()
        entry = response.json()
        value = entry["value"]
        decoded = json.loads(value) if isinstance(value, str) else value
        route.fulfill(response=response, json={**entry, "value": change(decoded)})

    return answer


@pytest.fixture
def see(night: Night, view: See) -> See:
    """Return a function that opens the running job as if it had so many shards, and has run for hours."""

    def open_job(n: int = 8, **how: object) -> Viewer:
        viewer = view(night.stack.url, None, **how)
        viewer.log_in_as_anybody()
        where = rf"{DAG_ID}.*/xcomEntries/openai_batch_{{}}\.submit"
        viewer.page.route(re.compile(where.format("progress")), answering(told_progress))
        viewer.page.route(re.compile(where.format("shards")), answering(told_shards(n)))
        viewer.go(NAV)
        viewer.wait_for_rows()
        viewer.open_job(DAG_ID)
        viewer.frame.locator(".timeline-box").wait_for()
        viewer.wait_until_looked()
        return viewer

    return open_job


def line(viewer: Viewer, shard_id: str) -> Locator:
    return viewer.frame.locator(f".line[data-point='{shard_id}']")


@pytest.mark.oldest
@pytest.mark.parametrize("dark", [False, True])
def test_batches_forecast_and_finish_by_are_drawn_and_told(see: See, dark: bool) -> None:
    viewer = see(dark=dark)
    expect(viewer.frame.locator(".line")).to_have_count(8)
    expect(viewer.frame.locator(".timeline .span.fetched")).to_have_count(2)
    expect(viewer.frame.locator(".timeline .span.validating")).to_have_count(8)
    expect(viewer.frame.locator(".timeline rect.forecast")).to_have_count(1)
    marks = viewer.frame.locator(".mark-line text").all_text_contents()
    assert any(re.fullmatch(r"probably over .*\d\d:\d\d", text) for text in marks), marks
    assert any(re.fullmatch(r"nine of ten before .*\d\d:\d\d", text) for text in marks), marks
    assert any(re.fullmatch(r"finish by .*\d\d:\d\d", text) for text in marks), marks
    expect(viewer.frame.locator(".figure", has_text="Estimated end")).to_contain_text("12 earlier runs")
    label = line(viewer, "0-00000.1").get_attribute("aria-label") or ""
    assert re.search(r"Shard 0-00000\.1, round 1 for rows of 0-00000: created .*; 1 h.* validating; now", label), label
    assert viewer.cut() == []
    viewer.frame.locator(".timeline-box").scroll_into_view_if_needed()
    viewer.picture("timeline")


def test_the_keyboard_goes_from_batch_to_batch_and_each_says_what_it_is(see: See) -> None:
    viewer = see()
    line(viewer, "0-00003").hover()
    expect(viewer.frame.locator(".readout strong").first).to_have_text("0-00003")
    line(viewer, "0-00003").focus()
    viewer.page.keyboard.press("ArrowDown")
    expect(viewer.frame.locator(".readout strong").first).to_have_text("0-00004")
    assert viewer.focus()["outline"] >= 2
    viewer.page.keyboard.press("ArrowUp")
    viewer.page.keyboard.press("Home")
    expect(viewer.frame.locator(".readout")).to_contain_text(re.compile(r"answers were fetched\s*2 min"))
    expect(line(viewer, "0-00000")).to_have_attribute("tabindex", "0")
    expect(viewer.frame.locator(".line[tabindex='0']")).to_have_count(1)


def test_the_same_is_a_table(see: See) -> None:
    viewer = see()
    viewer.frame.locator("summary", has_text="The timeline as a table").click()
    rows = viewer.frame.locator("[aria-label='Timeline'] tbody tr")
    expect(rows).to_have_count(8 + 4)
    expect(rows.first).to_contain_text("5 min")
    expect(rows.first.locator("th[scope=row]")).to_have_text("0-00000")
    expect(rows.filter(has_text="nine of ten before")).to_have_count(1)
    expect(rows.filter(has_text="finish by")).to_have_count(1)


def test_of_hundreds_those_that_go_on_are_drawn_and_a_phone_has_room(see: See) -> None:
    viewer = see(200, phone=True)
    expect(viewer.frame.locator(".line")).to_have_count(40)
    expect(viewer.main).to_contain_text("Timeline (40 of 200 shards")
    viewer.frame.locator("summary", has_text="The timeline as a table").click()
    assert viewer.frame.locator("[aria-label='Timeline'] tbody tr").count() >= 200
    assert viewer.cut() == []


@pytest.mark.oldest
def test_a_job_that_is_over_has_its_bars_and_no_forecast(night: Night, view: See) -> None:
    viewer = view(night.stack.url, NAV)
    viewer.wait_for_rows()
    viewer.open_job("review_sentiment")
    viewer.frame.locator(".timeline-box").wait_for()
    expect(viewer.frame.locator(".timeline .span.running")).to_have_count(1)
    expect(viewer.frame.locator(".mark-line")).to_have_count(0)
    expect(viewer.main).not_to_contain_text("Estimated end")
