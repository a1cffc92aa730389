"""Who may not see a Dag does not see its jobs, who may not change it cannot cancel them: real users and roles."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from night import Night
from people import HIDDEN_DAG, PASSWORD, SEEN_DAG
from playwright.sync_api import expect
from viewer import NAV, PAGE, Viewer

from airflow_openai_batch.local_airflow.processes import SessionProcess, free_ports

pytestmark = pytest.mark.slow
HERE = Path(__file__).resolve().parent
FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"


@pytest.fixture(scope="module")
def guarded(night: Night) -> Iterator[str]:
    """The address of a second API server on the same Airflow, with users and roles."""
    night.start(HIDDEN_DAG)
    night.wait_until_parked(HIDDEN_DAG)
    stack = night.stack
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    env = {**stack.env, "AIRFLOW__CORE__AUTH_MANAGER": FAB, "AIRFLOW__API__PORT": str(port)}
    env |= {"AIRFLOW__API__BASE_URL": url, "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False"}
    env["AIRFLOW__OPENAI_BATCH__DEPLOYMENT"] = stack.url  # the workers' name for it is their base_url
    for command in (["-m", "airflow", "db", "migrate"], [str(HERE / "people.py")]):
        stack.run(*command, env=env)
    command = [sys.executable, "-m", "airflow", "api-server"]
    server = SessionProcess("guarded", command, env, stack.logs / "guarded.log")
    server.start()
    try:
        stack.wait_until(lambda: b"startup complete" in server.log.read_bytes(), "the guarded API server", 120)
        yield url
    finally:
        server.destroy()


@pytest.fixture(scope="module")
def sessions() -> dict[str, list[Any]]:
    """Cookies by person: Airflow refuses more than a few logins a minute."""
    return {}


@pytest.fixture
def as_person(guarded: str, view: Callable[..., Viewer], sessions: dict[str, list[Any]]) -> Callable[..., Viewer]:
    """Return a function that logs a person in and opens a path."""

    def open_as(name: str, path: str = PAGE) -> Viewer:
        viewer = view(guarded, None)
        if name in sessions:
            viewer.context.add_cookies(sessions[name])
        else:
            sessions[name] = viewer.log_in(name, PASSWORD)
        viewer.go(path)
        return viewer

    return open_as


def test_a_person_sees_the_jobs_of_their_dags_alone(as_person: Callable[..., Viewer]) -> None:
    reader = as_person("reader")
    reader.wait_for_rows()
    reader.wait_until_looked()
    expect(reader.rows).to_have_count(1)
    expect(reader.rows).to_contain_text(SEEN_DAG)
    keeper = as_person("keeper")
    keeper.wait_for_rows()
    keeper.wait_until_looked()
    expect(keeper.rows).to_have_count(1)
    expect(keeper.rows).to_contain_text(HIDDEN_DAG)
    for viewer in (reader, keeper):
        viewer.forget_refusals_of_airflow()


def test_a_job_one_may_not_see_is_not_there_by_its_address_either(
    as_person: Callable[..., Viewer], night: Night
) -> None:
    keeper = as_person("keeper")
    keeper.wait_for_rows()
    address = keeper.rows.get_attribute("data-open")
    reader = as_person("reader", PAGE + address)
    reader.wait_for_text("You may not read this")
    expect(reader.frame.locator("body")).not_to_contain_text("gpt-6-luna")
    assert any("403" in error for error in reader.errors)
    reader.errors.clear()


def test_who_may_not_change_a_dag_is_told_so_and_nothing_is_cancelled(
    as_person: Callable[..., Viewer], night: Night
) -> None:
    reader = as_person("reader")
    reader.open_job(SEEN_DAG)
    reader.frame.get_by_role("button", name="Cancel…").click()
    dialog = reader.frame.get_by_role("dialog")
    expect(dialog).to_contain_text(f"You may not change task instances of Dag {SEEN_DAG}")
    expect(dialog.get_by_role("button", name="Cancel the job")).to_be_disabled()
    assert "cancelled" not in night.statuses(SEEN_DAG)
    reader.errors.clear()  # the refused question


def test_who_may_change_a_dag_can_cancel(as_person: Callable[..., Viewer], night: Night) -> None:
    keeper = as_person("keeper")
    keeper.open_job(HIDDEN_DAG)
    keeper.frame.get_by_role("button", name="Cancel…").click()
    keeper.frame.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    keeper.wait_for_text("Stopped")

    def is_cancelled() -> bool:
        night.emulator.clock.advance(5)
        return night.statuses(HIDDEN_DAG) == ["cancelled"]

    night.stack.wait_until(is_cancelled, "the batch to be cancelled")


def test_requests_and_answers_are_for_those_who_may_read_the_logs(as_person: Callable[..., Viewer]) -> None:
    reader = as_person("reader")
    reader.open_job(SEEN_DAG)
    reader.frame.get_by_role("button", name="Any rows").click()
    reader.wait_for_text("You may not see requests and answers")
    expect(reader.frame.locator(".sample li")).to_have_count(0)
    keeper = as_person("keeper")
    keeper.open_job(HIDDEN_DAG)
    expect(keeper.frame.locator(".sample li")).to_have_count(0)
    keeper.frame.get_by_role("button", name="Any rows").click()
    expect(keeper.frame.locator(".sample li")).to_have_count(10)
    reader.errors.clear()  # the browser logs the refused call
    # Without the page around it, too.
    refused = reader.context.request.get(f"/openai-batch/sample/{HIDDEN_DAG}?run_id=x&task_id=summaries")
    assert refused.status == 403
    reader.context.clear_cookies()
    assert reader.context.request.get(f"/openai-batch/sample/{SEEN_DAG}?run_id=x&task_id=submit").status == 401


def test_who_may_not_read_xcoms_is_told_what_is_missing(as_person: Callable[..., Viewer]) -> None:
    guest = as_person("guest")
    guest.wait_for_text("You may not read this")
    expect(guest.main).to_contain_text("XComs")
    guest.errors.clear()


def test_who_is_logged_out_is_told_so_and_the_page_stops_asking(as_person: Callable[..., Viewer]) -> None:
    reader = as_person("reader")
    reader.wait_for_rows()
    reader.wait_until_looked()
    reader.context.clear_cookies()
    reader.frame.locator("#refresh").click()
    reader.wait_for_text("You are not logged in")
    reader.picture("logged-out")
    reader.forget()
    reader.page.wait_for_timeout(12_000)
    assert reader.calls == []
    reader.frame.get_by_role("link", name="Log in").click()
    reader.page.wait_for_url(lambda url: "/auth/login" in url and PAGE in unquote(url))
    reader.errors.clear()


def test_the_entry_is_in_airflows_navigation(as_person: Callable[..., Viewer]) -> None:
    reader = as_person("reader", NAV)
    reader.wait_for_rows()
    expect(reader.rows).to_have_count(1)
    reader.errors.clear()  # Airflow's own frame asks for things that this person may not see
