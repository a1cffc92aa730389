"""The page in the navigation: what a person sees, does and is told, in a real browser on a real Airflow."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from night import DURATION_S, HELD, Night
from playwright.sync_api import expect
from viewer import NAV, PAGE, Viewer

from airflow_openai_batch.reporting.trigger_progress import can_refresh

pytestmark = pytest.mark.slow
See = Callable[..., Viewer]
SEARCH = "Search by Dag, run or task"


@pytest.fixture
def see(night: Night, view: See) -> See:
    """Return a function that opens a path of the Airflow with the night's jobs."""
    return lambda path=NAV, **how: view(night.stack.url, path, **how)


@pytest.mark.oldest
@pytest.mark.parametrize("dark", [False, True])
def test_all_jobs_are_listed_with_state_progress_and_outcomes(see: See, dark: bool) -> None:
    viewer = see(dark=dark)
    viewer.wait_for_rows()
    viewer.wait_until_looked()
    expect(viewer.row("ticket_labels")).to_contain_text("Running")
    expect(viewer.row("review_sentiment")).to_contain_text("Done")
    expect(viewer.row("review_sentiment")).to_contain_text("1,200 of 1,200")
    expect(viewer.row("product_extraction")).to_contain_text("Bad rows")
    expect(viewer.row("product_extraction")).to_contain_text("failed")
    expect(viewer.frame.locator("#groups")).to_have_text("All3Active1Needs attention1Done1")


@pytest.mark.skipif(not can_refresh(), reason="triggers of this Airflow cannot write progress")
def test_progress_moves_on_without_a_reload(see: See, night: Night) -> None:
    viewer = see()
    bar = viewer.row("ticket_labels").locator("[role=progressbar]")
    expect(bar).not_to_have_attribute("aria-valuenow", "0", timeout=40_000)
    before = int(bar.get_attribute("aria-valuenow") or 0)
    night.emulator.clock.advance(DURATION_S * 0.1)
    expect(bar).not_to_have_attribute("aria-valuenow", str(before), timeout=40_000)
    assert before < int(bar.get_attribute("aria-valuenow") or 0) < 2400


@pytest.mark.oldest
@pytest.mark.skipif(can_refresh(), reason="triggers of this Airflow write progress")
def test_says_why_progress_stands_still_where_triggers_cannot_write_it(see: See) -> None:
    viewer = see()
    viewer.wait_for_rows()
    expect(viewer.row("ticket_labels")).to_contain_text("as of")
    expect(viewer.row("review_sentiment")).not_to_contain_text("as of")
    viewer.open_job("ticket_labels")
    expect(viewer.main).to_contain_text("the counts stand still: triggers can write them from Airflow 3.3 on")


@pytest.mark.oldest
@pytest.mark.parametrize("dark", [False, True])
def test_a_running_job_opens_into_batches_and_shards(see: See, night: Night, dark: bool) -> None:
    viewer = see(dark=dark)
    viewer.open_job("ticket_labels")
    expect(viewer.frame.locator("#title")).to_have_text("ticket_labels / submit")
    for batch in night.batches("ticket_labels"):
        expect(viewer.main).to_contain_text(batch.id)
    expect(viewer.frame.locator(".shards tbody tr")).to_have_count(4)
    expect(viewer.main).to_contain_text("gpt-6-luna")
    # The emulator is not OpenAI: nothing may lead to OpenAI's dashboard.
    expect(viewer.main.locator("a[href*='openai.com']")).to_have_count(0)
    viewer.picture("job")


