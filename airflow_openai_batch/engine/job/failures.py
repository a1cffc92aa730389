"""What each kind of failed call means for a shard: wait, go back in line, give up, or ask for manual intervention."""

from __future__ import annotations

import msgspec

from airflow_openai_batch.engine.api.errors import ACCOUNT_CODES, queue_limit
from airflow_openai_batch.engine.durations import duration_text
from airflow_openai_batch.engine.errors import ApiError, Denied, NotFound, Refused
from airflow_openai_batch.engine.job.context import Engine, Learned
from airflow_openai_batch.engine.job.state_machine import Fact, ShardUpdate, account_problem, backoff_s
from airflow_openai_batch.engine.model import Backoff, Batch, Job, LineError, Shard
from airflow_openai_batch.engine.redaction import without_values

_UNFIT_FACTOR, _DOUBTFUL_FACTOR, _DOUBTFUL_WAITS = 4, 1.1, 6
"""A shard whose estimate exceeds OpenAI's limit four times will never fit. Below, the estimate may be off, as OpenAI's
own may be: then it must have been refused for half an hour too."""
_MAX_PROBLEM = 500
"""Characters of an error message that are kept."""


def problem_of(error: ApiError | str) -> str:
    """Return an error's message as a shard keeps it, and XCom and logs show it."""
    # What is refused for its content may be quoted.
    may_quote = isinstance(error, Refused) and not isinstance(error, NotFound)
    return (without_values(str(error)) if may_quote else str(error))[:_MAX_PROBLEM]


def postponed(engine: Engine, shard: Shard, error: ApiError) -> Learned:
    """Try again later, with back-off or when OpenAI says so. Nothing else changes.

    Args:
        engine: The engine.
        shard: The shard that was acted on.
        error: Why the call failed; its ``retry_after_s`` lengthens the pause.
    """
    pause = _pause_s(engine, shard, error.retry_after_s)
    engine.log.warning("Shard %s: %s Trying again in %.0f s; nothing is lost.", shard.id, problem_of(error), pause)
    not_before = max(shard.not_before, engine.clock() + pause)
    update = ShardUpdate(
        backoff=_one_more_wait(shard, not_before),
        problem=problem_of(error),
        refused_at=refused_at(engine, shard, error),
    )
    if shard.intent is not None:
        update["intent"] = msgspec.structs.replace(shard.intent, n_looks=shard.intent.n_looks + 1)
    return Learned(Fact.POSTPONED, update)


def asked_later(engine: Engine, shard: Shard, until: float, error: ApiError | None) -> ShardUpdate:
    """Return what is known of a shard whose requests are asked on after a pause that is too long for a worker.

    Args:
        engine: The engine.
        shard: The shard, which is asked synchronously.
        until: Epoch seconds until which nothing may be asked.
        error: Why, if a request has failed.
    """
    now, n_waits = engine.clock(), shard.backoff.n_waits + 1
    until = max(until, now + backoff_s(n_waits, engine.timing))
    problem = problem_of(error) if error is not None else "The rate limit is used up."
    engine.log.warning("Shard %s: %s Going on in %.0f s.", shard.id, problem, until - now)
    return ShardUpdate(backoff=Backoff(not_before=until, n_waits=n_waits), problem=problem)


def refused_at(engine: Engine, shard: Shard, error: ApiError) -> float | None:
    """Return since when OpenAI refuses to answer for a shard, if this error is such an answer; epoch seconds.

    Args:
        engine: The engine.
        shard: The shard.
        error: OpenAI's answer.
    """
    if not isinstance(error, Denied | NotFound):
        return None
    return shard.refused_at if shard.refused_at is not None else engine.clock()


def is_believed(engine: Engine, job: Job, shard: Shard, error: ApiError) -> bool:
    """Return whether a 401, 403 or 404 is to be believed: a replica, a proxy or a rotated key answers so for a while.

    Args:
        engine: The engine.
        job: The shard's job. Of one that OpenAI has accepted nothing of, wrong credentials are believed at once.
        shard: The shard.
        error: OpenAI's answer. That an account is out of money is believed at once.
    """
    if isinstance(error, Denied) and concerns_all(job, error):
        return True
    return shard.refused_at is not None and engine.clock() - shard.refused_at >= engine.timing.belief_s


