"""Make a job, or take up the one that is there.

The plan is written down whole before anything is sent. An automatic retry takes it up as it is. When a person clears
the task, what would be sent now is compared with the plan, request by request: if all is equal it re-attaches, else it
starts a new epoch, which cancels what runs of the old one and keeps its answers to unchanged requests.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from airflow_openai_batch.engine.api.parameters import doubtful_parameters
from airflow_openai_batch.engine.encoding import canonical
from airflow_openai_batch.engine.endpoints import check_direct
from airflow_openai_batch.engine.errors import CommitRefused, InputError, JobCleaned
from airflow_openai_batch.engine.identity import spec_digest
from airflow_openai_batch.engine.job.cap_check import cap_problem, is_anything_sent, warn_of_uncounted
from airflow_openai_batch.engine.job.compare import (
    Difference,
    compare_requests,
    compare_shards,
    frozen_rows,
    in_row_order,
    roots_of,
)
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.history import with_history
from airflow_openai_batch.engine.job.measure import estimate_line, measured
from airflow_openai_batch.engine.job.planner import deadline_at
from airflow_openai_batch.engine.job.policy import check_policy
from airflow_openai_batch.engine.job.remote_files import files_of_dropped
from airflow_openai_batch.engine.job.request import Request as Request
from airflow_openai_batch.engine.job.reuse import record_all, with_known_answers
from airflow_openai_batch.engine.job.skipped import with_skipped
from airflow_openai_batch.engine.job.state_machine import is_quiet, reset_for_resubmit
from airflow_openai_batch.engine.job.summary import counted, summarize, whereabouts
from airflow_openai_batch.engine.model import FORMAT_VERSION, UNSENT, Cost, Job, Policy, Shard, State, Tombstone, Usage
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
    is_plan_only: bool = False,
    asked_at: float | None = None,
    finish_at: Callable[[float], float] | None = None,
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
        is_plan_only: Whether what is planned now may be sent only after a task that waits for it has begun; see
            ``waiting``. What such a task has begun to send before is sent on.
        asked_at: When the task began, in epoch seconds: one that slept while its job was removed must not begin anew.
        finish_at: Returns, for the time of the submission, the moment from which what has no answer is asked
            synchronously, both in epoch seconds; the policy's ``finish_by`` says the same as a text. None for no such
            moment. A job that is taken up keeps its own, unless that text has changed.

    Raises:
        JobCleaned: The job was removed from its store, and this is an automatic retry, or a process that came late.
            Only a person's clear asks, and pays for, its rows anew.
        InputError: The rows or the request cannot be used.
        StoreError: The store cannot be written, or does not protect a job.
    """
    submission = _Submission(
        engine, request, policy, start_over, max_tries, is_first_try, conn_id, is_plan_only, asked_at, finish_at
    )
    for n_refused in range(_TRIES):
        try:
            return submission.once_or_anew(is_first=not n_refused)
        except CommitRefused:
            engine.log.info("Another process wrote this job's plan; taking it up.")
    raise InputError(f"Other processes keep writing the job in {engine.store}; is the same task running many times?")


