"""Asking the requests of a shard synchronously: by one process at a time, within the cap, every answer saved.

A request, and its answer until it is saved, hold one of the ``parallel`` places. So a process that dies leaves at most
so many requests that are paid for and have to be asked again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from airflow_openai_batch.engine.answers.parser import parser_of
from airflow_openai_batch.engine.api.client import Reply
from airflow_openai_batch.engine.direct.answer_log import AnswerLog
from airflow_openai_batch.engine.direct.callers import Called, Callers
from airflow_openai_batch.engine.direct.lines import (
    DirectRequest,
    body_to_send,
    line_of_error,
    line_of_reply,
    request_of,
)
from airflow_openai_batch.engine.direct.pacing import Pacer
from airflow_openai_batch.engine.direct.request_queue import RequestQueue, is_lost
from airflow_openai_batch.engine.errors import ApiError, Denied, Refused, Unclear
from airflow_openai_batch.engine.job.context import Engine, Stop
from airflow_openai_batch.engine.job.direct_budget import Budget
from airflow_openai_batch.engine.job.direct_lease import DirectLease
from airflow_openai_batch.engine.job.failures import asked_later, concerns_all, denied, is_believed, postponed
from airflow_openai_batch.engine.job.state_machine import Fact, ShardUpdate
from airflow_openai_batch.engine.job.subset import request_lines
from airflow_openai_batch.engine.model import Backoff, Limit, Shard
from airflow_openai_batch.engine.store.job_store import Snapshot

_LINGER_S = 0.5
"""How long an answer waits for others to be saved with it."""
_COMMANDS_S = 5.0
"""How often a person's commands are looked for, in seconds."""
_STORM = 6
"""Refusals in a row from which one counts on that goes on after a storm: the next makes it leave at once."""


class Asked(NamedTuple):
    """What came of asking.

    Attributes:
        snapshot: The newest snapshot.
        limit: Why the rest must not be asked, if the job's cap is the reason.
    """

    snapshot: Snapshot
    limit: Limit | None = None


class _NotSent(Exception):
    """The request was not sent, as the process may not ask any more."""


def ask(engine: Engine, snapshot: Snapshot, shard: Shard) -> Asked:
    """Ask the requests of a shard that have no answer yet, and commit how far that came.

    Args:
        engine: The engine.
        snapshot: The newest snapshot, of which the plan says that the shard is to be asked.
        shard: The shard.

    Raises:
        CommitRefused: Another process moved the job before anything was asked.
        Stop: OpenAI refuses the credentials or the account. Every answer so far is saved.
        StoreError: The store cannot be read or written.
    """
    with engine.observer.acting("ask", shard) as act:
        asked = (asking := _Asking(engine, snapshot, shard)).run()
        act.tell(rows=len(asking.log.ids))
    return asked


