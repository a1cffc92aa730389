"""A history of many jobs: copies of a real Dag run with its tasks and XComs, ever further back in time."""

from __future__ import annotations

import json
from collections.abc import Sequence

import psycopg2
from psycopg2.extensions import connection as Connection

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
"""What a page that takes data for HTML would run."""

PRICED = "history__0002"
"""The run whose job tells what it cost."""

UNPRICED = "history__0003"
"""The run whose job does not."""

# The rows of a run's tasks that point to what is not copied.
_DROPPED = {"trigger_id": "NULL", "external_executor_id": "NULL", "queued_by_job_id": "NULL", "pid": "NULL"}


def seed(url: str, dag_id: str, run_id: str, n: int) -> None:
    """Copy a run `n` times; copy number k is k hours older, its tasks succeeded and its results are written.

    Args:
        url: The database, as SQLAlchemy writes it.
        dag_id: The run's Dag.
        run_id: The run; it has left its progress.
        n: How many copies.
    """
    with psycopg2.connect(url.replace("+psycopg2", "")) as connection:
        _copy_run(connection, dag_id, run_id, n, "history", hours=1)
        _change(connection, dag_id, "history__%", {"phase": "written"})
        _change(connection, dag_id, PRICED, {"cost": 12.5})
        _change(connection, dag_id, UNPRICED, dict.fromkeys(("cost", "expected_cost", "upper_cost", "max_cost")))
        _poison(connection, dag_id)
    connection.close()


def seed_nights(url: str, dag_id: str, run_id: str, nights: Sequence[dict[str, object] | None]) -> None:
    """Copy a run for each night before it, the newest first: `night__0001` is a day older than the run.

    Args:
        url: The database, as SQLAlchemy writes it.
        dag_id: The run's Dag.
        run_id: The run; it has left its progress.
        nights: What the job of the run, and of each night before, tells otherwise; None for a night without a job.
    """
    with psycopg2.connect(url.replace("+psycopg2", "")) as connection:
        _copy_run(connection, dag_id, run_id, len(nights) - 1, "night", hours=24)
        for number, told in enumerate(nights):
            run = f"night__{number:04}" if number else run_id
            if told is None:
                with connection.cursor() as cursor:
                    cursor.execute("DELETE FROM xcom WHERE dag_id = %s AND run_id = %s", (dag_id, run))
            else:
                _change(connection, dag_id, run, told)
    connection.close()


def add_task(url: str, dag_id: str, runs: str, task_id: str, told: dict[str, object]) -> None:
    """Give runs another job, as a copy of the one that they have.

    Args:
        url: The database, as SQLAlchemy writes it.
        dag_id: The Dag.
        runs: The runs, as a pattern of SQL's LIKE.
        task_id: The task that the job belongs to.
        told: What it tells otherwise.
    """
    job = {"job": {"dag_id": dag_id, "task_id": task_id, "map_index": -1}}
    with psycopg2.connect(url.replace("+psycopg2", "")) as connection:
        where = "t.dag_id = %(dag_id)s AND t.run_id LIKE %(runs)s AND t.key LIKE 'openai_batch_progress.%%'"
        value = "(value::jsonb || %(told)s::jsonb)::json"
        given = {"dag_id": dag_id, "runs": runs, "n": 1, "told": json.dumps({**job, **told})}
        _copy(connection, "xcom", where, given, {"key": f"'openai_batch_progress.{task_id}'", "value": value})
    connection.close()


def _copy_run(connection: Connection, dag_id: str, run_id: str, n: int, prefix: str, hours: int) -> None:
    """Copy a run with its tasks and XComs; copy number k is so many hours older as the one before."""
    where = "t.dag_id = %(dag_id)s AND t.run_id = %(run_id)s"
    given = {"dag_id": dag_id, "run_id": run_id, "n": n}
    name = f"'{prefix}__' || lpad(k::text, 4, '0')"
    new, old = {"run_id": name}, f"k * interval '{hours} hour'"
    _copy(connection, "dag_run", where, given, {**new, "state": "'success'", "run_after": f"run_after - {old}"})
    ended = {"state": "'success'", "start_date": f"start_date - {old}", "end_date": f"start_date - {old}"}
    _copy(connection, "task_instance", where, given, {**new, **_DROPPED, **ended, "id": "gen_random_uuid()"})
    ours = f"(SELECT r.id FROM dag_run r WHERE r.dag_id = t.dag_id AND r.run_id = {name})"
    _copy(connection, "xcom", where, given, {**new, "dag_run_id": ours, "timestamp": f"timestamp - {old}"})


def _copy(connection: Connection, table: str, where: str, given: dict[str, object], changed: dict[str, str]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND table_schema = 'public'"
            " AND column_default IS NULL OR table_name = %s AND column_name = 'id' AND data_type = 'uuid'",
            (table, table),
        )
        names = [name for (name,) in cursor.fetchall()]
        values = [changed.get(name, f"t.{name}") for name in names]
        cursor.execute(
            f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)}"
            f" FROM {table} t CROSS JOIN generate_series(1, %(n)s) k WHERE {where}",
            given,
        )


def _poison(connection: Connection, dag_id: str) -> None:
    """Put hostile text into the newest copy."""
    errors = [{"status": HOSTILE, "code": HOSTILE, "n": 1, "custom_ids": [HOSTILE]}]
    batches = [{"id": HOSTILE, "status": HOSTILE, "n_total": 1, "n_completed": 1, "n_failed": 0}]
    hostile = {"problem": HOSTILE, "model": HOSTILE, "output": "javascript:alert(1)", "errors": errors}
    hostile |= {"batches": batches, "by_status": {HOSTILE: 3}, "host": "api.openai.com"}
    _change(connection, dag_id, "history__0001", hostile)


def _change(connection: Connection, dag_id: str, runs: str, changes: dict[str, object]) -> None:
    """Change what the jobs of some runs tell; `runs` is a pattern of SQL's LIKE."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE xcom SET value = (value::jsonb || %s::jsonb)::json WHERE dag_id = %s AND run_id LIKE %s"
            " AND key LIKE 'openai_batch_progress.%%'",
            (json.dumps(changes), dag_id, runs),
        )
