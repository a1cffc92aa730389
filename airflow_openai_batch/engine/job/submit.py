"""Make a job, or take up the one that is there.

The plan is written down whole before anything is sent. An automatic retry takes it up as it is. When a person clears
the task, what would be sent now is compared with the plan, request by request: if all is equal it re-attaches, else it
starts a new epoch, which cancels what runs of the old one and keeps its answers to unchanged requests.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from airflow_openai_batch.engine.encoding import canonical
from airflow_openai_batch.engine.errors import CommitRefused, InputError
from airflow_openai_batch.engine.identity import spec_digest
from airflow_openai_batch.engine.job.compare import (
    Difference,
    compare_requests,
    compare_shards,
    frozen_rows,
    in_row_order,
    roots_of,
)
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.measure import measured
from airflow_openai_batch.engine.job.planner import deadline_at
from airflow_openai_batch.engine.job.policy import check_policy
from airflow_openai_batch.engine.job.request import Request as Request
from airflow_openai_batch.engine.job.skipped import with_skipped
from airflow_openai_batch.engine.job.state_machine import is_quiet, reset_for_resubmit
from airflow_openai_batch.engine.job.summary import counted, summarize, whereabouts
from airflow_openai_batch.engine.model import FORMAT_VERSION, UNSENT, Cost, Job, Measure, Policy, Shard, State, Usage
from airflow_openai_batch.engine.money.prices import Prices, parse_prices
from airflow_openai_batch.engine.requests.bodies import CALLABLE
from airflow_openai_batch.engine.requests.sharding import Built, build
from airflow_openai_batch.engine.requests.sources import Source
from airflow_openai_batch.engine.schema.columns import check_column_names, told_columns
from airflow_openai_batch.engine.store.job_store import Snapshot

_TRIES = 5

_NOTHING = (Usage(), Cost())


def submit(
    engine: Engine,
    request: Request | Callable[[], Request],
    policy: Policy | Callable[[], Policy],
    *,
    start_over: str | None = None,
    max_tries: int | None = None,
    is_first_try: bool = False,
    conn_id: str = "",
) -> Job:
    """Write the job's plan to the store, or re-attach to the plan that is there. Sends nothing.

    An automatic retry takes up the plan that is stored, with its policy, and looks at nothing else: no row is read and
    no request made. Anybody else compares what would be sent with what was planned.

    Args:
        engine: The engine, with the job's store.
        request: Rows and what to ask of each; or a function that returns them, which a retry does not call.
        policy: What is allowed and demanded; or a function that returns it, which a retry does not call.
        start_over: Whether to ask everything again, even what has an answer. Any text; a text is obeyed once,
            so that a retry of the task does not pay again.
        max_tries: The task's ``max_tries``, which Airflow sets anew when a person clears the task and leaves when it
            retries; None where nobody retries automatically, as in a notebook.
        is_first_try: Whether the task never ran before, so that it cannot be a retry: its run may have been deleted
            and made anew.
        conn_id: The connection of the engine's client, for whoever cancels the job outside of its tasks.

    Raises:
        InputError: The rows or the request cannot be used.
        StoreError: The store cannot be written, or does not protect a job.
    """
    submission = _Submission(engine, request, policy, start_over, max_tries, is_first_try, conn_id)
    for _ in range(_TRIES):
        try:
            return submission.once()
        except CommitRefused:
            engine.log.info("Another process wrote this job's plan; taking it up.")
    raise InputError(f"Other processes keep writing the job in {engine.store}; is the same task running many times?")


class _RowsNow(NamedTuple):
    """The rows when a job is compared. Those of a source without a version stand as they were planned."""

    to_compare: Source
    to_plan: Source
    """What a new epoch would be made of: not readable if the source is gone."""
    version: str | None


@dataclass
class _Submission:
    """What a task wants of its job; see ``submit``."""

    engine: Engine
    given: Request | Callable[[], Request]
    given_policy: Policy | Callable[[], Policy]
    start_over: str | None
    max_tries: int | None
    is_first_try: bool
    conn_id: str

    @functools.cached_property
    def request(self) -> Request:
        return self.given if isinstance(self.given, Request) else self.given()

    @functools.cached_property
    def policy(self) -> Policy:
        return self.given_policy if isinstance(self.given_policy, Policy) else self.given_policy()

    def once(self) -> Job:
        self.began_at = self.engine.clock()
        snapshot = self.engine.store.load()
        tokens = (f"start_over-{self.start_over}",) if self.start_over else ()
        if snapshot is None:
            check_policy(self.policy)
            self.engine.store.check()
            return self._write(number=0, acknowledged=tokens)
        job = snapshot.job
        commands = self.engine.store.commands(job.acknowledged)
        commands += tuple(token for token in tokens if token not in job.acknowledged)
        is_requested = any(name.startswith("start_over-") for name in commands)
        if not is_requested and self._is_retry(job):
            self._log_reattached(snapshot.number, job)
            return job
        check_policy(self.policy)
        if is_requested:
            return self._start_over(snapshot, (*job.acknowledged, *commands))
        if any(name.startswith("cancel-") for name in commands):
            self.engine.log.warning(
                "This job was cancelled by a command, and stays cancelled: nothing more is sent. `python -m "
                "airflow_openai_batch resume` takes that back, `start-over` asks everything again."
            )
            return self._reattach(snapshot, job)
        return self._compared(snapshot)

    def _is_retry(self, job: Job) -> bool:
        return self.max_tries is not None and self.max_tries == job.compared_at and not self.is_first_try

    # -- comparing -----------------------------------------------------------------------------------------------------

    def _compared(self, snapshot: Snapshot) -> Job:
        """Re-attach if the same would be sent; else begin a new epoch, which carries over what is the same."""
        job, spec = snapshot.job, self.request.spec
        now = self._rows_now(job)
        if (spec.endpoint, canonical(spec.schema), spec.schema_name) != (
            job.spec.endpoint,
            canonical(job.spec.schema),
            job.spec.schema_name,
        ):
            return self._begin_epoch(snapshot, "the endpoint or the schema changed", now)
        built: Built | None = None
        difference = Difference.NONE
        if now.version != job.source_version or not job.n_rows:
            # Written at once: most often it is needed, and if only other columns changed, the results need those.
            built = self._built(now.to_plan, job.epoch + 1, State.DRAFTED)
            difference = compare_shards(self.engine.store, job, built.shards)
        elif spec.body == CALLABLE or spec_digest(spec) != spec_digest(job.spec):
            self.engine.log.info("Making the requests again, to compare them with those that were planned.")
            if spec.column_prefix != job.spec.column_prefix:
                self._check_columns(now.to_compare)
            difference = compare_requests(self.engine.store, job, now.to_compare, self.request.bodies, spec.custom_id)
        if difference is Difference.IDS and not all(is_quiet(shard) for shard in job.shards):
            self.engine.log.warning(
                "Only the custom_ids changed. What runs at OpenAI keeps the ids it was sent with; clear this task "
                "again when it has ended, and the results get the new ones for free."
            )
            return self._reattach(snapshot, job)
        if difference is not Difference.NONE:
            return self._begin_epoch(snapshot, "what would be sent changed", now, built)
        if (reason := self._why_cut_smaller(job)) is not None:
            return self._begin_epoch(snapshot, reason, now)
        if built is not None:
            job = _with_rows_of(job, built)
        if spec_digest(spec) != spec_digest(job.spec):
            # Sends the same, so that the next comparison need not render it. The schema's columns are in outcome files.
            job = msgspec.structs.replace(
                job,
                spec=msgspec.structs.replace(
                    job.spec,
                    body=spec.body,
                    custom_id=spec.custom_id,
                    column_prefix=spec.column_prefix,
                    on_null=spec.on_null,
                ),
            )
        shards = tuple(_retried(shard) for shard in job.shards)
        return self._reattach(snapshot, msgspec.structs.replace(job, shards=shards, source_version=now.version))

    def _why_cut_smaller(self, job: Job) -> str | None:
        unsent = [shard for shard in job.shards if shard.state in UNSENT]
        budget, n_most = self.policy.max_enqueued_tokens, self.request.limits.max_requests
        if budget is not None and any(shard.n_tokens > budget for shard in unsent):
            return "shards that are not sent yet do not fit into max_enqueued_tokens"
        if any(shard.upload.n_refused and shard.n_requests > n_most for shard in unsent):
            return "files that were too large are cut smaller"
        return None

    def _check_columns(self, rows: Source) -> None:
        """Check the names of the result columns where only those changed, and nothing is written again."""
        for batch in rows.batches():
            check_column_names(batch.schema.names, self.request.spec)
            self.engine.log.info("%s", told_columns(batch.schema.names, self.request.spec))
            return

    def _rows_now(self, job: Job) -> _RowsNow:
        source = self.request.source
        try:
            version = source.version
        except InputError as error:
            # The rows are in the store: what was paid for does not depend on their source any more.
            self.engine.log.warning(
                "The source of the rows cannot be read any more; going on with the rows as they were. %s", error
            )
            return _RowsNow(frozen_rows(self.engine.store, job) or source, source, job.source_version)
        if version is None and job.source_version is None:
            frozen = frozen_rows(self.engine.store, job) or source
            return _RowsNow(frozen, frozen, None)
        return _RowsNow(source, source, version)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _reattach(self, snapshot: Snapshot, job: Job) -> Job:
        """Commit the job with what the task asks of it now, if that is anything new."""
        now = self.engine.clock()
        after = msgspec.structs.replace(
            job,
            policy=self.policy,
            measure=job.measure or self._measured(job.shards, job.spec.endpoint),
            conn_id=self.conn_id or job.conn_id,
            compared_at=job.compared_at if self.max_tries is None else self.max_tries,
            deadline_from=now if now >= deadline_at(job, self.engine.timing) else job.deadline_from,
        )
        self._log_reattached(snapshot.number, after)
        if after == snapshot.job:
            return snapshot.job
        return self.engine.store.commit(snapshot.number + 1, after, now).job

    def _log_reattached(self, number: int, job: Job) -> None:
        self.engine.log.info(
            "Taking up the job in %s (epoch %d, snapshot %d): %s.",
            self.engine.store,
            job.epoch,
            number,
            whereabouts(job),
        )

    def _start_over(self, snapshot: Snapshot, acknowledged: tuple[str, ...]) -> Job:
        """Begin an epoch in which everything is asked again. Who asked for that wants no old answer."""
        job = snapshot.job
        self._log_new_epoch(job, "a person asked for it")
        kept = tuple(shard for shard in job.all_shards if not is_quiet(shard))
        return self._write(
            number=snapshot.number + 1,
            epoch=job.epoch + 1,
            earlier=tuple(msgspec.structs.replace(shard, is_unwanted=True) for shard in kept),
            acknowledged=acknowledged,
            dropped=_dropped(job, kept),
        )

    def _begin_epoch(self, snapshot: Snapshot, reason: str, now: _RowsNow, built: Built | None = None) -> Job:
        """Begin an epoch that uses again what was paid for, where it fits."""
        job = snapshot.job
        self._log_new_epoch(job, reason)
        kept = tuple(shard for shard in job.all_shards if shard.state not in UNSENT)
        return self._write(
            number=snapshot.number + 1,
            epoch=job.epoch + 1,
            earlier=kept,
            acknowledged=job.acknowledged,
            dropped=_dropped(job, kept),
            plan=(built or self._built(now.to_plan, job.epoch + 1, State.DRAFTED), now.version),
        )

    def _log_new_epoch(self, job: Job, reason: str) -> None:
        self.engine.log.warning("Starting over as epoch %d: %s. What runs is cancelled first.", job.epoch + 1, reason)

    def _built(self, rows: Source, epoch: int, state: State) -> Built:
        request = self.request
        with self.engine.observer.acting("build") as act:
            built = build(
                self.engine.store,
                rows,
                request.bodies,
                endpoint=request.spec.endpoint,
                custom_id=request.spec.custom_id,
                limits=msgspec.structs.replace(
                    request.limits, max_tokens=self.policy.max_enqueued_tokens, pilot_rows=self.policy.pilot_rows
                ),
                epoch=epoch,
                state=state,
                check_columns=lambda columns: check_column_names(columns, request.spec),
                may_be_empty=request.on_empty != "fail",
            )
            act.tell(rows=built.n_rows, shards=len(built.shards), bytes=sum(shard.n_bytes for shard in built.shards))
        return built

    def _measured(self, shards: tuple[Shard, ...], endpoint: str) -> Measure | None:
        """Return what the requests are like, if the policy has a cap.

        Raises:
            InputError: The cap could not be kept: a price or the length of answers is not known.
        """
        if self.policy.max_cost is None:
            return None
        prices = Prices(parse_prices(self.policy.prices, "prices"))
        asked = {shard.model or "" for shard in shards if shard.n_requests}
        unpriced = sorted(model for model in asked if prices.tariff(model) is None)
        if unpriced:
            raise InputError(
                f"max_cost needs to know what {', '.join(map(repr, unpriced))} costs: give the price, for example "
                f"prices={{{unpriced[0]!r}: {{'input': 0.05, 'output': 0.25}}}}, in dollars for a million tokens in a "
                "batch. Nothing was sent."
            )
        measure = measured(self.engine.store, shards, endpoint)
        if measure is not None and measure.max_output_tokens is None:
            raise InputError(
                "max_cost needs a bound of each answer: set max_output_tokens (Chat Completions: "
                "max_completion_tokens) in the body. Nothing was sent."
            )
        return measure

    def _write(
        self,
        *,
        number: int,
        epoch: int = 0,
        earlier: tuple[Shard, ...] = (),
        acknowledged: tuple[str, ...] = (),
        dropped: tuple[Usage, Cost] = _NOTHING,
        plan: tuple[Built, str | None] | None = None,
    ) -> Job:
        """Commit a new plan: the given one and the version of its rows, or one of the source as it is now."""
        began_at = self.began_at
        if plan is None:
            version = self.request.source.version
            plan = self._built(self.request.source, epoch, State.PLANNED), version
        built, version = plan
        measure = self._measured(built.shards, self.request.spec.endpoint)
        now = self.engine.clock()
        job = Job(
            format_version=FORMAT_VERSION,
            key=self.engine.store.key,
            owner=self.engine.store.owner,
            spec=self.request.spec,
            policy=self.policy,
            source_version=version,
            sources=self.request.sources,
            created_at=now,
            deadline_from=now,
            shards=built.shards,
            epoch=epoch,
            n_rows=built.n_rows,
            embeds_many=built.embeds_many,
            measure=measure,
            earlier=earlier,
            acknowledged=acknowledged,
            dropped_usage=dropped[0],
            dropped_cost=dropped[1],
            conn_id=self.conn_id,
            compared_at=self.max_tries,
            work_s={"build": round(now - began_at, 3)} if now > began_at else {},
        )
        job = with_skipped(self.engine.store, job)
        self.engine.log.info(
            "Planned %s as %s in %s.",
            counted(built.n_rows, "row"),
            counted(len(built.shards), "shard"),
            self.engine.store,
        )
        self.engine.log.info("%s", told_columns(built.columns, job.spec))
        if n_skipped := summarize(job).n_skipped:
            self.engine.log.warning(
                "%s of %s have no prompt: their columns are null or blank. They are not sent, and come back as skipped "
                "(on_null='skip').",
                f"{n_skipped:,}",
                counted(built.n_rows, "row"),
            )
        job = self.engine.store.commit(number, job, now).job
        self.engine.observer.planned(job)
        return job


def _dropped(job: Job, kept: tuple[Shard, ...]) -> tuple[Usage, Cost]:
    """Return the tokens, and their cost, of what an epoch that follows does not remember shard by shard."""
    ids = {shard.id for shard in kept}
    dropped = [shard for shard in job.all_shards if shard.id not in ids]
    usage = sum((shard.usage for shard in dropped), job.dropped_usage)
    return usage, sum((shard.cost for shard in dropped), job.dropped_cost)


def _with_rows_of(job: Job, built: Built) -> Job:
    """Return the job with its rows as they are now, which send the same: a file may only have been rewritten."""
    parts = {old.id: new.row_parts for old, new in zip(roots_of(job), in_row_order(built.shards), strict=True)}
    shards = [msgspec.structs.replace(shard, row_parts=parts.get(shard.id, shard.row_parts)) for shard in job.shards]
    return msgspec.structs.replace(job, shards=tuple(shards))


def _retried(shard: Shard) -> Shard:
    """Return a shard that OpenAI refused, or seemed to hide, as one to send again: a person has looked."""
    if shard.rejections and shard.child is None:
        return reset_for_resubmit(shard)
    return msgspec.structs.replace(shard, n_absent=0) if shard.n_absent else shard


def extend_deadline(engine: Engine, task: str = "", max_tries: int | None = None) -> None:
    """Let a job whose deadline has passed wait again, from now, if a person has cleared the task that waits.

    Args:
        engine: The job's engine.
        task: A text that names the task among those that wait for the job.
        max_tries: The task's ``max_tries``, which Airflow sets anew when a person clears it, and leaves when it
            retries or looks again. None: a person asks for it now.
    """
    for _ in range(_TRIES):
        snapshot = engine.store.load()
        if snapshot is None or (max_tries is not None and snapshot.job.waits.get(task) == max_tries):
            return
        job = snapshot.job
        now = engine.clock()
        waits = job.waits if max_tries is None else {**job.waits, task: max_tries}
        is_late = now >= deadline_at(job, engine.timing)
        after = msgspec.structs.replace(job, waits=waits, deadline_from=now if is_late else job.deadline_from)
        if after == job:
            return
        try:
            engine.store.commit(snapshot.number + 1, after, now)
        except CommitRefused:
            continue
        return
