"""One row is asked synchronously before anything is uploaded: a body that OpenAI refuses is found in seconds.

The intent is stored before the call, so that a crash cannot pay for it twice; a row of which it is not known whether it
was answered is not asked again. In its batch it is asked all the same, with all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from airflow_openai_batch.engine.answers.parser import parser_of
from airflow_openai_batch.engine.api.errors import FILTER_CODES
from airflow_openai_batch.engine.errors import ApiError, CommitRefused, Denied, Refused
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.failures import denied, problem_of
from airflow_openai_batch.engine.model import BILLED, Cost, Job, Outcome, Probe, Shard, Status, Usage
from airflow_openai_batch.engine.money.dollars import cost_text, format_dollars
from airflow_openai_batch.engine.money.estimate import Estimator, Unpriced
from airflow_openai_batch.engine.money.prices import prices_of
from airflow_openai_batch.engine.money.tokens import most_output_tokens
from airflow_openai_batch.engine.redaction import without_values
from airflow_openai_batch.engine.store.job_store import JobStore, Snapshot

_TRIES = 20


class _Request(msgspec.Struct):
    custom_id: str
    body: dict[str, Any]
    n_bytes: int = 0


def is_due(job: Job) -> bool:
    """Return whether a row is to be asked before the job is sent, and was not yet in this epoch."""
    return job.policy.probe and job.probe is None


def refusal(job: Job) -> str | None:
    """Return why nothing of a job is sent, as its first row was refused; None if it was not."""
    is_refused = job.policy.probe and job.probe is not None and job.probe.result == "refused"
    return job.probe.reason if is_refused and job.probe is not None else None


def probe(engine: Engine, snapshot: Snapshot, shard: Shard) -> Snapshot:
    """Ask the first row of a shard and commit what came of it.

    Args:
        engine: The engine.
        snapshot: The newest snapshot, in which the probe is due.
        shard: The first shard that would be uploaded.

    Raises:
        CommitRefused: Another process moved the job before the row was asked; nothing was.
    """
    job, now = snapshot.job, engine.clock()
    request = _first_request(engine.store, shard)
    made = Probe(custom_id=request.custom_id, asked_at=now)
    if (reason := _over_cap(job, shard, request)) is not None:
        made = msgspec.structs.replace(made, result="refused", reason=reason)
        return engine.store.commit(snapshot.number + 1, msgspec.structs.replace(job, probe=made), now)
    snapshot = engine.store.commit(snapshot.number + 1, msgspec.structs.replace(job, probe=made), now)
    with engine.observer.acting("probe", shard) as act:
        told = _asked(engine, job, made, request)
        act.tell(fact=told.result)
    return _committed(engine, snapshot, made, told)


def _first_request(store: JobStore, shard: Shard) -> _Request:
    with store.open(shard.requests) as file:
        line = file.readline()
    return msgspec.structs.replace(msgspec.json.decode(line, type=_Request), n_bytes=len(line))


def _over_cap(job: Job, shard: Shard, request: _Request) -> str | None:
    """Return why the row must not be asked: even alone, it does not fit under the cap."""
    cap = job.policy.max_cost
    if cap is None:
        return None
    prices = prices_of(job.policy)
    estimator = Estimator(job, prices)
    tariff = prices.tariff(_model_of(request.body), tier="standard")
    most = Usage(
        input_tokens=round(estimator.of(shard).input_tokens * request.n_bytes / max(1, shard.n_bytes)),
        output_tokens=most_output_tokens(request.body, job.spec.endpoint) or 0,
    )
    try:
        committed = estimator.spent + estimator.running
    except Unpriced as unpriced:
        return f"max_cost is {format_dollars(cap)}, and {unpriced}"
    cost = tariff.cost(most) if tariff is not None else None
    if cost is not None and committed + cost <= cap:
        return None
    told = format_dollars(cost) if cost is not None else "an amount that is not known"
    return (
        f"max_cost is {format_dollars(cap)}, and the row that is asked first (probe=True) may cost {told} at "
        "synchronous prices. Nothing was sent. Raise max_cost, or leave the probe out, and clear the submitting task."
    )


def _model_of(body: Mapping[str, Any]) -> str | None:
    model = body.get("model")
    return model if isinstance(model, str) else None


def _asked(engine: Engine, job: Job, probe: Probe, request: _Request) -> Probe:
    """Ask the row, and return the probe with what came of it."""
    began_at = engine.clock()
    try:
        body = engine.api.ask(job.spec.endpoint, request.body, engine.timing.ask_timeout_s).body
    except ApiError as error:
        # What a content filter says of one row, it says of no other.
        if isinstance(error, Refused | Denied) and error.code not in FILTER_CODES:
            return msgspec.structs.replace(probe, result="refused", reason=_reason(probe, error, request))
        engine.log.warning(
            "Row %r was asked first, and it is not known what would come of it: %s It is not asked again before the "
            "batches.",
            probe.custom_id,
            problem_of(error),
        )
        return msgspec.structs.replace(probe, result="unknown", reason=problem_of(error))
    outcome = _read(engine, job, probe.custom_id, body)
    cost = _cost(job, _model_of(request.body), outcome)
    log = engine.log.info if outcome.status is Status.SUCCEEDED else engine.log.warning
    log(
        "Row %r was asked first: %s%s in %.1f s, cost %s at synchronous prices.",
        probe.custom_id,
        outcome.status,
        f" ({outcome.error_code})" if outcome.error_code else "",
        engine.clock() - began_at,
        cost_text(cost),
    )
    return msgspec.structs.replace(probe, result="answered", usage=outcome.usage, cost=cost)


def _reason(probe: Probe, error: ApiError, request: _Request) -> str:
    if isinstance(error, Denied):
        return f"{denied(error)} Found with the row {probe.custom_id!r}, which was asked first; nothing was uploaded."
    # What is refused for its content may be quoted; a parameter's name is what the message is useless without.
    names = {*request.body, _model_of(request.body) or ""}
    message = without_values(str(error), _texts(request.body), names)
    return (
        f"OpenAI refuses the row {probe.custom_id!r}, which was asked first (probe=True): {message} Nothing was "
        "uploaded, and nothing was paid. Change the body and clear the submitting task; with probe=False all rows "
        "are sent as they are."
    )


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts of a body's prompts, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)
    elif isinstance(value, dict):
        for name in ("input", "messages", "prompt", "content", "text"):
            yield from _texts(value.get(name))


def _read(engine: Engine, job: Job, custom_id: str, body: bytes) -> Outcome:
    """Return what became of the row, by the same checks as in a batch."""
    unreadable = Outcome(custom_id=custom_id, status=Status.INVALID, error_code="unreadable_answer")
    try:
        response = {"status_code": 200, "request_id": None, "body": msgspec.Raw(body)}
        line = msgspec.json.encode({"id": "", "custom_id": custom_id, "response": response, "error": None})
        return parser_of(job, engine.check).parse(line) or unreadable
    except (msgspec.MsgspecError, ValueError):
        return unreadable


def _cost(job: Job, asked: str | None, outcome: Outcome) -> Cost:
    if outcome.status not in BILLED:
        return Cost()
    prices = prices_of(job.policy)
    tariff = prices.tariff(asked, outcome.model, "standard")
    picodollars = tariff.cost(outcome.usage) if tariff is not None and outcome.usage != Usage() else None
    if picodollars is None:
        return Cost(n_unknown=1)
    return Cost(picodollars=picodollars, bad_picodollars=0 if outcome.status is Status.SUCCEEDED else picodollars)


def _committed(engine: Engine, snapshot: Snapshot, made: Probe, told: Probe) -> Snapshot:
    """Commit what came of a probe, also if another process moved the job meanwhile."""
    for _ in range(_TRIES):
        job = snapshot.job
        if job.probe == made:
            job = msgspec.structs.replace(job, probe=told)
        else:  # it started over: what the row cost belongs to what it remembers no more
            usage, cost = job.dropped_usage + told.usage, job.dropped_cost + told.cost
            job = msgspec.structs.replace(job, dropped_usage=usage, dropped_cost=cost)
        try:
            return engine.store.commit(snapshot.number + 1, job, engine.clock())
        except CommitRefused:
            latest = engine.store.load()
            assert latest is not None  # noqa: S101 - it was there
            snapshot = latest
    raise CommitRefused(f"Other processes keep moving {engine.store}.")
