"""Counts become a summary, and thresholds are judged. Pure."""

from __future__ import annotations

import msgspec

from airflow_openai_batch.engine.job.planner import deserves_another_round
from airflow_openai_batch.engine.model import (
    BILLED,
    UNSENT,
    Cost,
    Job,
    LineError,
    Policy,
    Shard,
    State,
    Status,
    Usage,
    Value,
)
from airflow_openai_batch.engine.money.dollars import PICODOLLARS, cost_text, format_dollars, in_dollars
from airflow_openai_batch.engine.redaction import without_values

_MAX_MESSAGE = 300


class Summary(Value, frozen=True, kw_only=True):
    """Where a job stands, small enough for XCom."""

    n_rows: int
    by_status: dict[Status, int]
    """Settled rows by outcome, each row once, in its last round."""
    usage: Usage
    """Of all rounds and epochs, as the cost."""
    cost: Cost = Cost()
    batch_ids: tuple[str, ...]
    n_shards: int
    """Those whose rows are asked; rows that are skipped, or have the outcomes of others, are in none of them."""
    n_settled: int
    rounds: int
    """The highest round so far; 0 when no row had to be asked again."""
    n_progress: int = 0
    """Rows that OpenAI reports as finished in batches that still run. For people; never for accounting."""
    n_carried: int = 0
    """Rows whose answer was there before, of an earlier epoch or of another job: unpaid."""
    n_reused: int = 0
    """Of these, rows whose answer came from another job, or from an equal request of this one."""
    reuse_saved_picodollars: int = 0
    """What the reused answers cost when they were asked."""
    n_direct: int = 0
    """Rows that were answered synchronously, as the moment of ``finish_by`` had come."""
    direct_picodollars: int = 0
    """What these answers cost, as far as that is known."""
    n_maybe_paid_twice: int = 0
    """Synchronous requests that may have been paid twice, as a process died or an answer was lost."""
    max_cost: int | None = None
    """The job's cap in picodollars; None if it has none."""
    rejections: tuple[LineError, ...] = ()

    @property
    def n_succeeded(self) -> int:
        """Rows with a good answer."""
        return self.by_status.get(Status.SUCCEEDED, 0)

    @property
    def n_skipped(self) -> int:
        """Rows that were not sent, because their prompt held nothing."""
        return self.by_status.get(Status.SKIPPED, 0)


def summarize(job: Job) -> Summary:
    """Count a job's rows by outcome."""
    by_status: dict[Status, int] = {}
    for shard in job.shards:
        for status, n in _final(job, shard).items():
            by_status[status] = by_status.get(status, 0) + n
        if shard.n_carried:
            by_status[Status.SUCCEEDED] = by_status.get(Status.SUCCEEDED, 0) + shard.n_carried
    running = [s.batch for s in job.shards if s.state is State.RUNNING and s.batch is not None]
    direct = [shard for shard in job.shards if shard.direct is not None]
    return Summary(
        n_rows=job.n_rows,
        by_status={status: n for status, n in sorted(by_status.items()) if n},
        usage=job.usage,
        cost=job.cost,
        batch_ids=tuple(s.batch.id for s in job.shards if s.batch is not None),
        n_shards=sum(s.is_asked for s in job.shards),
        n_settled=sum(s.state is State.SETTLED and s.is_asked for s in job.shards),
        rounds=max((s.round for s in job.shards), default=0),
        n_progress=sum(batch.n_completed + batch.n_failed for batch in running),
        n_carried=sum(s.n_carried for s in job.shards),
        n_reused=job.n_reused,
        reuse_saved_picodollars=job.reuse_saved_picodollars,
        n_direct=sum(shard.tally.get(status, 0) for shard in direct for status in BILLED),
        direct_picodollars=sum(shard.cost.picodollars for shard in direct),
        n_maybe_paid_twice=job.n_maybe_paid_twice,
        max_cost=job.policy.max_cost,
        # A refused follow-up concerns few rows, which the thresholds judge.
        rejections=tuple(_tellable(error) for s in job.shards if s.parent is None for error in s.rejections)[:20],
    )


def money_of(summary: Summary) -> dict[str, float | int | None]:
    """Return what is told of a job's money, wherever it is told, in dollars: of its cost, its cap, and what it reused.

    Args:
        summary: The job's summary. ``max_cost`` is None without a cap; ``reused_rows`` are part of the succeeded ones.
            ``direct_rows`` were answered synchronously; ``maybe_paid_twice`` counts synchronous requests.
    """
    return {
        **in_dollars(summary.cost),
        "max_cost": None if summary.max_cost is None else summary.max_cost / PICODOLLARS,
        "reused_rows": summary.n_reused,
        "saved_by_reuse": summary.reuse_saved_picodollars / PICODOLLARS,
        "direct_rows": summary.n_direct,
        "cost_of_direct": summary.direct_picodollars / PICODOLLARS,
        "maybe_paid_twice": summary.n_maybe_paid_twice,
    }


