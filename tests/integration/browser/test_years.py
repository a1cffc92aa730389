"""Five hundred jobs in the history: the page reads what it shows, and no more."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from night import Night
from playwright.sync_api import Route, expect
from seed import HOSTILE, PRICED, UNPRICED, seed
from viewer import PAGE, Viewer

pytestmark = pytest.mark.slow
N_JOBS = 500
STEP = 25
N_TIMES = 5
DAG_ID = "review_sentiment"
SEARCH = "Search by Dag, run or task"


@pytest.fixture(scope="module")
def years(night: Night) -> Night:
    """The night's jobs, and those of many nights before."""
    seed(night.stack.database_url, DAG_ID, night.runs[DAG_ID], N_JOBS // 2)
    seed(night.stack.database_url, "ticket_labels", night.runs["ticket_labels"], N_JOBS // 2)
    return night


def can_sort(years: Night) -> bool:
    """Say whether this Airflow sorts XComs by time."""
    path = "/dags/~/dagRuns/~/taskInstances/~/xcomEntries"
    newest, oldest = (
        years.stack.api.call("GET", path, params={"limit": 1, "order_by": order})["xcom_entries"]
        for order in ("-timestamp", "timestamp")
    )
    return bool(newest != oldest)


@pytest.fixture
def page(years: Night, view: Callable[..., Viewer]) -> Viewer:
    """The page as it opens."""
    viewer = view(years.stack.url, PAGE)
    viewer.wait_for_rows()
    viewer.wait_until_looked()
    return viewer


@pytest.mark.oldest
def test_the_first_page_takes_few_requests(years: Night, view: Callable[..., Viewer]) -> None:
    # Where XComs cannot be sorted, the page asks for the runs of the last day, and so on.
    n_states = len(years.runs)  # the most: one for each run with a job that is not over
    most = 2 + n_states + STEP if can_sort(years) else 2 + 5 + n_states + STEP
    times: dict[str, list[float]] = {"anew": [], "again": []}
    for _ in range(N_TIMES):
        viewer = view(years.stack.url, None)
        viewer.log_in_as_anybody()
        for when, seconds in times.items():
            viewer.forget()
            viewer.go(PAGE)
            viewer.wait_for_rows()
            seconds.append(viewer.first_row_s)
            viewer.wait_until_looked()
            viewer.unfold()
            expect(viewer.rows).to_have_count(STEP)
            assert 2 + 1 + STEP <= len(viewer.calls) <= most, (when, [call.url for call in viewer.calls])
    # No limit: how fast it is, a benchmark tells (benchmarks/page.py, which reads this).
    print(f"\nseconds to the first rows: {json.dumps(times)}")


def test_looking_again_reads_only_what_is_new(years: Night, page: Viewer) -> None:
    page.forget()
    page.frame.locator("#refresh").click()
    page.page.wait_for_timeout(3_000)
    # Keys, and the states and values of the jobs that run.
    assert 2 <= len(page.calls) <= 2 * len(years.runs), [call.url for call in page.calls]


def test_looks_further_when_asked_and_says_how_far_it_has_looked(years: Night, page: Viewer) -> None:
    foot = page.frame.locator(".list-foot")
    expect(foot).to_contain_text(f"the {STEP} jobs heard of last. There may be older ones.")
    page.forget()
    page.unfold()
    foot.get_by_role("button", name="Look further").click()
    expect(page.rows).to_have_count(2 * STEP)
    page.wait_until_looked()
    assert len(page.calls) <= 4 + len(years.runs) + STEP, [call.url for call in page.calls]
    page.frame.get_by_role("button", name="Needs attention").click()
    expect(foot).to_contain_text(f"of the {2 * STEP} jobs heard of last")


def test_an_old_job_is_found_by_its_dag(page: Viewer) -> None:
    page.frame.get_by_label(SEARCH).fill("review")
    expect(page.rows.filter(has_text="ticket_labels")).to_have_count(0)
    expect(page.rows).to_have_count(STEP)


@pytest.mark.oldest
def test_an_old_job_is_found_by_its_run(page: Viewer) -> None:
    page.frame.get_by_label(SEARCH).fill("history__0240")
    expect(page.rows.filter(has_text="history__0240")).to_have_count(2)
    expect(page.rows).to_have_count(2)


def test_what_jobs_cost_is_a_column_where_they_tell_it(page: Viewer) -> None:
    expect(page.frame.locator("th", has_text="Cost")).to_have_count(1)
    expect(page.row(PRICED).first.locator("[data-label=Cost]")).to_contain_text("$12.50")
    expect(page.row(UNPRICED).first.locator("[data-label=Cost]")).to_have_text("–")  # noqa: RUF001 - the dash that the page shows


def test_text_from_anywhere_stays_text(page: Viewer) -> None:
    page.frame.get_by_label(SEARCH).fill("review")
    expect(page.row("ticket_labels")).to_have_count(0)
    page.row("history__0001").locator("a.name").click()
    page.wait_for_text(HOSTILE)
    page.frame.locator(".shards").wait_for()
    assert page.frame.locator("main").locator("img, script, b").count() == 0
    assert page.page.title() == "OpenAI Batches"
    links = page.main.locator("a").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    assert not [link for link in links if link.startswith("javascript")]
    # A batch of OpenAI's leads to its dashboard, and no id out of it.
    outside = {link.removeprefix("https://platform.openai.com/batches/") for link in links if "openai.com" in link}
    assert any(end.startswith("%3Cimg") for end in outside)
    assert not [end for end in outside if "/" in end]


def test_an_airflow_that_cannot_sort_shows_the_newest_first_all_the_same(
    years: Night, view: Callable[..., Viewer]
) -> None:
    # Airflow 3.1 ignores order_by here and sorts by Dag, task and run: 3.3 does the same when it is not given.
    viewer = view(years.stack.url, None)
    viewer.log_in_as_anybody()

    def without_order(route: Route) -> None:
        route.continue_(url=re.sub("order_by=-?timestamp", "", route.request.url))

    viewer.page.route("**/xcomEntries?**", without_order)
    viewer.go(PAGE)
    viewer.wait_for_rows()
    viewer.wait_until_looked()
    viewer.unfold()
    expect(viewer.rows).to_have_count(STEP)
    expect(viewer.row(years.runs["ticket_labels"])).to_be_visible()
    runs = viewer.rows.locator(".where").all_inner_texts()
    history = [run for run in runs if run.startswith("history__")]
    assert history == sorted(history)
    assert len(viewer.calls) <= 2 + 5 + len(years.runs) + STEP
