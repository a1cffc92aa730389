"""What a person can do about rows without a good answer. Pure."""

from __future__ import annotations

import shlex

from airflow_openai_batch.engine.job.summary import Summary, counted
from airflow_openai_batch.engine.model import GOOD, Job, Status


def ways_on(job: Job, summary: Summary) -> tuple[str, ...]:
    """Return the ways on from a finished job with bad rows, one sentence each; none if every row is good.

    Args:
        job: The job.
        summary: Its counts.
    """
    bad = {status: n for status, n in summary.by_status.items() if n and status not in GOOD}
    if not bad:
        return ()
    policy = job.policy
    ways = []
    if summary.rejections:
        ways.append("Mend what OpenAI names, and clear the submitting task: it is sent anew, and nothing was billed.")
    n_passing = sum(sum(shard.retryable.values()) for shard in job.shards if shard.child is None)
    if n_passing:
        ways.append(
            f"For {counted(n_passing, 'row')} that failed for a passing reason: raise max_rounds, now "
            f"{policy.max_rounds}, and clear the submitting task."
        )
    if bad.get(Status.INVALID):
        ways.append(
            "For invalid answers: change the prompt or response_model; retry_on=['invalid'] asks with the validation "
            "error added."
        )
    if bad.get(Status.TRUNCATED):
        ways.append("For truncated answers: allow more output tokens in the body.")
    ways.append(
        f"To ask all {counted(sum(bad.values()), 'row')} once more as they are: `python -m airflow_openai_batch replay "
        f"{_arguments(job)}`, then clear the task that waits."
    )
    ways.append(
        "Where their rows or the prompt are mended, clearing the submitting task asks only the requests that changed. "
        f"If so many bad rows are acceptable, raise max_bad_ratio, now {policy.max_bad_ratio:.1%}."
    )
    return tuple(ways)


def _arguments(job: Job) -> str:
    key = job.key
    mapped = f" --map-index {key.map_index}" if key.map_index >= 0 else ""
    return f"{shlex.join((key.dag_id, key.run_id, key.task_id))}{mapped}"