def money_text(cost: Cost, max_cost: int | None, n_reused: int, reuse_saved: int) -> str:
    """Return a job's money for a person: ``$12.40, $12.40 saved; max_cost is $25.00; 900 answers reused, …``.

    Args:
        cost: What its answers cost.
        max_cost: Its cap in picodollars, or None.
        n_reused: Rows whose answers are reused.
        reuse_saved: What these cost when they were asked, in picodollars.
    """
    parts = [cost_text(cost)]
    if max_cost is not None:
        parts.append(f"max_cost is {format_dollars(max_cost)}")
    if n_reused:
        saved = f", which saved {format_dollars(reuse_saved)}" if reuse_saved else ""
        parts.append(f"{counted(n_reused, 'answer')} reused{saved}")
    return "; ".join(parts)


def _tellable(error: LineError) -> LineError:
    """Return a batch's error as it may stand in XCom and logs: OpenAI's message may quote a row."""
    return msgspec.structs.replace(error, message=without_values(error.message)[:_MAX_MESSAGE])


def _final(job: Job, shard: Shard) -> dict[Status, int]:
    """Return the rows that this shard has the last word on: what a child asks again is the child's."""
    if shard.child is None:
        return shard.tally
    return {status: n - shard.asked_again.get(status, 0) for status, n in shard.tally.items()}


def check_thresholds(summary: Summary, policy: Policy) -> str | None:
    """Return why a finished job is not good enough, or return None if it is.

    A job with no good answer at all is never good enough, whatever the thresholds say, unless it has no rows. Rows that
    were skipped are not bad ones, and the share of bad ones is that of the others.
    """
    n_asked = summary.n_rows - summary.n_skipped
    n_bad = n_asked - summary.n_succeeded
    counts = ", ".join(f"{n:,} {status}" for status, n in summary.by_status.items() if status is not Status.SUCCEEDED)
    if summary.rejections:
        return f"OpenAI refused a whole batch before running it, unbilled: {_listed(summary.rejections)}"
    if not summary.n_rows:
        return None
    if not n_asked:
        return (
            f"Nothing was asked: all {summary.n_rows:,} rows were skipped, as the columns of their prompts are null or "
            "blank. Look at where they come from."
        )
    if summary.n_succeeded == 0:
        return f"No row has a good answer: {counts or 'no outcome at all'}."
    if policy.max_bad_rows is not None and n_bad > policy.max_bad_rows:
        return f"{n_bad:,} of {n_asked:,} rows have no good answer ({counts}); max_bad_rows is {policy.max_bad_rows:,}."
    if n_bad > policy.max_bad_ratio * n_asked:
        return (
            f"{n_bad:,} of {n_asked:,} rows ({share(n_bad, n_asked)}) have no good answer ({counts}); "
            f"max_bad_ratio allows {policy.max_bad_ratio:.1%}."
        )
    return None


def _listed(errors: tuple[LineError, ...]) -> str:
    texts = []
    for error in errors[:5]:
        where = f" (first: custom_id {error.custom_id!r}, line {error.line})" if error.custom_id else ""
        texts.append(f"{error.n} x {error.code}: {error.message}{where}")
    return "; ".join(texts)


def whereabouts(job: Job) -> str:
    """Return where a job's requests are: answered, at OpenAI, or to be sent by whoever moves the job now."""
    n_again = sum(sum(s.asked_again.values()) for s in job.shards if deserves_another_round(job, s))
    n_done = sum(sum(_final(job, s).values()) + s.n_carried for s in job.shards) - n_again
    n_doubtful = sum(s.n_requests for s in job.shards if s.state is State.CREATING)
    n_there = sum(s.n_requests for s in job.shards if s.state in (State.RUNNING, State.ENDED))
    n_direct = sum(s.n_requests - s.direct.n_done for s in job.shards if s.state is State.ASKING and s.direct)
    n_unsent = sum(s.n_requests for s in job.shards if s.state in UNSENT) + n_again
    parts = [f"{counted(n_done, 'row')} done"]
    if n_there:
        parts.append(f"{counted(n_there, 'request')} sent already, and not again")
    if n_direct:
        parts.append(f"{counted(n_direct, 'request')} to be asked synchronously")
    if n_doubtful:
        parts.append(f"{counted(n_doubtful, 'request')} to look for at OpenAI")
    if n_unsent:
        parts.append(f"{counted(n_unsent, 'request')} to be sent")
    return ", ".join(parts)


def counted(n: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: ``1 shard``, ``2,000 shards``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def share(n: int, n_all: int) -> str:
    """Return a part of a whole for a person, rounded to a tenth of a percent, but to 0% or 100% only where it is that.

    Args:
        n: The part.
        n_all: The whole, not 0.
    """
    percent = round(100 * n / n_all, 1)
    if n > 0 and percent < 0.1:
        return "<0.1%"
    return ">99.9%" if n < n_all and percent > 99.9 else f"{percent:.1f}%"


def progress_line(summary: Summary) -> str:
    """Return one line for a log: how far a job is."""
    done = sum(summary.by_status.values())
    shards = f"{summary.n_settled} of {counted(summary.n_shards, 'shard')}"
    parts = [f"{done:,} of {counted(summary.n_rows, 'row')} settled", shards]
    if summary.n_progress:
        parts.append(f"{summary.n_progress:,} rows finished at OpenAI and not yet fetched")
    if summary.by_status:
        parts.append(", ".join(f"{n:,} {status}" for status, n in summary.by_status.items()))
    return "; ".join(parts)