@pytest.mark.parametrize("dark", [False, True])
def test_a_job_with_failures_names_codes_counts_and_rows(see: See, night: Night, dark: bool) -> None:
    viewer = see(dark=dark)
    viewer.open_job("product_extraction")
    failed = [entry for entry in night.emulator.ledger.rows() if entry.delivered != "ok"]
    assert failed
    errors = viewer.frame.locator("section:has(> h3:text-is('Errors'))")
    long = errors.locator("tbody tr", has_text="context_length_exceeded")
    expect(long).to_have_count(1)
    expect(long.locator("code.id").first).to_contain_text("product-")
    outcomes = viewer.frame.locator("section:has(> h3:text-is('Rows by outcome')) tbody tr")
    counts = [int(cell.replace(",", "")) for cell in outcomes.locator("td:nth-child(2)").all_inner_texts()]
    assert sum(counts) == 900
    expect(outcomes.filter(has_text="refused")).to_have_count(1)
    # Results end where the output says, and what was given up beside them.
    expect(viewer.main).to_contain_text("products.parquet.dead_letter.jsonl")
    assert viewer.copies("Copy the results' address").endswith("/products.parquet")
    assert viewer.copies("Copy the dead letter's address").endswith("/products.parquet.dead_letter.jsonl")
    viewer.picture("failures")


@pytest.mark.parametrize("dark", [False, True])
def test_a_sample_shows_requests_with_their_answers_when_asked(see: See, dark: bool) -> None:
    viewer = see(dark=dark)
    viewer.open_job("product_extraction")
    sample = viewer.frame.locator("section:has(> h3:text-is('Sample of requests and answers'))")
    expect(sample).to_contain_text("Read from the job store when you ask")
    assert not [call for call in viewer.requests if "/sample/" in call.url]
    sample.get_by_role("button", name="invalid").click()
    expect(sample.locator("li")).to_have_count(10)
    for text in ("Request", "product ", "gpt-6-luna", "Answer", "schema_mismatch", "There are more"):
        expect(sample).to_contain_text(text)
    sample.scroll_into_view_if_needed()
    viewer.picture("sample")
    sample.get_by_role("button", name="Hide").click()
    expect(sample.locator("li")).to_have_count(0)


def test_a_store_that_the_api_server_cannot_read_is_told(see: See) -> None:
    viewer = see()
    viewer.page.route(
        "**/openai-batch/sample/**",
        lambda route: route.fulfill(status=503, json={"detail": "Set [openai_batch] storage for the API server."}),
    )
    viewer.open_job("product_extraction")
    viewer.frame.get_by_role("button", name="Any rows").click()
    viewer.wait_for_text("The API server cannot read the job store")
    viewer.wait_for_text("Set [openai_batch] storage for the API server.")
    viewer.errors.clear()  # the browser logs the failed call


def test_links_lead_out_of_the_frame_into_airflow(see: See, night: Night) -> None:
    viewer = see()
    viewer.open_job("review_sentiment")
    viewer.frame.get_by_role("link", name="Log of sentiment").click()
    viewer.page.wait_for_url(
        f"**{night.run_path('review_sentiment')}/tasks/sentiment".replace("+", "%2B").replace(":", "%3A")
    )
    viewer.errors.clear()  # Airflow's own page is not under test


def test_filters_by_state(see: See) -> None:
    viewer = see()
    viewer.wait_for_rows()
    viewer.frame.get_by_role("button", name="Done").click()
    expect(viewer.rows).to_have_count(1)
    expect(viewer.frame.locator(".list-foot")).to_contain_text("1 of all 3 jobs is in “Done”")
    viewer.frame.get_by_role("button", name="All").click()
    expect(viewer.rows).to_have_count(3)


def test_searches_by_dag_run_and_task(see: See, night: Night) -> None:
    viewer = see()
    viewer.wait_for_rows()
    by_dag, by_task, by_run = "uct_extr", "submit", night.runs["review_sentiment"][-16:]
    for text, dag_id in {by_dag: "product", by_task: "ticket", by_run: "review"}.items():
        viewer.frame.get_by_label(SEARCH).fill(text)
        expect(viewer.rows).to_have_count(1, timeout=15_000)
        expect(viewer.rows.locator("a.name")).to_have_text(re.compile(f"^{dag_id}"))


