"""A plan in the browser: a person reads what a job will cost, and approves or rejects it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest
from night import Night
from playwright.sync_api import expect
from viewer import NAV, Viewer

pytestmark = pytest.mark.slow
See = Callable[..., Viewer]
DAG_ID = "approved_labeling"


class Asked:
    """A run whose plan waits for an answer, and the person who reads it."""

    def __init__(self, night: Night, view: See) -> None:
        self.night, self.view = night, view
        night.start(DAG_ID)
        self.wait_for("approve", "awaiting_input", "deferred")  # the latter before Airflow 3.3

    def wait_for(self, task_id: str, *states: str) -> None:
        deadline = time.monotonic() + 120
        while self.state(task_id) not in states:
            assert time.monotonic() < deadline, (task_id, self.state(task_id), self.night.stack.tails())
            time.sleep(0.5)

    def state(self, task_id: str) -> str:
        return str(self.night.stack.api.task_instance(DAG_ID, self.night.runs[DAG_ID], task_id)["state"])

    def answer(self, choice: str, *, dark: bool = False) -> None:
        """Read the plan on Airflow's page for the task, and click."""
        viewer = self.view(self.night.stack.url, None, dark=dark)
        viewer.log_in_as_anybody()
        run_id = quote(self.night.runs[DAG_ID], safe="")
        viewer.page.goto(f"/dags/{DAG_ID}/runs/{run_id}/tasks/approve/required_actions")
        item = viewer.page.locator("li", has_text=re.compile(r"to ask: \d+ requests in 1 batch"))
        item.wait_for(timeout=60_000)
        for text in ("rows", "cost", "cap", "first requests"):
            expect(viewer.page.locator("li strong", has_text=text).first).to_be_visible()
        # Pictures may stand in the docs: no path of this machine.
        path = viewer.page.locator("li", has_text="first requests")
        path.evaluate("li => { li.lastChild.textContent = ': s3://lake/openai-batch/…/first-requests.json'; }")
        viewer.picture("approval")
        viewer.page.get_by_role("button", name=choice).first.click()
        viewer.page.wait_for_timeout(500)
        confirm = viewer.page.get_by_role("dialog").get_by_role("button", name=re.compile("confirm|respond", re.I))
        if confirm.count():
            confirm.first.click()
        viewer.errors.clear()  # the page is Airflow's, not ours


@pytest.fixture
def asked(night: Night, view: See) -> Callable[[], Asked]:
    return lambda: Asked(night, view)


def test_a_plan_that_is_approved_is_sent_and_ends_well(asked: Callable[[], Asked], night: Night, view: See) -> None:
    run = asked()
    assert night.batches(DAG_ID) == []
    page = view(night.stack.url, NAV)
    page.wait_for_rows()
    expect(page.row(DAG_ID)).to_contain_text("Planned")
    page.open_job(DAG_ID)
    page.picture("planned")
    run.answer("Approve")
    night.wait_until_parked(DAG_ID)
    assert len(night.batches(DAG_ID)) == 1
    night.finish(DAG_ID, "success")


def test_a_plan_that_is_rejected_costs_nothing(asked: Callable[[], Asked], night: Night) -> None:
    run = asked()
    run.answer("Reject", dark=True)
    for task_id in ("wait", "results"):
        run.wait_for(task_id, "skipped")
    assert night.batches(DAG_ID) == []
