"""The argument finish_by: which moment it is, what is refused when a Dag is parsed, and a task that keeps it."""

from __future__ import annotations

import datetime
from zoneinfo import ZoneInfo

import pytest

from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import JobKey
from airflow_openai_batch.engine.store.job_store import JobStore
from airflow_openai_batch.exceptions import OpenAIBatchFailure
from airflow_openai_batch.hooks import as_path
from airflow_openai_batch.operators import OpenAIBatchOperator, OpenAIBatchSubmitOperator
from airflow_openai_batch.options import FinishBy

BERLIN = ZoneInfo("Europe/Berlin")
EVENING = datetime.datetime(2026, 11, 29, 22, 0, tzinfo=BERLIN)
BODY = {"model": "gpt-6-luna", "input": "{text}"}


@pytest.mark.parametrize(
    ("at", "moment"),
    [
        ("06:00", datetime.datetime(2026, 11, 30, 6, 0, tzinfo=BERLIN)),
        ("6:00", datetime.datetime(2026, 11, 30, 6, 0, tzinfo=BERLIN)),
        ("23:30:15", datetime.datetime(2026, 11, 29, 23, 30, 15, tzinfo=BERLIN)),
        ("22:00", datetime.datetime(2026, 11, 30, 22, 0, tzinfo=BERLIN)),
        (" 2026-12-01T06:00 ", datetime.datetime(2026, 12, 1, 6, 0, tzinfo=BERLIN)),
        ("2026-12-01T06:00Z", datetime.datetime(2026, 12, 1, 6, 0, tzinfo=datetime.UTC)),
        (datetime.datetime.fromisoformat("2026-12-01T06:00"), datetime.datetime(2026, 12, 1, 6, 0, tzinfo=BERLIN)),
        (datetime.datetime(2026, 12, 1, 6, 0, tzinfo=datetime.UTC), datetime.datetime(2026, 12, 1, 7, tzinfo=BERLIN)),
        (datetime.timedelta(hours=6), datetime.datetime(2026, 11, 30, 4, 0, tzinfo=BERLIN)),
    ],
)
def test_the_moment_is_the_next_one_in_the_dags_timezone(at, moment) -> None:
    assert FinishBy(at).moment(EVENING.timestamp(), BERLIN) == moment.timestamp()


@pytest.mark.parametrize(
    ("now", "hours"),
    [
        (datetime.datetime(2026, 3, 28, 22, 0, tzinfo=BERLIN), 7),
        (datetime.datetime(2026, 10, 24, 22, 0, tzinfo=BERLIN), 9),
    ],
)
def test_six_is_six_in_the_night_in_which_the_clock_changes(now, hours) -> None:
    start = now.timestamp()
    assert FinishBy("06:00").moment(start, BERLIN) - start == hours * 3600


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: FinishBy(6), "give a time such as '06:00'"),
        (lambda: FinishBy(datetime.timedelta(0)), "must be more than 0"),
        (lambda: FinishBy("06:00", tier="priority"), "tier must be 'default' or 'flex'"),
        (lambda: FinishBy("06:00", parallel=2.5), "parallel must be a whole number"),
        (lambda: FinishBy("6 o'clock").moment(0.0, BERLIN), 'finish_by="6 o\'clock": give a time'),
        (lambda: FinishBy("25:00").moment(0.0, BERLIN), "finish_by='25:00': give a time"),
        (lambda: FinishBy("2026-12-01").moment(0.0, BERLIN), "finish_by='2026-12-01': give a time"),
    ],
)
def test_what_is_no_moment_is_refused(make, problem) -> None:
    with pytest.raises(InputError, match=problem):
        make()


@pytest.mark.parametrize("operator", [OpenAIBatchSubmitOperator, OpenAIBatchOperator])
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"finish_by": "tomorrow"}, "finish_by='tomorrow': give a time"),
        ({"finish_by": 6}, "give a time such as '06:00'"),
        ({"finish_by": FinishBy("06:00", parallel=0)}, "parallel must be between 1 and 256, is 0"),
        (
            {"endpoint": "/v1/images/generations", "body": {"prompt": "{text}"}},
            "not possible for /v1/images/generations",
        ),
        ({"endpoint": "/v1/videos", "body": {"prompt": "{text}"}}, "not possible for /v1/videos"),
        (
            {"endpoint": "/v1/embeddings", "finish_by": FinishBy("06:00", tier="flex")},
            "/v1/embeddings has no service tier 'flex'",
        ),
    ],
)
def test_mistakes_are_errors_of_the_dag_file(operator, change, problem) -> None:
    given = {"task_id": "ask", "rows": [{"text": "a"}], "endpoint": "/v1/responses", "body": BODY, "finish_by": "06:00"}
    with pytest.raises(OpenAIBatchFailure, match=problem):
        operator(**{**given, **change})


@pytest.mark.parametrize("at", ["{{ var.value.moment }}", "06:00", datetime.timedelta(hours=1)])
def test_what_may_work_is_left_to_the_run(at) -> None:
    given = {"task_id": "ask", "rows": [{"text": "a"}], "endpoint": "{{ params.e }}", "body": BODY}
    assert OpenAIBatchSubmitOperator(**given, finish_by=at).finish_by == FinishBy(at)


def job_of(run, task_id: str = "ask"):
    storage = run.dag.task_dict[task_id].storage
    return JobStore(as_path(storage), JobKey(dag_id=run.dag.dag_id, run_id=run.run_id, task_id=task_id)).load().job


def test_a_template_is_rendered_and_the_moment_stored(run_dag, emulator) -> None:
    run = run_dag("""
        OpenAIBatchOperator(
            task_id="ask", rows=ROWS, finish_by="{{ '05' }}:00", storage=STORE, endpoint="/v1/responses",
            body={"model": "gpt-6-luna", "input": "{text}"},
        )
    """)
    assert run.states == {"ask": "success"}
    job = job_of(run)
    assert job.policy.finish_by == "05:00 UTC"
    assert 0 < job.finish_at - job.created_at <= 24 * 3600
    assert job.finish_at % (24 * 3600) == 5 * 3600


def test_a_deferred_task_is_woken_at_the_moment_and_finishes(run_dag, emulator) -> None:
    """Its batch takes ten hours; nobody but the trigger knows when to wake it."""
    settings = emulator.settings
    settings.duration, settings.validating, settings.finalizing = 36_000.0, 0.0, 0.5
    run = run_dag("""
        import datetime
        from airflow_openai_batch.options import FinishBy
        OpenAIBatchOperator(
            task_id="ask", rows=ROWS, finish_by=FinishBy(datetime.timedelta(seconds=4), parallel=3), storage=STORE,
            endpoint="/v1/responses", body={"model": "gpt-6-luna", "input": "{text}"},
        )
    """)
    assert run.states == {"ask": "success"}
    rows = run.xcom("ask")
    assert [row["status"] for row in rows] == ["succeeded"] * len(rows)
    assert "direct" in {row["via"] for row in rows}
    assert len({row.body_hash for row in emulator.ledger.rows()}) == emulator.ledger.n_rows() == len(rows)
    progress = run.xcom("ask", "openai_batch_progress.ask")
    assert progress["direct_rows"] == sum(row["via"] == "direct" for row in rows)
    assert progress["maybe_paid_twice"] == 0