def test_sorts_by_a_column_and_the_other_way_round(see: See) -> None:
    viewer = see()
    viewer.wait_for_rows()
    viewer.wait_until_looked()
    names = viewer.rows.locator("a.name")
    header = viewer.frame.locator("th", has_text="Job")
    header.get_by_role("button").click()
    expect(header).to_have_attribute("aria-sort", "ascending")
    expect(names).to_have_text([re.compile(name) for name in ("^product", "^review", "^ticket")])
    header.get_by_role("button").click()
    expect(header).to_have_attribute("aria-sort", "descending")
    expect(names).to_have_text([re.compile(name) for name in ("^ticket", "^review", "^product")])
    viewer.frame.locator("th", has_text="State").get_by_role("button").click()
    expect(names.first).to_have_text(re.compile("^product"))


def test_states_have_airflows_colours(see: See) -> None:
    viewer = see(dark=True)
    viewer.wait_for_rows()
    viewer.wait_until_looked()
    states = {"ticket_labels": "running", "review_sentiment": "success", "product_extraction": "failed"}
    for dag_id, state in states.items():
        theirs = viewer.page.evaluate(
            "state => { const e = document.createElement('i'); e.style.color = `var(--chakra-colors-${state}-solid)`;"
            " document.body.append(e); return getComputedStyle(e).color; }",
            state,
        )
        expect(viewer.row(dag_id).locator(".badge")).to_have_css("background-color", theirs)


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_found_says_so(see: See, dark: bool) -> None:
    viewer = see(dark=dark)
    viewer.wait_for_rows()
    viewer.frame.get_by_label(SEARCH).fill("no_such_dag")
    viewer.wait_for_text("No job whose Dag, run or task has “no_such_dag” in its name.")


def test_follows_airflows_light_and_dark_mode_as_it_changes(see: See) -> None:
    viewer = see()
    root = viewer.frame.locator("html")
    expect(root).to_have_attribute("data-theme", "light")
    light = root.evaluate("() => getComputedStyle(document.body).backgroundColor")
    viewer.page.evaluate("() => document.documentElement.classList.replace('light', 'dark')")
    expect(root).to_have_attribute("data-theme", "dark")
    dark = root.evaluate("() => getComputedStyle(document.body).backgroundColor")
    outer = viewer.page.evaluate(
        "() => { const e = document.createElement('i'); e.style.color = 'var(--chakra-colors-bg)';"
        " document.body.append(e); return getComputedStyle(e).color; }"
    )
    assert light != dark == outer


@pytest.mark.oldest
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_cut_on_a_phone_inside_airflow(see: See, dark: bool) -> None:
    viewer = see(phone=True, dark=dark)
    viewer.wait_for_rows()
    viewer.wait_until_looked()
    viewer.picture("phone")
    assert viewer.frame.locator("body").evaluate("() => innerWidth") < 330, "Airflow's rail is beside the page"
    assert viewer.cut() == []
    viewer.open_job("product_extraction")
    viewer.picture("phone-job")
    assert viewer.cut() == []
    viewer.frame.get_by_role("button", name="failed").click()
    viewer.frame.locator(".sample li").first.wait_for()
    assert viewer.cut() == []
    viewer.frame.get_by_role("link", name="All jobs").click()
    viewer.open_job("ticket_labels")
    viewer.frame.get_by_role("button", name="Cancel…").click()
    expect(viewer.frame.get_by_role("button", name="Cancel the job")).to_be_enabled()
    assert viewer.cut() == []


def test_nothing_is_cut_on_a_phone_without_airflow_around(see: See) -> None:
    viewer = see(PAGE, phone=True)
    viewer.wait_for_rows()
    viewer.wait_until_looked()
    assert viewer.cut() == []


