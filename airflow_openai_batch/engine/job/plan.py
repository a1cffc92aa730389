"""What a job would ask and what that would cost, told before anything is sent. Pure."""

from __future__ import annotations

from typing import Literal

from airflow_openai_batch.engine.job.state_machine import is_quiet
from airflow_openai_batch.engine.job.summary import summarize
from airflow_openai_batch.engine.model import UNSENT, Job, Shard, State, Value
from airflow_openai_batch.engine.money.estimate import Estimate, estimate_of, probe_cost
from airflow_openai_batch.engine.money.prices import prices_of

CapVerdict = Literal["fits", "may not fit", "does not fit", "not known"]
"""Whether a job stays under its cap: at most, by what is expected, not even by that."""


class Plan(Value, frozen=True, kw_only=True):
    """What a job would ask, and what that would cost."""

    n_rows: int
    n_to_ask: int
    """Requests that are not sent yet."""
    n_sent: int = 0
    """Requests that are at OpenAI, of a job that a task has begun to send."""
    n_done: int = 0
    """Rows with an outcome, but for those that are skipped, reused or carried over."""
    n_reused: int = 0
    n_carried: int = 0
    """Rows whose answer comes from before the job started over."""
    n_equal: int = 0
    """Rows whose request is equal to that of another one, which alone is asked."""
    n_skipped: int = 0
    n_ending: int = 0
    """Requests of before the job started over that are being cancelled: what they answer is not asked again."""
    n_batches: int = 0
    n_bytes: int = 0
    """Bytes of the batch input files that are not sent yet."""
    estimate: Estimate
    reuse_saved_picodollars: int = 0
    max_cost: int | None = None
    """The cap, in picodollars."""
    n_pilot: int = 0
    """Rows that are asked first, and alone."""
    is_probed: bool = False
    """Whether one row will be asked synchronously before that."""
    probe_picodollars: int | None = 0
    """What that costs at most, if the row is as long as the others; None if it is not known."""
    first_requests: str = ""
    """File with the first requests."""

    @property
    def cap_verdict(self) -> CapVerdict | None:
        """Whether the job stays under its cap; None if it has none."""
        expected, upper = self.estimate.expected_picodollars, self.estimate.upper_picodollars
        if self.max_cost is None:
            return None
        if self.probe_picodollars is None:
            return "not known"
        left = self.max_cost - self.probe_picodollars
        is_counted = not self.estimate.n_uncounted
        if upper is not None and upper <= left and is_counted:
            return "fits"
        if expected is None:
            return "not known"
        if expected > left:
            return "does not fit"
        return "may not fit" if is_counted else "not known"


def plan_of(job: Job, first_requests: str = "") -> Plan:
    """Return the plan of a job.

    Args:
        job: The newest snapshot's job, with its measure.
        first_requests: The file with its first requests.
    """
    summary = summarize(job)
    unsent = [shard for shard in job.shards if shard.state in UNSENT and shard.n_requests]
    prices = prices_of(job.policy)
    is_probed = job.policy.probe and job.probe is None and bool(unsent)
    return Plan(
        n_rows=job.n_rows,
        n_to_ask=sum(shard.n_requests for shard in unsent),
        n_sent=sum(shard.n_requests for shard in job.shards if not is_quiet(shard)),
        n_done=sum(summary.by_status.values()) - summary.n_carried - summary.n_skipped,
        n_reused=job.n_reused,
        n_carried=summary.n_carried - job.n_reused,
        n_equal=sum(shard.n_rows - shard.n_carried for shard in job.shards if _waits_for_equal(shard)),
        n_skipped=summary.n_skipped,
        n_ending=sum(shard.n_requests for shard in job.earlier if not is_quiet(shard)),
        n_batches=len(unsent),
        n_bytes=sum(shard.n_bytes for shard in unsent),
        estimate=estimate_of(job, prices),
        reuse_saved_picodollars=job.reuse_saved_picodollars,
        max_cost=job.policy.max_cost,
        n_pilot=sum(shard.n_requests for shard in unsent if shard.is_pilot),
        is_probed=is_probed,
        probe_picodollars=probe_cost(job, prices, unsent) if is_probed else 0,
        first_requests=first_requests,
    )


def _waits_for_equal(shard: Shard) -> bool:
    return shard.is_repeat and shard.state is State.DRAFTED and not shard.n_requests
