"""The tab "OpenAI Batches" on a Dag run and on a task instance."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from night import Night
from playwright.sync_api import expect
from viewer import NAV, Viewer

pytestmark = pytest.mark.slow
See = Callable[..., Viewer]
ROUTES = {False: "openai-batches-of-run", True: "openai-batches-of-task"}


@pytest.fixture
def tab(night: Night, view: See) -> See:
    """Return a function that opens the tab of a Dag's run, or of one of its tasks, by a click as a person does."""

    def open_tab(dag_id: str, task: str = "", **how: object) -> Viewer:
        path = f"/dags/{dag_id}/runs/{quote(night.runs[dag_id], safe='')}" + (f"/tasks/{task}" if task else "")
        return view(night.stack.url, f"{path}/plugin/{ROUTES[bool(task)]}", **how)

    return open_tab


@pytest.mark.parametrize("dark", [False, True])
def test_a_run_shows_its_jobs_with_the_summary_of_the_log(tab: See, dark: bool) -> None:
    viewer = tab("product_extraction", dark=dark)
    card = viewer.frame.locator("article")
    expect(card).to_have_count(1)
    for text in ("Bad rows", "Rows by outcome", "Errors", "context_length_exceeded", "Input tokens", "Time by phase"):
        expect(card).to_contain_text(text)
    viewer.picture("run")


def test_a_run_shows_the_job_of_each_mapped_task(tab: See, night: Night) -> None:
    night.start("per_country")
    for map_index in (0, 1):
        night.wait_until_parked("per_country", map_index)
    viewer = tab("per_country")
    expect(viewer.frame.locator("article")).to_have_count(1)
    group = viewer.frame.locator("tr.group")
    expect(group).to_contain_text("2 mapped jobs")
    expect(viewer.rows).to_have_text([re.compile(r"label \[[01]\]")] * 2)
    group.get_by_role("button").click()
    expect(viewer.rows).to_have_count(0)
    one = tab("per_country", "label/mapped/1")
    expect(one.frame.locator("#title")).to_have_text("per_country / label [1]")
    # One phrase, in the list and in the job.
    expect(group).to_contain_text("no estimate yet")
    expect(one.main).to_contain_text("no estimate yet")


def test_the_list_has_one_row_for_the_mapped_jobs_of_a_run(tab: See, night: Night, view: See) -> None:
    if "per_country" not in night.runs:
        night.start("per_country")
        for map_index in (0, 1):
            night.wait_until_parked("per_country", map_index)
    viewer = view(night.stack.url, NAV)
    viewer.wait_for_rows()
    viewer.wait_until_looked()
    expect(viewer.row("label [0]")).to_have_count(0)
    group = viewer.frame.locator("tr.group")
    expect(group).to_contain_text("2 Running")
    expect(group).to_contain_text("0 of 40")
    fold = group.get_by_role("button")
    expect(fold).to_have_attribute("aria-expanded", "false")
    fold.press("Enter")
    expect(fold).to_have_attribute("aria-expanded", "true")
    viewer.picture("mapped")
    viewer.open_job("label [1]")
    expect(viewer.frame.locator("#title")).to_have_text("per_country / label [1]")


def test_a_card_opens_into_the_job_and_goes_back(tab: See) -> None:
    viewer = tab("product_extraction")
    viewer.frame.get_by_role("link", name="Batches and shards").click()
    viewer.frame.locator(".shards").wait_for()
    viewer.frame.get_by_role("link", name="All jobs").click()
    expect(viewer.frame.locator("article")).to_have_count(1)


@pytest.mark.oldest
@pytest.mark.parametrize("task", ["submit", "wait"])
def test_each_task_of_a_job_shows_the_job(tab: See, task: str) -> None:
    viewer = tab("ticket_labels", task)
    expect(viewer.frame.locator("#title")).to_have_text("ticket_labels / submit")
    expect(viewer.main).to_contain_text("Running")


def test_a_task_that_is_not_ours_says_so_in_one_line(tab: See) -> None:
    viewer = tab("ticket_labels", "freeze_tickets")
    expect(viewer.main).to_have_text("This task has no OpenAI batch job.")
    assert len(viewer.calls) == 2


def test_a_task_of_ours_that_has_not_begun_says_that(tab: See) -> None:
    viewer = tab("ticket_labels", "results")
    expect(viewer.main).to_contain_text("has not looked at its job yet")
