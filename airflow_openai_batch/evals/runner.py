"""The batches of an eval: both prompts at the same time, then the judge. Called again, it goes on where it was."""

from __future__ import annotations

from typing import Any

from airflow_openai_batch.engine.batch_job import BatchJob
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import Policy
from airflow_openai_batch.engine.notebook import wait_for
from airflow_openai_batch.engine.requests.sources import source_of
from airflow_openai_batch.evals.judgement import JUDGE_SCHEMA, PREFIX, SIDES
from airflow_openai_batch.evals.result import Result, result_of
from airflow_openai_batch.evals.scores import check_golden, judge_rows, pairs_of, with_judged
from airflow_openai_batch.evals.spec import EvalSpec

LEDGER = "evals"
"""Answers are kept under this name: a baseline that was asked before is not paid for again."""

MAX_LEFT_OUT = 0.05
"""The largest share of rows that may lack an answer for no fault of a prompt."""


def evaluate(
    spec: EvalSpec,
    digest: str,
    *,
    storage: Any,
    client: Any = None,
    progress: bool = True,
    poll_interval_s: float = 30.0,
) -> Result:
    """Ask both prompts, and the judge, and compare them.

    Args:
        spec: What is compared.
        digest: Tells this eval from others of its name; see ``spec.read_spec``.
        storage: Where jobs are kept, so that an eval that was interrupted goes on.
        client: See ``engine.batch_job.BatchJob``.
        progress: Whether to print where the batches stand.
        poll_interval_s: Seconds between two looks at them.

    Raises:
        InputError: The golden set, a prompt or an answer cannot be used; or too many rows have no answer.
        EngineError: The batches cannot be finished.
    """
    asking = _Asking(spec, digest, storage, client)
    golden = _golden(spec)
    check_golden(golden, expected=spec.expected, judge=spec.judge, endpoint=spec.endpoint)
    jobs = [
        asking.job(spec.golden, side, body, spec.schema)
        for side, body in zip(SIDES, (spec.baseline, spec.candidate), strict=True)
    ]
    wait_for(jobs, progress, poll_interval_s=poll_interval_s)
    pairs = pairs_of(golden, *map(asking.results, jobs), expected=spec.expected, answer=spec.answer)
    _check_left_out(sum(not pair.is_answered for pair in pairs), len(pairs), "an answer of both prompts")
    if spec.judge is not None:
        judged = []
        if rows := judge_rows(pairs):  # none, if no prompt has a good answer
            judge = asking.job(rows, "judge", spec.judge, JUDGE_SCHEMA)
            wait_for([judge], progress, poll_interval_s=poll_interval_s)
            judged = asking.results(judge)
        pairs = with_judged(pairs, judged)
        _check_left_out(sum(pair.judged is None for pair in pairs), len(pairs), "the judge's score")
    return result_of(
        spec.name,
        pairs,
        spec.metrics,
        tolerance=spec.tolerance,
        min_score=spec.min_score,
        costs=asking.costs,
        expected=spec.expected,
        passes_undecided=spec.undecided == "pass",
    )


class _Asking:
    """The jobs of an eval, by what they are for, and what they cost."""

    def __init__(self, spec: EvalSpec, digest: str, storage: Any, client: Any) -> None:
        self._spec, self._name, self._storage, self._client = spec, f"{spec.name}-{digest}", storage, client
        self.costs: dict[str, float | None] = {}

    def job(self, rows: Any, role: str, body: dict[str, Any], schema: dict[str, Any] | None) -> BatchJob:
        return BatchJob(
            rows,
            name=f"{self._name}-{role}",
            endpoint=self._spec.endpoint,
            body=body,
            response_model=schema,
            column_prefix=PREFIX if schema is not None else None,
            storage=self._storage,
            client=self._client,
            max_cost=self._spec.max_cost,
            max_bad_ratio=1.0,  # a bad answer is a result here
            policy=Policy(reuse=LEDGER),
        )

    def results(self, job: BatchJob) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = job.table().to_pylist()
        costs = [row["cost"] for row in rows if row["cost"] is not None]
        is_known = all(row["cost"] is not None for row in rows if row["status"] == "succeeded")
        self.costs[job.name.rpartition("-")[2]] = float(sum(costs)) if is_known else None
        return rows


def _golden(spec: EvalSpec) -> list[dict[str, Any]]:
    return [row for batch in source_of(spec.golden, endpoint=spec.endpoint).batches() for row in batch.to_pylist()]


def _check_left_out(n: int, n_rows: int, subject: str) -> None:
    if n > MAX_LEFT_OUT * n_rows:
        raise InputError(
            f"{n:,} of {n_rows:,} rows lack {subject}, for reasons that no prompt has to answer for. That is too many "
            "to compare. Call again: what has an answer is not paid for again."
        )
