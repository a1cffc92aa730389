"""A job's address, which survives a reload and can be sent, and looks that leave no traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from night import Night
from playwright.sync_api import expect
from viewer import NAV, PAGE, Viewer

pytestmark = pytest.mark.slow
See = Callable[..., Viewer]


def title(viewer: Viewer) -> Any:
    return expect(viewer.frame.locator("#title"))


def tab_of(night: Night, dag_id: str) -> str:
    """Return the address of the tab of a Dag's run."""
    return f"/dags/{dag_id}/runs/{quote(night.runs[dag_id], safe='')}/plugin/openai-batches-of-run"


@pytest.mark.oldest
@pytest.mark.parametrize("place", ["menu", "tab"])
def test_a_reload_shows_the_same_job_and_so_does_its_address_elsewhere(night: Night, view: See, place: str) -> None:
    path = NAV if place == "menu" else tab_of(night, "review_sentiment")
    viewer = view(night.stack.url, path)
    if place == "tab":
        viewer.frame.get_by_role("link", name="Batches and shards").click()
    else:
        viewer.open_job("review_sentiment")
    title(viewer).to_have_text("review_sentiment / sentiment")
    viewer.page.reload()
    title(viewer).to_have_text("review_sentiment / sentiment", timeout=30_000)
    colleague = view(night.stack.url, viewer.page.url.removeprefix(night.stack.url))
    title(colleague).to_have_text("review_sentiment / sentiment", timeout=30_000)
    viewer.frame.get_by_role("link", name="All jobs").click()
    viewer.main.locator(".jobs, article").first.wait_for()
    assert "#" not in viewer.page.url.removesuffix("#"), "the list has its own address again"


def test_back_and_forward_lead_through_the_jobs_that_were_seen(night: Night, view: See) -> None:
    viewer = view(night.stack.url, NAV)
    viewer.open_job("review_sentiment")
    there = viewer.page.url
    viewer.page.go_back()
    viewer.wait_for_rows()
    assert viewer.page.url != there
    viewer.page.go_forward()
    title(viewer).to_have_text("review_sentiment / sentiment")
    assert viewer.page.url == there


def test_a_link_is_copied_that_leads_to_the_job_inside_airflow(night: Night, view: See) -> None:
    viewer = view(night.stack.url, PAGE)
    viewer.open_job("product_extraction")
    link = viewer.copies("Copy link")
    assert link.startswith(f"{night.stack.url}{NAV}#")
    colleague = view(night.stack.url, link.removeprefix(night.stack.url))
    title(colleague).to_have_text("product_extraction / extract", timeout=30_000)
    expect(colleague.page.locator("iframe[title='OpenAI Batches']")).to_have_count(1)


def test_a_browser_without_a_clipboard_of_its_own_copies_all_the_same(night: Night, view: See) -> None:
    # Browsers offer navigator.clipboard with encryption only.
    viewer = view(night.stack.url, None)
    viewer.log_in_as_anybody()
    viewer.page.add_init_script("Object.defineProperty(navigator.clipboard, 'writeText', {value: undefined})")
    viewer.go(NAV)
    viewer.open_job("product_extraction")
    assert viewer.copies("Copy link").startswith(f"{night.stack.url}{NAV}#product_extraction/")


@pytest.mark.oldest
def test_looking_leaves_nothing_in_the_audit_log(night: Night, view: See) -> None:
    api = night.stack.api
    path = "/eventLogs"
    before = api.call("GET", path, params={"limit": 1})["total_entries"]
    viewer = view(night.stack.url, NAV)
    viewer.wait_for_rows()
    for _ in range(3):
        viewer.wait_until_looked()
        viewer.frame.locator("#refresh").click()
    viewer.open_job("ticket_labels")
    viewer.frame.get_by_role("button", name="Any rows").click()
    viewer.frame.locator(".sample li").first.wait_for()
    viewer.page.reload()
    title(viewer).to_have_text("ticket_labels / submit", timeout=30_000)
    tab = view(night.stack.url, tab_of(night, "product_extraction"))
    tab.frame.locator("article").wait_for()
    tab.frame.locator("#refresh").click()
    tab.wait_until_looked()
    assert {call.method for call in viewer.calls + tab.calls} == {"GET"}
    now = api.call("GET", path, params={"limit": 20, "order_by": "-event_log_id"})
    assert now["total_entries"] == before, [(entry["event"], entry["owner"]) for entry in now["event_logs"]]