class _Asking:
    """One process that asks one shard; see ``ask``."""

    def __init__(self, engine: Engine, snapshot: Snapshot, shard: Shard) -> None:
        job = snapshot.job
        self.engine, self.spec, self.n_requests = engine, job.spec, shard.n_requests
        self.tier = shard.direct.tier if shard.direct is not None else job.policy.finish_tier
        self.parallel = job.policy.finish_parallel
        parser = parser_of(job, engine.check)
        self.budget = Budget(job, shard, self.tier)
        self.log = AnswerLog(engine.store, shard.id, parser, self.budget.prices, shard.model, self.tier)
        self.lease = DirectLease(engine, snapshot, shard, self.tier, self.log)
        self.pacer = Pacer(self.parallel, _STORM if shard.direct is not None and shard.backoff.n_waits else 0)
        self.callers: Callers[DirectRequest, Reply] = Callers(self.parallel, self._call)
        self.queue = RequestQueue(self._requests(), 4 * self.parallel)
        self.answers: list[tuple[DirectRequest, bytes]] = []
        self.answers_since = 0.0
        self.looked_at = engine.clock()
        self.is_ending = False
        self.limit: Limit | None = None
        self.error: ApiError | None = None
        """The last for which a request is asked again."""
        self.denial: Denied | None = None

    def run(self) -> Asked:
        """Ask, and give the lease back whatever happens."""
        self._begin()
        try:
            self._ask_all()
        except Exception:
            self._leave_after_failure()
            raise
        finally:
            self.is_ending = True
            self.callers.stop()
        return self._leave()

    def _begin(self) -> None:
        """Take up what others have saved, and the lease."""
        self.log.read()
        lease = self.lease
        lease.take(self.budget.mean_picodollars)
        self.budget.refresh(lease.snapshot.job, lease.shard)
        self.engine.log.info(
            "Shard %s: asking %s requests synchronously (service tier %s, %d at a time).",
            lease.shard.id,
            f"{self.n_requests - len(self.log.ids):,}",
            self.tier,
            self.parallel,
        )

    def _ask_all(self) -> None:
        request: DirectRequest | None = None
        while True:
            self._look_around()
            while not self.is_ending:
                request = request or self.queue.next()
                if request is None or not self._may_send(request):
                    break
                self.callers.submit(request)
                request = None
            if not self.callers.n_out:
                self._save()
                if self.is_ending or request is None or not self._pause():
                    return
                continue
            for called in self.callers.ended(_LINGER_S):
                self._learn(called)
            if self.answers and time.monotonic() - self.answers_since >= _LINGER_S:
                self._save()

    def _requests(self) -> Iterator[DirectRequest]:
        for line in request_lines(self.engine.store, self.lease.shard.requests):
            request = request_of(line)
            if request.custom_id not in self.log.ids:
                yield request

    def _may_send(self, request: DirectRequest) -> bool:
        """Return whether a request may be sent now, and count it as sent if so."""
        n_busy = self.callers.n_out + len(self.answers)
        now = self.engine.clock()
        reason = self.budget.refusal(request, self.log.cost)
        if reason is not None:
            if not n_busy:
                self.limit, self.is_ending = Limit(by="cap", reason=reason), True
            return False  # what is on its way may cost less than it could
        if now >= self.lease.until or not self.pacer.admits(n_busy, self.budget.tokens_of(request), now):
            return False
        self.budget.reserve(request)
        request.mark = self.pacer.mark
        return True

    def _call(self, request: DirectRequest) -> Reply:
        """Ask, in a thread of its own."""
        if self.is_ending or self.engine.clock() >= self.lease.until:
            raise _NotSent
        body = body_to_send(request.body, self.spec.endpoint, self.tier)
        return self.engine.api.ask(self.spec.endpoint, body, self.engine.timing.direct_timeout_s)

    def _pause(self) -> bool:
        """Wait while nothing may be sent. Returns False if that is too long for a worker."""
        left_s = self.pacer.paused_until - self.engine.clock()
        if left_s > self.engine.timing.direct_pause_s:
            return False
        self.engine.sleep(min(max(left_s, 0.05), 5.0))
        return True

    def _look_around(self) -> None:
        """Renew the lease, and look whether a person wants something else."""
        if self.is_ending:
            return
        # What may be paid twice is committed before its place is taken by another: whoever dies leaves no more behind.
        if self.lease.is_due or self.lease.n_twice:
            self._save()
            if not self.lease.renew():
                self.engine.log.warning("Another process asks, or the job has moved on: nothing more is asked here.")
                self.is_ending = True
                return
            self.budget.refresh(self.lease.snapshot.job, self.lease.shard)
        now = self.engine.clock()
        if now - self.looked_at >= _COMMANDS_S:
            self.looked_at = now
            if self.engine.store.standing_commands(self.lease.snapshot.job).cancel:
                self.engine.log.warning("A person has cancelled the job: nothing more is asked.")
                self.is_ending = True

    # -- what comes back -----------------------------------------------------------------------------------------------

    def _learn(self, called: Called[DirectRequest, Reply]) -> None:
        request, reply, error = called
        if reply is not None:
            try:
                line = line_of_reply(request.custom_id, reply)
            except (msgspec.MsgspecError, ValueError) as problem:
                error = Unclear(f"The answer is not JSON: {problem}")
            else:
                self.queue.n_answers += 1
                self.pacer.answered(reply.rate_limits, self.engine.clock())
                self._keep(request, line)
                return
        if isinstance(error, _NotSent):
            self._ask_again(request)
        elif isinstance(error, Denied):
            self.denial, self.is_ending = error, True
            self._ask_again(request)
        elif isinstance(error, Refused):
            self._keep(request, line_of_error(request.custom_id, error))
        elif isinstance(error, ApiError):
            self._try_again(request, error)
        elif error is not None:
            raise error

    def _try_again(self, request: DirectRequest, error: ApiError) -> None:
        """Ask a request again later, unless it has failed too often."""
        self.error = error
        self.pacer.refused(request.mark, error.retry_after_s, self.engine.clock())
        if is_lost(error):
            self.lease.lost_picodollars += request.most_picodollars
            self.budget.lose(request)
        line = self.queue.line_of_failure(request, error)
        if line is None:
            self.lease.n_twice += is_lost(error)
            self._ask_again(request)
        else:
            self._keep(request, line)

    def _ask_again(self, request: DirectRequest) -> None:
        self.budget.release(request)
        self.queue.put_back(request)

    def _keep(self, request: DirectRequest, line: bytes) -> None:
        if not self.answers:
            self.answers_since = time.monotonic()
        self.answers.append((request, line))

    def _save(self) -> None:
        if self.answers:
            self.log.save([line for _, line in self.answers], self.engine.sleep)
            for request, _ in self.answers:  # what it cost counts from now on
                self.budget.release(request)
            self.answers = []

    # -- the end -------------------------------------------------------------------------------------------------------

    def _leave(self) -> Asked:
        """Give the lease back, with how far it came and why the rest is not asked now."""
        lease = self.lease
        if len(self.log.ids) >= self.n_requests:
            lease.give_back(Fact.ALL_ASKED, ShardUpdate(backoff=Backoff(), problem=None))
            return Asked(lease.snapshot)
        more, stop = ShardUpdate(), None
        if self.denial is not None:
            more, stop = self._denied(self.denial)
        elif self.limit is not None:
            more = ShardUpdate(problem=self.limit.reason[:500])
        elif self.pacer.paused_until > self.engine.clock():
            more = asked_later(self.engine, lease.shard, self.pacer.paused_until, self.error)
        lease.give_back(Fact.ASKED_DIRECTLY, more)
        if stop is not None:
            raise stop
        return Asked(lease.snapshot, self.limit)

    def _denied(self, error: Denied) -> tuple[ShardUpdate, Stop | None]:
        """Return what to remember of a refusal of the credentials, and the error if it is to be believed."""
        job, shard = self.lease.snapshot.job, self.lease.shard
        if is_believed(self.engine, job, shard, error):
            stop = Stop(denied(error), is_local=not concerns_all(job, error))
            return ShardUpdate(refused_at=shard.refused_at), stop
        return postponed(self.engine, shard, error).update, None

    def _leave_after_failure(self) -> None:
        """Save what can be saved, and let the next process know what may be paid twice."""
        self.is_ending = True
        try:
            self._save()
            self.lease.n_twice += self.callers.n_out
            self.lease.lost_picodollars += self.callers.n_out * self.budget.mean_picodollars
            self.lease.give_back(Fact.ASKED_DIRECTLY, ShardUpdate())
        except Exception as error:  # whatever a storage raises: the lease that stands says the same
            self.engine.log.warning("How far the asking came could not be stored: %r", error)