def is_new(job: Job) -> bool:
    """Return whether OpenAI has accepted nothing of a job yet: its connection may never have worked."""
    return all(s.upload.n_uploads == 0 for s in job.all_shards)


def not_spoken(engine: Engine, error: ApiError) -> str:
    """Return what a person has to do whose connection leads to something other than OpenAI's API.

    Args:
        engine: The engine.
        error: What answered.
    """
    address = engine.api.address
    hint = "" if address.endswith("/v1") else f", most often {address}/v1"
    return (
        f"What answers at {address} does not speak OpenAI's API ({error}). Nothing was sent. Set the connection's host "
        f"to the API's whole address{hint}; if a login page or a firewall answers, let the workers pass it. Then clear "
        "this task."
    )


TOO_LARGE = 413


def too_large(engine: Engine, shard: Shard, error: ApiError) -> Learned:
    """Hold a job with a file that the server, or a proxy before it, finds too large: smaller ones are for a person.

    Args:
        engine: The engine.
        shard: The shard that was to be uploaded.
        error: The refusal.
    """
    upload = msgspec.structs.replace(shard.upload, n_refused=shard.upload.n_refused + 1)
    advice = (
        f"Set max_requests_per_batch={shard.n_requests // 2} (or less) and clear the submitting task: the rows are cut "
        "into smaller files, and answers that exist are kept."
        if shard.n_requests > 1
        else "It holds a single row, so that row has to become shorter."
    )
    hold = (
        f"The file of shard {shard.id} ({shard.n_requests:,} requests, {shard.n_bytes / 1e6:.1f} MB) is larger than "
        f"the server or a proxy before it takes: {error}. Nothing of it was sent or billed. {advice}"
    )
    return Learned(Fact.POSTPONED, ShardUpdate(upload=upload, problem=problem_of(error)), hold=hold)


def is_lifetime_refused(job: Job, error: ApiError) -> bool:
    """Return whether a server refuses the lifetime that the job's files are to have.

    Args:
        job: The job.
        error: The refusal of an upload or a create. Its parameter is `expires_after` or `output_expires_after`.
    """
    return job.policy.files_expire_after_s is not None and "expire" in str(error).lower()


def lifetime_refused(job: Job, error: ApiError) -> str:
    """Return what a person has to do whose server does not take the lifetime of files.

    Args:
        job: The job.
        error: The refusal.
    """
    lifetime_s = job.policy.files_expire_after_s or 0
    return (
        f"The server refused files_expire_after={duration_text(lifetime_s)} ({error}). No batch was created with it. "
        "OpenAI takes 1 hour to 30 days, Azure OpenAI 14 to 30 days, other servers perhaps none: set "
        "files_expire_after to what yours takes, or leave it out, and clear the submitting task."
    )


def concerns_all(job: Job, error: Denied) -> bool:
    """Return whether a denial is plainly no matter of one shard: nothing was accepted yet, or the account is empty.

    Args:
        job: The job.
        error: OpenAI's answer.
    """
    return is_new(job) or error.code in ACCOUNT_CODES or (error.code or "").endswith("_spend_limit_exceeded")


def denied(error: ApiError) -> str:
    """Return what a person with the account has to do."""
    hint = ""
    if error.code == "incorrect_hostname":
        hint = " The key belongs to another region: set the connection's host to that region's address."
    return (
        f"OpenAI refused the credentials or the account ({error}).{hint} Nothing is lost: batches that run go on, and "
        "after the connection or the account is mended, clearing this task takes them up again without paying twice."
    )


