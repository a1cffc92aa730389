"""The last runs of a Dag: one look tells whether the last night was unusual."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from night import Night
from playwright.sync_api import Locator, expect
from seed import add_task, seed_nights
from viewer import NAV, Viewer

pytestmark = pytest.mark.slow
See = Callable[..., Viewer]
DAG_ID = "product_extraction"
HOUR = 3600
MONEY = {"cost": 0.0, "cost_of_bad_rows": 0.0, "saved": 0.0, "rows_without_price": 0}


def told(cost: float | None, n_rows: int = 900, hours: float = 2.0, **more: object) -> dict[str, object]:
    """What the job of a night tells."""
    n_bad = n_rows // 50
    end = time.time()
    counts = {"n_rows": n_rows, "n_done": n_rows, "by_status": {"succeeded": n_rows - n_bad, "invalid": n_bad}}
    times = {"created_at": end - hours * HOUR, "updated_at": end}
    return {**MONEY, **counts, **times, "phase": "written", "problem": None, "cost": cost, **more}


NIGHTS = [
    told(31.2, n_rows=2700, hours=5.1, reused_rows=300, saved_by_reuse=3.1),  # the unusual one
    *(told(11.9 + i % 4 / 5, n_rows=880 + i % 5 * 10, hours=1.8 + i % 3 / 10) for i in range(4)),
    None,  # skipped
    told(None),  # of a version that told no cost
    *(told(12.1 + i % 3 / 5, n_rows=900 + i % 4 * 10, hours=1.9 + i % 4 / 10) for i in range(20)),
    told(3.0, phase="held", problem="The deadline has passed.", by_status={"succeeded": 200}, n_done=200),
    *(told(11.8 + i % 3 / 5) for i in range(6)),
]
"""More nights than are shown, the newest first."""


@pytest.fixture(scope="module")
def nights(night: Night) -> Night:
    """The night's jobs, and a month of one Dag's."""
    seed_nights(night.stack.database_url, DAG_ID, night.runs[DAG_ID], NIGHTS)
    return night


@pytest.fixture
def runs(nights: Night, view: See) -> See:
    """Return a function that opens the last runs of the Dag."""

    def open_runs(path: str = f"{NAV}#{DAG_ID}", **how: object) -> Viewer:
        viewer = view(nights.stack.url, path, **how)
        viewer.frame.locator(".chart-box").wait_for()
        viewer.wait_until_looked()
        return viewer

    return open_runs


def run(viewer: Viewer, run_id: str) -> Locator:
    return viewer.frame.locator(f".run[data-point='{run_id}']")


@pytest.mark.oldest
@pytest.mark.parametrize("dark", [False, True])
def test_a_night_outside_the_usual_is_marked_and_named(runs: See, nights: Night, dark: bool) -> None:
    viewer = runs(dark=dark)
    expect(viewer.frame.locator(".run")).to_have_count(30)
    unusual = run(viewer, nights.runs[DAG_ID])
    text = unusual.get_attribute("aria-label") or ""
    assert re.search(r"Unusual: cost \$31\.20, above the usual \$\d+\.\d\d to \$1\d\.\d\d; rows 2,700, above", text)
    assert "Reused: 300 rows, which saved $3.10" in text
    for number, words in {1: "Cost: $11.90", 5: "State: No job", 6: "Cost: not known", 27: "State: Held"}.items():
        label = run(viewer, f"night__{number:04}").get_attribute("aria-label") or ""
        assert words in label and "Unusual" not in label, label
    expect(viewer.frame.locator(".notice")).to_contain_text("was unusual")
    assert viewer.frame.locator(".chart .mark").count() >= 3
    unusual.hover()
    expect(viewer.frame.locator(".readout")).to_contain_text("cost $31.20, above the usual")
    viewer.picture("runs")


def test_the_same_is_there_as_a_table_and_without_a_mouse(runs: See) -> None:
    viewer = runs()
    viewer.frame.locator("summary").click()
    rows = viewer.frame.locator("details tbody tr")
    expect(rows).to_have_count(30)
    expect(rows.first).to_contain_text("above the usual")
    last = viewer.frame.locator(".run").last
    last.focus()
    expect(viewer.frame.locator(".readout")).to_contain_text("$31.20")
    keys = viewer.page.keyboard
    keys.press("ArrowLeft")
    expect(viewer.frame.locator(".readout")).to_contain_text("$11.90")
    assert viewer.focus()["outline"] >= 2
    expect(viewer.frame.locator(".run[tabindex='0']")).to_have_count(1)
    keys.press("Home")
    expect(viewer.frame.locator(".run").first).to_be_focused()
    keys.press("End")
    keys.press("ArrowLeft")
    keys.press("Enter")
    viewer.frame.locator(".shards").wait_for()
    expect(viewer.frame.locator("#title")).to_have_text(f"{DAG_ID} / extract")


def test_a_month_is_read_in_few_requests_and_looking_again_in_two(runs: See) -> None:
    viewer = runs()
    # The runs, their keys, and a value of each run with a job.
    assert len(viewer.calls) <= 2 + 30, [call.url for call in viewer.calls]
    assert {call.method for call in viewer.calls} == {"GET"}
    viewer.forget()
    viewer.frame.locator("#refresh").click()
    viewer.page.wait_for_timeout(2_000)
    assert len(viewer.calls) == 2, [call.url for call in viewer.calls]


def test_the_dag_has_a_tab_and_jobs_lead_there(runs: See, nights: Night, view: See) -> None:
    viewer = runs(f"/dags/{DAG_ID}/plugin/openai-batches-of-dag")
    expect(viewer.frame.locator(".run")).to_have_count(30)
    run(viewer, "night__0001").click()
    viewer.frame.locator(".shards").wait_for()
    viewer.frame.get_by_role("link", name="Last runs").click()
    viewer.frame.locator(".chart-box").wait_for()
    other = view(nights.stack.url, NAV)
    other.wait_for_rows()
    other.row(nights.runs[DAG_ID]).get_by_role("link", name="last runs").click()
    other.frame.locator(".chart-box").wait_for()
    other.frame.get_by_role("link", name="All jobs").click()
    other.wait_for_rows()


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_cut_on_a_phone(runs: See, dark: bool) -> None:
    viewer = runs(phone=True, dark=dark)
    viewer.picture("phone-runs")
    assert viewer.cut() == []


def test_jobs_of_several_tasks_are_added_up_and_chosen(runs: See, nights: Night) -> None:
    add_task(nights.stack.database_url, DAG_ID, "night__000_", "summaries", {"cost": 1.0, "n_rows": 10})
    viewer = runs()
    expect(run(viewer, "night__0001")).to_have_attribute("aria-label", re.compile("Cost: \\$12.90"))
    viewer.frame.get_by_role("button", name="summaries").click()
    expect(run(viewer, "night__0001")).to_have_attribute("aria-label", re.compile("Cost: \\$1.00"))
    expect(run(viewer, "night__0020")).to_have_attribute("aria-label", re.compile("No job"))