class _RowsNow(NamedTuple):
    """The rows when a job is compared. Those of a source that is not repeatable stand as they were planned."""

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
    is_plan_only: bool
    asked_at: float | None
    finish_at: Callable[[float], float] | None

    @functools.cached_property
    def request(self) -> Request:
        return self.given if isinstance(self.given, Request) else self.given()

    @functools.cached_property
    def policy(self) -> Policy:
        policy = self.given_policy if isinstance(self.given_policy, Policy) else self.given_policy()
        return msgspec.structs.replace(policy, has_openais_prices=self.engine.api.has_openais_prices)

    def once(self) -> Job:
        self.began_at = self.engine.clock()
        snapshot = self.engine.store.load()
        tokens = (f"start_over-{self.start_over}",) if self.start_over else ()
        if snapshot is None:
            self._check()
            self.engine.store.check()
            return self._write(number=0, acknowledged=tokens, refreshed_at=self.began_at if tokens else 0.0)
        job = snapshot.job
        commands = self.engine.store.commands(job.acknowledged)
        commands += tuple(token for token in tokens if token not in job.acknowledged)
        is_requested = any(name.startswith("start_over-") for name in commands)
        if not is_requested and self._is_retry(job):
            self._log_reattached(snapshot.number, job)
            return job
        self._check()
        if is_requested:
            return self._start_over(snapshot, (*job.acknowledged, *commands))
        if any(name.startswith("cancel-") for name in commands):
            self.engine.log.warning(
                "This job was cancelled by a command, and stays cancelled: nothing more is sent. `python -m "
                "airflow_openai_batch resume` takes that back, `start-over` asks everything again."
            )
            return self._reattach(snapshot, job)
        return self._compared(snapshot)

    def once_or_anew(self, *, is_first: bool) -> Job:
        """Take the job up or make it; in place of one that was removed, begin anew if that is allowed."""
        try:
            return self.once()
        except JobCleaned as cleaned:
            if not is_first and not cleaned.tombstone.is_unsent:  # it was removed while this process planned
                raise
            return self._anew(cleaned)

    def _anew(self, cleaned: JobCleaned) -> Job:
        """Begin in place of a job that was removed, if nothing of it was ever sent or a person has cleared the task.

        Raises:
            JobCleaned: Nobody has.
            CommitRefused: Another process has begun.
        """
        tombstone: Tombstone = cleaned.tombstone
        is_late = self.asked_at is not None and tombstone.removed_at >= self.asked_at
        is_retry = self.max_tries is not None and self.max_tries == tombstone.compared_at and not self.is_first_try
        if not tombstone.is_unsent and (is_late or is_retry):
            raise cleaned
        self.began_at = self.engine.clock()
        self._check()
        self.engine.store.check()
        self.engine.log.warning("%s This task was, so all is planned anew.", cleaned)
        tokens = (f"start_over-{self.start_over}",) if self.start_over else ()
        # A later epoch, so that no batch of the old job is taken for one of this.
        return self._write(
            number=cleaned.number + 1,
            epoch=tombstone.epoch + 1,
            acknowledged=tokens,
            refreshed_at=self.began_at if tokens else 0.0,
        )

    def _check(self) -> None:
        check_policy(self.policy)
        if self.policy.finish_by is not None:
            check_direct(self.request.spec.endpoint, self.policy.finish_tier)

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
            # Divided as the job is, because asking equal requests once makes no other requests.
            built = self._built(now.to_plan, job.epoch + 1, State.DRAFTED, job.policy)
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
        if self._needs_other_pilot(job):
            return "the pilot is cut anew"
        if any(shard.upload.n_refused and shard.n_requests > n_most for shard in unsent):
            return "files that were too large are cut smaller"
        return None

    def _needs_other_pilot(self, job: Job) -> bool:
        """Return whether a pilot is asked for that the plan does not have, and can have as nothing was sent."""
        n_rows, is_open = self.policy.pilot_rows, any(s.state in UNSENT and s.n_requests for s in job.shards)
        if n_rows is None or n_rows == job.policy.pilot_rows or not is_open:
            return False
        if any(shard.n_creates or shard.batch is not None for shard in job.shards):
            self.engine.log.warning("pilot_rows comes too late: requests of this job were sent, and go on as planned.")
            return False
        return True

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
        if version == job.source_version and not source.is_repeatable:
            frozen = frozen_rows(self.engine.store, job) or source
            return _RowsNow(frozen, frozen, version)
        return _RowsNow(source, source, version)

    # -- writing -------------------------------------------------------------------------------------------------------

    def _reattach(self, snapshot: Snapshot, job: Job) -> Job:
        """Commit the job with what the task asks of it now, if that is anything new."""
        now = self.engine.clock()
        measure = job.measure
        if measure is None and self.policy.max_cost is not None:
            measure = measured(self.engine.store, job.shards, job.spec.endpoint)
        after = msgspec.structs.replace(
            job,
            policy=self.policy,
            finish_at=job.finish_at if self.policy.finish_by == job.policy.finish_by else self._finish_at(now),
            measure=measure,
            conn_id=self.conn_id or job.conn_id,
            is_plan_only=job.is_plan_only and self.is_plan_only,
            # A person has looked at what was refused.
            probe=None if job.probe is not None and job.probe.result == "refused" else job.probe,
            compared_at=job.compared_at if self.max_tries is None else self.max_tries,
            deadline_from=now if now >= deadline_at(job, self.engine.timing) else job.deadline_from,
        )
        record_all(self.engine, after, job.policy)
        after = with_known_answers(self.engine, after)
        self._check_cap(after)
        self._log_reattached(snapshot.number, after)
        if after == snapshot.job:
            return snapshot.job
        return self.engine.store.commit(snapshot.number + 1, after, now).job

    def _check_cap(self, job: Job) -> None:
        """Check that the cap can be kept; of a job that is being sent, only say so, as answers are still to come.

        Raises:
            InputError: It cannot, and nothing was sent.
        """
        problem = cap_problem(self.engine.store, job)
        if problem is not None and not is_anything_sent(job):
            raise InputError(f"{problem} Nothing was sent.")
        if problem is not None:
            self.engine.log.warning(
                "%s What was sent is not touched. The rest is sent only if enough answers tell what it costs; else the "
                "job is held then. To send it as it is, take max_cost back; another body would start the job over.",
                problem,
            )
        warn_of_uncounted(self.engine, job)

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
            dropped_files=files_of_dropped(job, kept),
            waits=self._waits(job),
            refreshed_at=self.began_at,
            before=job,
        )

    def _begin_epoch(self, snapshot: Snapshot, reason: str, now: _RowsNow, built: Built | None = None) -> Job:
        """Begin an epoch that uses again what was paid for, where it fits."""
        job = snapshot.job
        self._log_new_epoch(job, reason)
        kept = tuple(shard for shard in job.all_shards if shard.state not in UNSENT)
        record_all(self.engine, msgspec.structs.replace(job, policy=self.policy), job.policy)
        if (job.policy.reuse is None) != (self.policy.reuse is None):
            built = None  # it is divided as the old epoch is, where equal requests may have been asked each by itself
        return self._write(
            number=snapshot.number + 1,
            epoch=job.epoch + 1,
            earlier=kept,
            acknowledged=job.acknowledged,
            dropped=_dropped(job, kept),
            dropped_files=files_of_dropped(job, kept),
            refreshed_at=job.refreshed_at,
            waits=self._waits(job),
            before=job,
            plan=(built or self._built(now.to_plan, job.epoch + 1, State.DRAFTED), now.version),
        )

    def _finish_at(self, now: float) -> float | None:
        """Return the moment from which what has no answer is asked synchronously, in epoch seconds."""
        if self.policy.finish_by is None or self.finish_at is None:
            return None
        moment = self.finish_at(now)
        if moment <= now:
            raise InputError(
                f"finish_by={self.policy.finish_by}: that moment has passed, so every row would be asked at once, at "
                "synchronous prices. Nothing was sent. Give a later moment, or None."
            )
        self.engine.log.info(
            "What has no answer in %.1f h (finish_by=%s) is asked synchronously then.",
            (moment - now) / 3600,
            self.policy.finish_by,
        )
        return moment

    def _waits(self, job: Job) -> dict[str, int]:
        """Return which tasks wait for the job already: those of a run that was deleted and made anew wait no more."""
        return {} if self.is_first_try else job.waits

    def _log_new_epoch(self, job: Job, reason: str) -> None:
        self.engine.log.warning("Starting over as epoch %d: %s. What runs is cancelled first.", job.epoch + 1, reason)

    def _built(self, rows: Source, epoch: int, state: State, policy: Policy | None = None) -> Built:
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
                are_equal_asked_once=(policy or self.policy).reuse is not None,
            )
            act.tell(rows=built.n_rows, shards=len(built.shards), bytes=sum(shard.n_bytes for shard in built.shards))
        return built

    def _write(
        self,
        *,
        number: int,
        epoch: int = 0,
        earlier: tuple[Shard, ...] = (),
        acknowledged: tuple[str, ...] = (),
        dropped: tuple[Usage, Cost] = _NOTHING,
        dropped_files: tuple[str, ...] = (),
        waits: Mapping[str, int] = MappingProxyType({}),
        plan: tuple[Built, str | None] | None = None,
        refreshed_at: float = 0.0,
        before: Job | None = None,
    ) -> Job:
        """Commit a new plan: the given one and the version of its rows, or one of the source as it is now."""
        if plan is None:
            version = self.request.source.version
            plan = self._built(self.request.source, epoch, State.PLANNED), version
        built, version = plan
        if built.uncounted is not None:
            self.engine.log.warning("%s", built.uncounted)
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
            finish_at=self._finish_at(self.began_at),
            **_of_direct(before),
            deadline_from=now,
            shards=built.shards,
            epoch=epoch,
            n_rows=built.n_rows,
            embeds_many=built.embeds_many,
            measure=with_history(self.engine, built.measure, self.request.spec.endpoint, built.shards),
            earlier=earlier,
            refreshed_at=refreshed_at,
            acknowledged=acknowledged,
            dropped_usage=dropped[0],
            dropped_cost=dropped[1],
            dropped_files=dropped_files,
            conn_id=self.conn_id,
            compared_at=self.max_tries,
            waits=dict(waits),
            is_plan_only=self.is_plan_only,
            work_s={"build": round(now - self.began_at, 3)} if now > self.began_at else {},
        )
        job = with_known_answers(self.engine, with_skipped(self.engine.store, job))
        if (problem := cap_problem(self.engine.store, job)) is not None:
            raise InputError(f"{problem} Nothing was sent.")
        self._tell(job, built)
        job = self.engine.store.commit(number, job, now).job
        if not job.is_plan_only:
            self.engine.observer.planned(job)
        return job

    def _tell(self, job: Job, built: Built) -> None:
        """Log what was planned, and what it will cost."""
        warn_of_uncounted(self.engine, job)
        self.engine.log.info(
            "Planned %s as %s in %s.",
            counted(built.n_rows, "row"),
            counted(summarize(job).n_shards, "shard"),
            self.engine.store,
        )
        self.engine.log.info("%s", estimate_line(job))
        self.engine.log.info("%s", told_columns(built.columns, job.spec))
        self._warn_of_body(job, built.n_rows)
        if n_skipped := summarize(job).n_skipped:
            self.engine.log.warning(
                "%s of %s have no prompt: their columns are null or blank. They are not sent, and come back as skipped "
                "(on_null='skip').",
                f"{n_skipped:,}",
                counted(built.n_rows, "row"),
            )

    def _warn_of_body(self, job: Job, n_rows: int) -> None:
        """Log what in the body is most likely a mistake."""
        if n_rows > 1 and self.request.bodies.is_constant:
            self.engine.log.warning(
                "The body uses no column of the rows, so all %s rows ask the same. {column} in its strings is the "
                "value of a column.",
                f"{n_rows:,}",
            )
        names, endpoint = self.request.parameters, job.spec.endpoint
        if names and (doubtful := doubtful_parameters(names, endpoint, self.engine.api.host)):
            self.engine.log.warning(
                "The body has parameters that this version of OpenAI's SDK does not know for %s: %s. OpenAI refuses "
                "requests with a parameter that it does not have; probe=True asks one row first.",
                endpoint,
                ", ".join(doubtful),
            )


def _of_direct(before: Job | None) -> dict[str, Any]:
    """Return what a new epoch keeps of synchronous requests: who may still ask, and what may have been paid twice."""
    names = ("lease", "n_maybe_paid_twice", "maybe_paid_picodollars")
    return {} if before is None else {name: getattr(before, name) for name in names}


def _dropped(job: Job, kept: tuple[Shard, ...]) -> tuple[Usage, Cost]:
    """Return the tokens, and their cost, of what an epoch that follows does not remember shard by shard."""
    ids = {shard.id for shard in kept}
    dropped = [shard for shard in job.all_shards if shard.id not in ids]
    usage = sum((shard.usage for shard in dropped), job.dropped_usage)
    cost = sum((shard.cost for shard in dropped), job.dropped_cost)
    return (usage, cost) if job.probe is None else (usage + job.probe.usage, cost + job.probe.cost)


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
