"""State machine and planner under crashes, lost requests and answers, list lag and two workers: a model of 60 lines.

Workers are generators; between two steps any time may pass and anything may happen to the other one. What a worker
yields is the longest time until its next step: the engine bounds nothing but the call to OpenAI.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
from builders import TIMING, job, shard
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_openai_batch.engine.job.planner import plan
from airflow_openai_batch.engine.job.state_machine import Fact, ShardUpdate, learn
from airflow_openai_batch.engine.model import Backoff, Batch, Commands, Intent, Job, Shard, State, Upload

F = Fact
LATE_S = (TIMING.grace_s - TIMING.post_timeout_s) / 2  # who is later than this after its intent does not post
LAG_S = TIMING.grace_s - TIMING.post_timeout_s - LATE_S
N_SHARDS = 3


@dataclass
class Made:
    shard: str
    nonce: str
    visible_at: float
    ends_at: float
    status: str = "in_progress"


@dataclass
class Simulation:
    rng: random.Random
    is_exclusive: bool = True
    faults: float = 0.3
    now: float = 0.0
    made: list[Made] = field(default_factory=list)
    snapshots: list[Job] = field(
        default_factory=lambda: [job(*(shard(State.PLANNED, f"s{i}") for i in range(N_SHARDS)))]
    )

    def commit(self, number: int, what: Job, after: Shard) -> bool:
        if self.is_exclusive and number != len(self.snapshots):
            return False
        swapped = tuple(after if s.id == after.id else s for s in what.shards)
        self.snapshots.append(msgspec.structs.replace(what, shards=swapped))
        return True

    def goes_wrong(self) -> bool:
        return self.rng.random() < self.faults

    def worker(self) -> Iterator[float]:
        while True:
            number, what = len(self.snapshots), self.snapshots[-1]
            yield 300.0
            actions = list(plan(what, self.now, Commands(), TIMING))
            if not actions:
                yield 300.0
                continue
            action = self.rng.choice(actions)
            of = next(s for s in what.shards if s.id == action.shard)
            if action.verb == "create":
                yield from self.create(number, what, of)
                continue
            update = ShardUpdate()
            fact = F.POSTPONED
            if action.verb == "upload":
                fact, update = F.FILE_UPLOADED, ShardUpdate(upload=Upload(file_id="f"), backoff=Backoff())
            elif action.verb == "look":
                is_last = self.now >= of.not_before
                found = [
                    m
                    for m in self.made
                    if of.intent is not None and m.nonce == of.intent.nonce and m.visible_at <= self.now
                ]
                if found:
                    fact, update = F.BATCH_KNOWN, self.known(found[0])
                elif is_last:
                    fact, update = F.BATCH_ABSENT, ShardUpdate(intent=None, backoff=Backoff())
                else:
                    assert of.intent is not None
                    update = ShardUpdate(intent=msgspec.structs.replace(of.intent, n_looks=of.intent.n_looks + 1))
            elif action.verb == "refresh":
                fact, update = self.refreshed(of)
            elif action.verb == "harvest":
                fact = F.OUTCOMES_SAVED
            yield 300.0
            self.commit(number, what, learn(of, fact, update))

    def refreshed(self, of: Shard) -> tuple[Fact, ShardUpdate]:
        mine = next(m for m in self.made if of.batch is not None and m.nonce == of.batch.id)
        if mine.status == "in_progress" and self.now >= mine.ends_at:
            mine.status = "failed" if self.goes_wrong() else "completed"
        if mine.status == "failed":  # the queue was full; nothing was billed
            backoff = Backoff(not_before=self.now + 30, n_waits=1)
            return F.QUEUE_FULL, ShardUpdate(batch=None, intent=None, backoff=backoff)
        return (F.BATCH_ENDED if mine.status == "completed" else F.STILL_RUNNING), ShardUpdate()

    def known(self, found: Made) -> ShardUpdate:
        return ShardUpdate(batch=Batch(id=found.nonce, status=found.status), backoff=Backoff())

    def create(self, number: int, what: Job, of: Shard) -> Iterator[float]:
        nonce = f"{of.id}/{self.rng.random()}"
        intent, backoff = Intent(nonce=nonce, at=self.now), Backoff(not_before=self.now + TIMING.grace_s)
        yield 300.0
        intended = learn(of, F.INTENT_SAVED, ShardUpdate(intent=intent, backoff=backoff))
        if not self.commit(number, what, intended):
            return
        number, what = len(self.snapshots), self.snapshots[-1]
        yield 300.0  # frozen for as long as it likes
        if self.now - intent.at > LATE_S:
            return
        yield TIMING.post_timeout_s
        if self.goes_wrong():
            return  # the request was lost
        born = Made(of.id, nonce, self.now + self.rng.random() * LAG_S, self.now + self.rng.random() * 600)
        self.made.append(born)
        yield 300.0
        if not self.goes_wrong():  # else the answer was lost
            self.commit(number, what, learn(intended, F.BATCH_KNOWN, self.known(born)))

    def live_or_paid(self) -> list[int]:
        return [sum(m.shard == f"s{i}" and m.status != "failed" for m in self.made) for i in range(N_SHARDS)]

    def run(self, n_workers: int, n_steps: int, p_kill: float) -> None:
        """Let some workers live and die, in any order."""
        workers = [(self.worker(), self.now) for _ in range(n_workers)]
        for _ in range(n_steps):
            at = self.now + self.rng.choice([0.0, 1.0, 10.0, 60.0]) * self.rng.random()
            i = min(range(n_workers), key=lambda k: workers[k][1])
            if workers[i][1] > at:  # nobody has to move yet
                i = self.rng.randrange(n_workers)
            self.now = max(self.now, min(at, workers[i][1]))
            running, _ = workers[i]
            if self.rng.random() < p_kill:
                running = self.worker()
            workers[i] = (running, self.now + next(running))
            if max(self.live_or_paid()) > 1:
                return

    def is_settled(self) -> bool:
        return all(s.state is State.SETTLED for s in self.snapshots[-1].shards)


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_no_shard_ever_has_two_live_or_paid_batches(seed: int) -> None:
    simulation = Simulation(random.Random(seed))
    simulation.run(n_workers=2, n_steps=250, p_kill=0.1)
    assert max(simulation.live_or_paid()) <= 1


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_when_the_faults_end_the_job_ends_with_each_shard_paid_once(seed: int) -> None:
    simulation = Simulation(random.Random(seed))
    simulation.run(n_workers=2, n_steps=120, p_kill=0.1)
    simulation.faults = 0.0
    for _ in range(40):
        if simulation.is_settled():
            break
        simulation.run(n_workers=1, n_steps=100, p_kill=0.0)
    assert simulation.is_settled()
    assert simulation.live_or_paid() == [1] * N_SHARDS


def test_the_simulation_would_notice_a_store_that_overwrites() -> None:
    caught = 0
    for seed in range(40):
        simulation = Simulation(random.Random(seed), is_exclusive=False)
        simulation.run(n_workers=2, n_steps=250, p_kill=0.1)
        caught += max(simulation.live_or_paid()) > 1
    assert caught > 20