def rejected(engine: Engine, shard: Shard, error: ApiError) -> Learned:
    """Give the shard up: OpenAI will not take it, and nothing was billed.

    Args:
        engine: The engine.
        shard: The shard that was to be uploaded or sent.
        error: OpenAI's refusal.
    """
    engine.log.error("Shard %s: OpenAI refused it: %s", shard.id, problem_of(error))
    rejection = LineError(code=error.code or f"http_{error.status}", message=str(error))
    backoff = msgspec.structs.replace(shard.backoff, not_before=0.0)
    return Learned(
        Fact.LINES_REJECTED, ShardUpdate(rejections=(rejection,), problem=problem_of(error), backoff=backoff)
    )


def not_created(engine: Engine, shard: Shard, error: ApiError, pause_s: float | None = None) -> ShardUpdate:
    """Return what is known of a shard whose batch was certainly not created: it will be tried again.

    Args:
        engine: The engine.
        shard: The shard.
        error: What the call came back with; its ``retry_after_s`` lengthens the pause.
        pause_s: Seconds until the next try; by default they grow with each failure.
    """
    pause = _pause_s(engine, shard, error.retry_after_s) if pause_s is None else max(pause_s, error.retry_after_s or 0)
    engine.log.warning("Shard %s: no batch was created: %s", shard.id, problem_of(error))
    return ShardUpdate(
        intent=None,
        backoff=_one_more_wait(shard, engine.clock() + pause),
        problem=problem_of(error),
        refused_at=refused_at(engine, shard, error),
    )


def back_in_line(engine: Engine, shard: Shard, batch: Batch | None) -> ShardUpdate:
    """Return what is known of a shard whose batch ended before it ran: it waits, with back-off, to be sent again.

    Args:
        engine: The engine.
        shard: The shard.
        batch: The batch that ended, or None if the call that was to create it was refused.
    """
    past = shard.past_batches if batch is None else (*shard.past_batches, batch.id)
    not_before = engine.clock() + _pause_s(engine, shard)
    return ShardUpdate(batch=None, past_batches=past, intent=None, backoff=_one_more_wait(shard, not_before))


def queue_full(engine: Engine, shard: Shard, message: str, batch: Batch | None) -> Learned:
    """Put the shard back in line, unbilled. What can never fit, and what only money can mend, is reported at once.

    Args:
        engine: The engine.
        shard: The shard.
        message: OpenAI's words, which may state the limit.
        batch: The batch that failed while validating, or None if the create call was refused.
    """
    update = back_in_line(engine, shard, batch)
    update["problem"] = problem_of(message)
    update["backoff"] = msgspec.structs.replace(update["backoff"], n_full=shard.backoff.n_full + 1)
    engine.log.warning(
        "Shard %s: OpenAI's queue is full, nothing was billed; next try in %.0f s. %s",
        shard.id,
        update["backoff"].not_before - engine.clock(),
        message,
    )
    hold = None
    if batch is not None and (problem := account_problem(batch)):
        hold = denied(Denied(problem))
    stated = queue_limit(message)
    limit = stated.n if stated is not None and stated.unit == "tokens" else None
    factor = _UNFIT_FACTOR if shard.backoff.n_waits < _DOUBTFUL_WAITS else _DOUBTFUL_FACTOR
    if limit is not None and shard.n_tokens > factor * limit:
        hold = (
            f"Shard {shard.id} has about {shard.n_tokens:,} input tokens, but OpenAI allows {limit:,} in the queue, so "
            f"it can never be sent. Nothing was billed for it. Set max_enqueued_tokens={limit} (or less) and clear the "
            "submitting task: the rows are cut into smaller shards, and answers that exist are kept."
        )
    return Learned(Fact.QUEUE_FULL, update, hold=hold)


def _pause_s(engine: Engine, shard: Shard, asked_s: float | None = None) -> float:
    return max(backoff_s(shard.backoff.n_waits + 1, engine.timing), asked_s or 0.0)


def _one_more_wait(shard: Shard, not_before: float) -> Backoff:
    return msgspec.structs.replace(shard.backoff, not_before=not_before, n_waits=shard.backoff.n_waits + 1)
