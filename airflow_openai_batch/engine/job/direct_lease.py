"""Which process asks a job's requests synchronously: a lease in the snapshot, and how far it came, committed with it.

Whoever is refused a commit loads the job again and goes on only if the lease is still his own.
"""

from __future__ import annotations

import msgspec

from airflow_openai_batch.engine.direct.answer_log import AnswerLog
from airflow_openai_batch.engine.errors import CommitRefused
from airflow_openai_batch.engine.job.context import Change, Engine
from airflow_openai_batch.engine.job.finishing import is_finishing
from airflow_openai_batch.engine.job.state_machine import Fact, ShardUpdate, learn
from airflow_openai_batch.engine.model import DirectAnswers, Job, Lease, ServiceTier, Shard, State
from airflow_openai_batch.engine.store.job_store import Snapshot

_TRIES = 20


class DirectLease:
    """The lease of one process to ask one shard.

    Attributes:
        snapshot: The newest snapshot.
        shard: The shard in it.
        until: Epoch seconds from which nothing may be sent any more, unless it is renewed.
        n_twice: Requests that may have been paid twice, and are in no snapshot yet.
        lost_picodollars: What those cost at most whose answer was lost, and that are in no snapshot yet.

    Args:
        engine: The engine.
        snapshot: The newest snapshot.
        shard: The shard.
        tier: The service tier in which it is asked.
        log: The answers, which tell how far it came.
    """

    def __init__(self, engine: Engine, snapshot: Snapshot, shard: Shard, tier: ServiceTier, log: AnswerLog) -> None:
        self.snapshot, self.shard = snapshot, shard
        self.until = 0.0
        self.n_twice = self.lost_picodollars = 0
        self._engine, self._tier, self._log = engine, tier, log
        self._owner = engine.unique()
        self._began_at = shard.direct.began_at if shard.direct is not None else engine.clock()

    @property
    def is_due(self) -> bool:
        """Whether it is time to renew it."""
        timing = self._engine.timing
        return self._engine.clock() >= self.until - timing.lease_s + timing.renew_s

    def take(self, mean_picodollars: int) -> None:
        """Commit that this process asks, before it does. What another had on its way may be paid for twice.

        Args:
            mean_picodollars: What a request costs at most, on average.

        Raises:
            CommitRefused: Another process moved the job.
        """
        self.n_twice = self._n_left_on_their_way()
        self.lost_picodollars = self.n_twice * mean_picodollars
        if self.n_twice:
            self._engine.log.warning(
                "A process ended while it asked synchronously: up to %d requests may be paid twice.", self.n_twice
            )
        self._commit(Fact.ASKED_DIRECTLY, self._new(), ShardUpdate(problem=None, refused_at=self.shard.refused_at))

    def _n_left_on_their_way(self) -> int:
        """Return how many requests a process that died may have had on their way."""
        job = self.snapshot.job
        if job.lease is None:
            return 0
        if job.lease.shard == self.shard.id:
            n_left = self.shard.n_requests - len(self._log.ids)
        else:
            n_left = sum(s.n_requests - (s.direct.n_done if s.direct else 0) for s in _named(job, job.lease.shard))
        return min(job.lease.parallel, n_left)

    def renew(self) -> bool:
        """Commit how far it came. Returns whether this process may go on."""
        return self._commit_if_ours(Fact.ASKED_DIRECTLY, self._new(), ShardUpdate())

    def give_back(self, fact: Fact, more: ShardUpdate) -> None:
        """Commit how far it came, and that this process asks no more.

        Args:
            fact: Whether all is asked.
            more: What else became known of the shard.
        """
        if not self._commit_if_ours(fact, None, more):
            self._give_back_alone()

    def _new(self) -> Lease:
        return Lease(
            owner=self._owner,
            shard=self.shard.id,
            parallel=self.snapshot.job.policy.finish_parallel,
            renewed_at=self._engine.clock(),
        )

    @property
    def _is_ours(self) -> bool:
        lease = self.snapshot.job.lease
        return lease is not None and lease.owner == self._owner

    def _commit_if_ours(self, fact: Fact, lease: Lease | None, more: ShardUpdate) -> bool:
        """Commit, also if others have moved the job. Returns False if this process may not go on asking."""
        for _ in range(_TRIES):
            shard = next((s for s in self.snapshot.job.shards if s.id == self.shard.id), None)
            if not self._is_ours or shard is None or shard.state is not State.ASKING:
                return False
            self.shard = shard
            try:
                self._commit(fact, lease, more)
            except CommitRefused:
                self._reload()
            else:
                return is_finishing(self.snapshot.job, self._engine.clock())
        return False

    def _give_back_alone(self) -> None:
        """Let a job that has moved on know that nobody asks any more, so that it need not wait for that."""
        for _ in range(_TRIES):
            if not self._is_ours:
                return
            job = self._counted(msgspec.structs.replace(self.snapshot.job, lease=None))
            try:
                self.snapshot = self._engine.store.commit(self.snapshot.number + 1, job, self._engine.clock())
            except CommitRefused:
                self._reload()

    def _commit(self, fact: Fact, lease: Lease | None, more: ShardUpdate) -> None:
        direct = DirectAnswers(
            began_at=self._began_at,
            tier=self._tier,
            n_done=len(self._log.ids),
            usage=self._log.usage,
            cost=self._log.cost,
        )
        before = self.shard
        after = learn(before, fact, ShardUpdate(direct=direct, batch=None, intent=None) | more)
        shards = tuple(after if shard.id == after.id else shard for shard in self.snapshot.job.shards)
        job = self._counted(msgspec.structs.replace(self.snapshot.job, shards=shards, lease=lease))
        self.snapshot = self._engine.store.commit(self.snapshot.number + 1, job, self._engine.clock())
        self.shard = after
        self.n_twice = self.lost_picodollars = 0
        self.until = 0.0 if lease is None else lease.renewed_at + self._engine.timing.lease_s
        self._engine.observer.committed(self.snapshot.job, [Change(fact, before, after)])

    def _counted(self, job: Job) -> Job:
        return msgspec.structs.replace(
            job,
            n_maybe_paid_twice=job.n_maybe_paid_twice + self.n_twice,
            maybe_paid_picodollars=job.maybe_paid_picodollars + self.lost_picodollars,
        )

    def _reload(self) -> None:
        latest = self._engine.store.load()
        assert latest is not None  # noqa: S101 - it was there
        self.snapshot = latest


def _named(job: Job, shard_id: str) -> list[Shard]:
    return [shard for shard in job.all_shards if shard.id == shard_id]