def test_a_person_with_a_keyboard_gets_everywhere(see: See) -> None:
    viewer = see(PAGE)
    viewer.wait_for_rows()
    viewer.wait_until_looked()
    keys = viewer.page.keyboard
    seen = []
    for _ in range(20):
        keys.press("Tab")
        at = viewer.focus()
        seen.append(at["id"] or at["text"])
        # The field's own frame shows the focus; everything else has an outline.
        assert at["outline"] >= 2 or at["id"] == "search", at
        if at["tag"] == "A":
            break
    assert seen[0] == "search"
    assert {"refresh", "State", "Ends"} <= set(seen)
    keys.press("Enter")
    viewer.frame.locator("#title").wait_for()
    assert viewer.focus()["id"] == "title"
    viewer.page.go_back()
    viewer.rows.first.wait_for()
    assert viewer.focus()["text"] == seen[-1], "the focus is back where it was"


def test_looks_again_by_itself_but_not_while_nobody_sees_it(see: See) -> None:
    viewer = see(PAGE)
    viewer.wait_for_rows()
    viewer.wait_until_looked()
    viewer.forget()
    viewer.page.wait_for_timeout(12_000)
    assert 2 <= len(viewer.calls) <= 6, [call.url for call in viewer.calls]
    hide = "is => { Object.defineProperty(document, 'hidden', {value: is, configurable: true});"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    viewer.page.evaluate(hide, True)
    viewer.page.wait_for_timeout(500)
    viewer.forget()
    viewer.page.wait_for_timeout(12_000)
    assert viewer.calls == []
    viewer.page.evaluate(hide, False)
    viewer.page.wait_for_timeout(2_000)
    assert viewer.calls != []


@pytest.mark.parametrize("dark", [False, True])
def test_says_when_airflow_does_not_answer_and_recovers(see: See, night: Night, dark: bool) -> None:
    viewer = see(PAGE, dark=dark)
    viewer.wait_for_rows()
    viewer.context.set_offline(True)
    viewer.frame.locator("#refresh").click()
    viewer.wait_for_text("Airflow does not answer")
    expect(viewer.rows.first).to_be_visible()
    viewer.picture("no-answer")
    viewer.context.set_offline(False)
    expect(viewer.frame.get_by_text("Airflow does not answer")).to_have_count(0, timeout=30_000)
    viewer.errors.clear()  # the browser logs each failed call


@pytest.mark.oldest
def test_cancelling_asks_first_and_cancels_the_batches_of_this_job_alone(see: See, night: Night) -> None:
    night.start("eval_answers")
    night.wait_until_parked("eval_answers")
    night.emulator.clock.advance(DURATION_S * 0.15)
    viewer = see()
    viewer.open_job("eval_answers")
    keys = viewer.page.keyboard
    button = viewer.frame.get_by_role("button", name="Cancel…")
    button.click()
    dialog = viewer.frame.get_by_role("dialog")
    expect(dialog).to_contain_text("clear the task")
    expect(dialog.get_by_role("button", name="Cancel the job")).to_be_enabled()
    assert viewer.focus()["text"] == "Keep it running", "the harmless answer has the focus"
    viewer.picture("cancel")
    for _ in range(5):
        keys.press("Tab")
        assert viewer.focus()["dialog"], "the focus stays inside"
    keys.press("Escape")
    expect(dialog).to_have_count(0)
    assert viewer.focus()["text"] == "Cancel…"
    assert set(night.statuses("eval_answers")) == {"in_progress"}
    button.click()
    dialog.get_by_role("button", name="Cancel the job").click()
    viewer.wait_for_text("is marked failed")
    viewer.wait_for_text("Stopped")
    deadline = time.monotonic() + 40
    while night.statuses("eval_answers") != ["cancelled", "cancelled"]:
        assert time.monotonic() < deadline, night.statuses("eval_answers")
        night.emulator.clock.advance(1)
        time.sleep(0.5)
    assert "cancelled" not in night.statuses("ticket_labels")
    viewer.wait_for_text("Clear it to take the job up again")
    expect(button).to_have_count(0)


def test_a_finished_job_cannot_be_cancelled(see: See) -> None:
    viewer = see()
    viewer.open_job("review_sentiment")
    expect(viewer.frame.get_by_role("button", name="Cancel…")).to_have_count(0)


