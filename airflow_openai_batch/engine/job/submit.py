"""Make a job, or take up the one that is there.

The plan is written down whole before anything is sent. The same request of the same source re-attaches; another one
starts a new epoch, which cancels what runs of the old one and keeps its answers to unchanged requests.
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from airflow_openai_batch.engine.endpoints import Limits, check_endpoint
from airflow_openai_batch.engine.errors import CommitRefused, InputError
from airflow_openai_batch.engine.identity import spec_digest
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.planner import deadline_at
from airflow_openai_batch.engine.job.policy import check_policy
from airflow_openai_batch.engine.job.state_machine import is_quiet, reset_for_resubmit
from airflow_openai_batch.engine.job.summary import counted
from airflow_openai_batch.engine.model import FORMAT_VERSION, UNSENT, Job, Policy, Shard, Spec, State
from airflow_openai_batch.engine.requests.bodies import Bodies, bodies_of
from airflow_openai_batch.engine.requests.sharding import Built, build
from airflow_openai_batch.engine.requests.sources import places_of, source_of
from airflow_openai_batch.engine.schema.response_format import response_schema, with_response_format
from airflow_openai_batch.engine.store.index import read_index
from airflow_openai_batch.engine.store.job_store import Snapshot

_TRIES = 5

ROWS_CHANGED = "the rows changed"


class Request:
    """What a user asks for: rows, and what to ask of each.

    Args:
        rows: See ``requests.sources.source_of``.
        endpoint: One of the Batch API's endpoints.
        body: A template (dict), a callable ``row -> body``, or None for ready-made request lines.
        response_model: A Pydantic class or JSON Schema for strict structured output.
        custom_id: Template of the request ids; by default row ordinal and a short digest.
        limits: What one batch may hold.

    Raises:
        InputError: Something cannot be used. Nothing was read from the rows yet.
    """

    def __init__(
        self,
        rows: Any,
        *,
        endpoint: str,
        body: Any,
        response_model: Any = None,
        custom_id: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        check_endpoint(endpoint)
        schema = response_schema(response_model)
        if schema is not None:
            if not isinstance(body, dict):
                raise InputError(
                    "response_model needs body to be a template (a dict); a callable can set the format itself."
                )
            body = with_response_format(body, endpoint, schema)
        self.bodies: Bodies = bodies_of(body, endpoint)
        self.source = source_of(rows, endpoint=endpoint, ready=body is None)
        self.sources = places_of(rows)
        self.limits = limits or Limits()
        self.spec = Spec(
            endpoint=endpoint,
            body=self.bodies.fingerprint,
            custom_id=custom_id,
            schema=schema.schema if schema is not None else None,
            schema_name=schema.name if schema is not None else None,
        )


def submit(engine: Engine, request: Request, policy: Policy, *, start_over: str | None = None) -> Job:
    """Write the job's plan to the store, or re-attach to the plan that is there. Sends nothing.

    Args:
        engine: The engine, with the job's store.
        request: Rows and what to ask of each.
        policy: What is allowed and demanded.
        start_over: Whether to ask everything again, even what has an answer. Any text; a text is obeyed once,
            so that a retry of the task does not pay again.

    Raises:
        InputError: The rows or the request cannot be used.
        StoreError: The store cannot be written, or does not protect a job.
    """
    check_policy(policy)
    for _ in range(_TRIES):
        try:
            return _submit_once(engine, request, policy, start_over)
        except CommitRefused:
            engine.log.info("Another process wrote this job's plan; taking it up.")
    raise InputError(f"Other processes keep writing the job in {engine.store}; is the same task running many times?")


def _submit_once(engine: Engine, request: Request, policy: Policy, start_over: str | None) -> Job:
    snapshot = engine.store.load()
    if snapshot is None:
        engine.store.check()
        return _write(engine, request, policy, number=0, acknowledged=_tokens(start_over))
    number, job = snapshot
    commands = engine.store.commands(job.acknowledged)
    commands += tuple(token for token in _tokens(start_over) if token not in job.acknowledged)
    is_requested = any(name.startswith("start_over-") for name in commands)
    acknowledged = (*job.acknowledged, *commands)
    reason = _why_new_epoch(engine, job, request, policy, is_requested)
    if reason == ROWS_CHANGED:
        same = _with_new_rows(engine, job, request)
        job, reason = (job, reason) if same is None else (same, None)
    if reason is None:
        return _reattach(engine, snapshot, job, policy, acknowledged)
    engine.log.warning("Starting over as epoch %d: %s. What runs is cancelled first.", job.epoch + 1, reason)
    # Who asked for everything anew wants no old answer; otherwise what was paid for is used again where it fits.
    earlier = tuple(
        msgspec.structs.replace(shard, is_unwanted=shard.is_unwanted or is_requested)
        for shard in job.all_shards
        if not (is_quiet(shard) if is_requested else shard.state in UNSENT)
    )
    state = State.PLANNED if is_requested else State.DRAFTED
    return _write(
        engine,
        request,
        policy,
        number=number + 1,
        epoch=job.epoch + 1,
        earlier=earlier,
        acknowledged=acknowledged,
        state=state,
    )


def _tokens(start_over: str | None) -> tuple[str, ...]:
    return (f"start_over-{start_over}",) if start_over else ()


def _why_new_epoch(engine: Engine, job: Job, request: Request, policy: Policy, is_requested: bool) -> str | None:
    if is_requested:
        return "a person asked for it"
    if spec_digest(job.spec) != spec_digest(request.spec):
        return "the request changed (endpoint, body, schema or custom_id)"
    if _rows_changed(engine, job, request):
        return ROWS_CHANGED
    budget = policy.max_enqueued_tokens
    if budget is not None and any(s.state in UNSENT and s.n_tokens > budget for s in job.shards):
        return "shards that are not sent yet do not fit into max_enqueued_tokens"
    return None


def _rows_changed(engine: Engine, job: Job, request: Request) -> bool:
    try:
        version = request.source.version
    except InputError as error:
        # The rows are in the store: what was paid for does not depend on their source any more.
        engine.log.warning(
            "The source of the rows cannot be read any more; going on with the rows as they were. %s", error
        )
        return False
    return version is not None and version != job.source_version


def _with_new_rows(engine: Engine, job: Job, request: Request) -> Job | None:
    """Return the job with its rows as they are now, if that changes no request: a file may only have been rewritten."""
    version = request.source.version
    built = _built(engine, request, job.policy, job.epoch, State.PLANNED)
    roots = [shard for shard in job.shards if shard.parent is None]
    if len(built.shards) != len(roots):
        return None
    fresh: dict[str, Shard] = {}
    for new, old in zip(built.shards, roots, strict=True):
        if read_index(engine.store, new.index) != read_index(
            engine.store, old.carried.row_index if old.carried is not None else old.index
        ):
            return None
        fresh[old.id] = msgspec.structs.replace(old, row_parts=new.row_parts)
    shards = tuple(fresh.get(shard.id, shard) for shard in job.shards)
    return msgspec.structs.replace(job, shards=shards, source_version=version)


def extend_deadline(engine: Engine) -> None:
    """Let a job whose deadline has passed wait again, from now. For a task that a person has cleared."""
    snapshot = engine.store.load()
    if snapshot is None:
        return
    now = engine.clock()
    if now >= deadline_at(snapshot.job, engine.timing):
        with contextlib.suppress(CommitRefused):  # then another process moves it
            engine.store.commit(snapshot.number + 1, msgspec.structs.replace(snapshot.job, deadline_from=now), now)


def _retried(shard: Shard) -> Shard:
    """Return a shard that OpenAI refused, or seemed to hide, as one to send again: a person has looked."""
    if shard.rejections and shard.child is None:
        return reset_for_resubmit(shard)
    return msgspec.structs.replace(shard, n_absent=0) if shard.n_absent else shard


def _reattach(engine: Engine, snapshot: Snapshot, job: Job, policy: Policy, acknowledged: tuple[str, ...]) -> Job:
    """Commit the job with what the task asks of it now, if that is anything new."""
    engine.log.info(
        "Taking up the job in %s (epoch %d, snapshot %d); nothing is sent again.",
        engine.store,
        job.epoch,
        snapshot.number,
    )
    now = engine.clock()
    is_late = now >= deadline_at(job, engine.timing)
    after = msgspec.structs.replace(
        job,
        policy=policy,
        acknowledged=acknowledged,
        deadline_from=now if is_late else job.deadline_from,
        shards=tuple(_retried(shard) for shard in job.shards),
    )
    if after == snapshot.job:
        return snapshot.job
    return engine.store.commit(snapshot.number + 1, after, now).job


def _built(engine: Engine, request: Request, policy: Policy, epoch: int, state: State) -> Built:
    with engine.observer.acting("build") as act:
        built = build(
            engine.store,
            request.source,
            request.bodies,
            endpoint=request.spec.endpoint,
            custom_id=request.spec.custom_id,
            limits=msgspec.structs.replace(request.limits, max_tokens=policy.max_enqueued_tokens),
            epoch=epoch,
            state=state,
        )
        act.tell(rows=built.n_rows, shards=len(built.shards), bytes=sum(shard.n_bytes for shard in built.shards))
    return built


def _write(
    engine: Engine,
    request: Request,
    policy: Policy,
    *,
    number: int,
    epoch: int = 0,
    earlier: tuple[Shard, ...] = (),
    acknowledged: tuple[str, ...] = (),
    state: State = State.PLANNED,
) -> Job:
    version = request.source.version
    began_at = engine.clock()
    built = _built(engine, request, policy, epoch, state)
    now = engine.clock()
    job = Job(
        format_version=FORMAT_VERSION,
        key=engine.store.key,
        owner=engine.store.owner,
        spec=request.spec,
        policy=policy,
        source_version=version,
        sources=request.sources,
        created_at=now,
        deadline_from=now,
        shards=built.shards,
        epoch=epoch,
        n_rows=built.n_rows,
        embeds_many=built.embeds_many,
        earlier=earlier,
        acknowledged=acknowledged,
        work_s={"build": round(now - began_at, 3)} if now > began_at else {},
    )
    engine.log.info(
        "Planned %s as %s in %s.", counted(built.n_rows, "row"), counted(len(built.shards), "shard"), engine.store
    )
    job = engine.store.commit(number, job, now).job
    engine.observer.planned(job)
    return job
