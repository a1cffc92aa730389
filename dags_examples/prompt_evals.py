"""Compare two prompts over a golden set before one takes the other's place, and fail if the new one is worse.

Both prompts are batches that run at the same time; a third one judges their answers. The same as a command for builds:
`python -m airflow_openai_batch.evals eval.toml` (docs/evals.md).
"""

import os
from datetime import UTC, datetime
from typing import Any, Literal

from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import ObjectStoragePath, dag, task
from pydantic import BaseModel

from airflow_openai_batch.demo.packages import package_rows
from airflow_openai_batch.evals.judgement import JUDGE_SCHEMA, PREFIX
from airflow_openai_batch.operators import OpenAIBatchOperator

# [START prompt_evals]
FOLDER = os.environ.get("LABELING_FOLDER") or os.path.expanduser("~/airflow/labeling")
RUN = FOLDER + "/evals/{{ run_id }}"
PROMPTS = {
    "baseline": "Choose the topic of this Python package.",
    "candidate": "Choose the topic under which the authors of this Python package would file it.",
}
JUDGE = "Is {answer} the topic of this package? 5 is: exactly, 1 is: not at all.\n\n{name}: {summary}"


class Label(BaseModel):
    """The answer for one row."""

    topic: Literal["Database", "Internet", "Security", "Software Development", "System", "Text Processing", "Other"]


def golden() -> list[dict[str, Any]]:
    """Return the packages that have one topic by the word of their authors."""
    rows = [row for row in package_rows() if len(row["topics"]) == 1]
    return [{"name": row["name"], "summary": row["summary"], "expected": row["topics"][0]} for row in rows]


@dag(schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), tags=["openai_batch"])
def prompt_evals() -> None:
    """Hold a new prompt against the one in use."""
    shared: dict[str, Any] = {"endpoint": "/v1/responses", "max_cost": 5, "max_bad_ratio": 1, "reuse": "evals"}
    sides = {
        side: OpenAIBatchOperator(
            task_id=side,
            rows=golden,
            body={
                "model": "gpt-6-luna",
                "instructions": prompt,
                "input": "{name}: {summary}",
                "max_output_tokens": 100,
            },
            response_model=Label,
            column_prefix=PREFIX,
            output=f"{RUN}/{side}.parquet",
            **shared,
        )
        for side, prompt in PROMPTS.items()
    }

    @task.openai_batch(
        body={"model": "gpt-6-sol", "input": JUDGE, "max_output_tokens": 300},
        response_model=JUDGE_SCHEMA,
        column_prefix=PREFIX,
        output=RUN + "/judged.parquet",
        **shared,
    )
    def judged(baseline: dict[str, Any], candidate: dict[str, Any]) -> list[dict[str, Any]]:
        from airflow_openai_batch.evals.scores import judge_rows

        return judge_rows(pairs(baseline, candidate))

    @task
    def gate(baseline: dict[str, Any], candidate: dict[str, Any], judge: dict[str, Any], folder: str) -> str:
        """Write the report, and fail if the candidate is worse by the expected answers or by the judge."""
        from airflow_openai_batch.evals.report import summary, write_report
        from airflow_openai_batch.evals.result import result_of
        from airflow_openai_batch.evals.scores import with_judged

        scored = with_judged(pairs(baseline, candidate), read(judge))
        costs = {"baseline": baseline["cost"], "candidate": candidate["cost"], "judge": judge["cost"]}
        result = result_of("prompt_evals", scored, ["exact", "judged"], costs=costs, expected="expected")
        write_report(ObjectStoragePath(folder), result)
        if not result.has_passed:
            raise AirflowFailException(summary(result))
        return summary(result)

    outputs = [sides["baseline"].output, sides["candidate"].output]
    gate(*outputs, judged(*outputs), RUN)


def read(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that a manifest names."""
    import pyarrow.parquet as pq

    with ObjectStoragePath(manifest["output"]).open("rb") as file:
        rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
        return rows


def pairs(baseline: dict[str, Any], candidate: dict[str, Any]) -> Any:
    """Return the rows of both prompts side by side."""
    from airflow_openai_batch.evals.scores import pairs_of

    columns = ("name", "summary", "expected")
    first, second = read(baseline), read(candidate)
    rows = [{name: row[name] for name in columns} for row in first]
    return pairs_of(rows, first, second, expected="expected", answer="topic")


prompt_evals()
# [END prompt_evals]
