"""Documents cut into chunks, in real Dags: of files, of other tasks, and not to be seen in Airflow's own tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_openai_batch.exceptions import OpenAIBatchFailure

TASK = """
    from airflow_openai_batch.chunking import Chunks
    @task
    def documents():
        return [{"id": 7, "text": "one two three"}, {"id": 8, "text": "a secret"}]
    @task
    def path():
        import pandas as pd
        os.makedirs(OUT, exist_ok=True)
        pd.DataFrame(documents.function()).to_parquet(f"{OUT}/in.parquet")
        return f"{OUT}/in.parquet"
    OpenAIBatchOperator(
        task_id="one", rows=Chunks(ROWS_HERE, text="text", key="id", max_characters=8), custom_id="{chunk_id}", **CHAT
    )
"""
CHUNKS = [("7#1", "one two"), ("7#2", "three"), ("8#1", "a secret")]


@pytest.mark.parametrize("rows", ["documents()", "path()", "documents.function()", "lambda: documents.function()"])
def test_chunks_of_whatever_rows_may_be(run_dag: Any, emulator: Any, rows: str) -> None:
    run = run_dag(TASK.replace("ROWS_HERE", rows))
    assert run.state == "success"
    assert [(row["chunk_id"], row["text"]) for row in run.xcom("one")] == CHUNKS
    assert {row.custom_id for row in emulator.ledger.rows()} == {"7#1", "7#2", "8#1"}
    upstream = run.dag.get_task("one").upstream_task_ids
    assert upstream == ({rows.removesuffix("()")} if rows in ("documents()", "path()") else set())
    fields = run.rendered_fields("one")
    assert fields["rows"].startswith("chunks of ")
    assert "secret" not in str(fields)


def test_a_templated_path_and_a_retry(run_dag: Any, emulator: Any, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": 7, "text": "one two three"}\n{"id": 8, "text": "a secret"}\n')
    run = run_dag(TASK.replace("ROWS_HERE", f"'{tmp_path}/{{{{ dag_run.conf.name }}}}.jsonl'"), conf={"name": "in"})
    assert run.state == "success"
    assert [(row["chunk_id"], row["text"]) for row in run.xcom("one")] == CHUNKS


@pytest.mark.parametrize(
    ("rows", "problem"),
    [("None", "rows is None"), ("'/rows.xlsx'", r"must end in"), ("[], body=None", "body=None is for ready-made")],
)
def test_mistakes_are_told_when_the_dag_is_parsed(run_dag: Any, rows: str, problem: str) -> None:
    documents, _, more = rows.partition(", ")
    call = f"""
        from airflow_openai_batch.chunking import Chunks
        chunks = Chunks({documents}, text="text", key="id", max_tokens=8)
        OpenAIBatchOperator(task_id="one", rows=chunks, **{{**CHAT, **dict({more})}})
    """
    with pytest.raises(OpenAIBatchFailure, match=problem):
        run_dag(call)