@pytest.mark.parametrize("dark", [False, True])
def test_a_cancelled_job_stays_in_the_list_as_stopped(see: See, night: Night, dark: bool) -> None:
    night.stop("eval_answers")
    for _ in range(2):  # counts that were seen to move twice make an estimate
        night.emulator.clock.advance(DURATION_S * 0.02)
        time.sleep(7)
    viewer = see(dark=dark)
    viewer.wait_for_rows()
    expect(viewer.row("eval_answers")).to_contain_text("Stopped")
    if can_refresh():
        expect(viewer.row("ticket_labels")).not_to_contain_text("no estimate yet", timeout=40_000)
    viewer.wait_until_looked()
    viewer.picture("jobs")
    viewer.frame.get_by_role("button", name="Needs attention").click()
    expect(viewer.row("ticket_labels")).to_have_count(0)
    for dag_id in ("eval_answers", "product_extraction"):
        expect(viewer.row(dag_id)).to_have_count(1)


def test_where_marking_the_task_failed_would_cancel_nothing_there_is_no_button_for_it(see: See, night: Night) -> None:
    night.start("archive_texts")  # with cancel_on_kill=False
    night.wait_until_parked("archive_texts")
    viewer = see()
    viewer.open_job("archive_texts")
    expect(viewer.frame.locator(".title .badge")).to_have_text("Running")
    expect(viewer.frame.get_by_role("button", name="Copy link")).to_be_visible()
    expect(viewer.frame.get_by_role("button", name="Cancel…")).to_have_count(0)


def test_without_a_triggerer_nothing_is_marked_failed(see: See, night: Night) -> None:
    viewer = see()
    health = {"triggerer": {"status": "unhealthy"}, "metadatabase": {"status": "healthy"}}
    viewer.page.route("**/api/v2/monitor/health", lambda route: route.fulfill(json=health))
    viewer.open_job("ticket_labels")
    viewer.frame.get_by_role("button", name="Cancel…").click()
    dialog = viewer.frame.get_by_role("dialog")
    expect(dialog).to_contain_text("No triggerer is alive")
    expect(dialog.get_by_role("button", name="Cancel the job")).to_be_disabled()
    assert set(night.statuses("ticket_labels")) == {"in_progress"}


def test_a_held_job_says_what_a_person_must_do(see: See, night: Night) -> None:
    night.start("translate_faq")
    night.finish("translate_faq", "failed")
    viewer = see()
    viewer.wait_for_rows()
    expect(viewer.row("translate_faq")).to_contain_text("Held")
    viewer.frame.get_by_role("button", name="Needs attention").click()
    viewer.open_job("translate_faq")
    expect(viewer.main).to_contain_text(HELD)
    expect(viewer.frame.get_by_role("button", name="Cancel…")).to_have_count(0)


@pytest.mark.parametrize("dark", [False, True])
def test_a_job_that_its_cap_holds_says_so_with_the_figures(see: See, night: Night, dark: bool) -> None:
    if "invoice_fields" not in night.runs:
        night.start("invoice_fields")
        night.finish("invoice_fields", "failed")
    assert night.batches("invoice_fields") == [], "nothing was sent"
    viewer = see(dark=dark)
    viewer.wait_for_rows()
    row = viewer.row("invoice_fields")
    expect(row).to_contain_text("Held by its cap")
    expect(row).to_contain_text("max_cost is $0.01")
    expect(row.locator("[data-label=Cost]")).to_contain_text("cap $0.01")
    viewer.open_job("invoice_fields")
    expect(viewer.frame.locator(".title .badge")).to_have_text("Held by its cap")
    expect(viewer.main.locator(".notice")).to_contain_text("Raise max_cost and clear the submitting task")
    tiles = {tile.locator("dt").inner_text(): tile.inner_text() for tile in viewer.main.locator(".figure").all()}
    assert "reached: the rest is not sent" in tiles["Cap"]
    assert "by the bound in the bodies" in tiles["Cost at most"]
    viewer.picture("cap")
