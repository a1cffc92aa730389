"""What the engine tells whoever watches it: each action, and each fact once it is committed."""

from __future__ import annotations

import contextvars
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from builders import World, answer, cut, failure

from airflow_openai_batch.engine.errors import Denied, Unclear
from airflow_openai_batch.engine.job.context import Change
from airflow_openai_batch.engine.job.state_machine import Fact
from airflow_openai_batch.engine.model import Job, Shard

WHERE = contextvars.ContextVar("where", default="nowhere")


class Seen:
    """An action that was seen."""

    def __init__(self, verb: str, shard: Shard | None) -> None:
        self.verb, self.shard, self.where = verb, shard, WHERE.get()
        self.told: dict[str, Any] = {}
        self.is_over = False

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over = True

    def tell(self, **what: Any) -> None:
        assert not self.is_over
        self.told |= what


class Witness:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.acts: list[Seen] = []
        self.plans: list[Job] = []
        self.changes: list[Change] = []

    def acting(self, verb: str, shard: Shard | None = None) -> Seen:
        self.acts.append(Seen(verb, shard))
        return self.acts[-1]

    def planned(self, job: Job) -> None:
        self.plans.append(job)

    def committed(self, job: Job, changes: Sequence[Change]) -> None:
        for change in changes:
            assert change.after in (*job.shards, *job.earlier), "told before it is in the snapshot"
        self.changes += changes

    @property
    def verbs(self) -> Counter[str]:
        return Counter(act.verb for act in self.acts)

    @property
    def facts(self) -> Counter[Fact]:
        return Counter(change.fact for change in self.changes)


@pytest.fixture
def witness(world: World) -> Witness:
    world.engine.observer = found = Witness()
    return found


def test_each_action_is_told_with_what_became_known(world: World, witness: Witness) -> None:
    world.submit(4, limits=cut(2))
    world.waits()
    world.api.finish("batch_0")
    world.api.finish("batch_1", lambda i: answer(i) if i == "t2" else None)
    world.api.change("batch_1", n_failed=1)
    world.waits()
    world.api.finish("batch_2")
    world.done()
    assert witness.verbs == {"build": 1, "upload": 3, "create": 3, "refresh": 6, "harvest": 3, "reshard": 1}
    assert all(act.is_over for act in witness.acts)
    build = next(act for act in witness.acts if act.verb == "build")
    assert build.told == {"rows": 4, "shards": 2, "bytes": sum(s.n_bytes for s in witness.plans[0].shards)}
    create = [act for act in witness.acts if act.verb == "create"][-1]
    assert create.told == {"fact": "batch_known", "batch_id": "batch_2", "batch_status": "validating"}
    assert create.shard is not None
    assert create.shard.round == 1
    reshard = next(act for act in witness.acts if act.verb == "reshard")
    assert reshard.told == {"fact": "child_made", "child": "0-00001.1", "child_rows": 1}


def test_parallel_actions_are_told_in_the_context_of_the_caller(world: World, witness: Witness) -> None:
    world.engine.parallel = 3
    WHERE.set("in the task")
    world.submit(8, limits=cut(2))
    world.waits()
    assert witness.verbs["upload"] == 4
    assert {act.where for act in witness.acts} == {"in the task"}


def test_facts_are_told_once_they_are_committed_and_never_again(world: World, witness: Witness) -> None:
    world.submit(3)
    world.waits()
    world.waits()
    world.submit(3)
    world.api.finish("batch_0", lambda i: answer(i) if i != "t2" else None)
    world.api.change("batch_0", n_failed=1)
    world.waits()
    world.api.finish("batch_1", failure)
    for _ in range(5):
        world.later(3600)
        for name in world.api.running:
            world.api.finish(name)
        world.advance()
    before = dict(witness.facts)
    world.done()
    world.submit(3)
    world.done()
    assert witness.facts == before
    assert witness.facts[Fact.BATCH_KNOWN] == witness.facts[Fact.OUTCOMES_SAVED] == len(world.api.made) == 3
    assert len(witness.plans) == 1


def test_what_another_worker_has_committed_is_his_to_tell(world: World, witness: Witness) -> None:
    world.submit(2)
    other = world.worker()
    other.observer = second = Witness()

    def interleave() -> None:
        world.api.on_create = lambda: None
        from airflow_openai_batch.engine.job.advance import advance

        advance(other)

    world.api.on_create = interleave
    world.waits()
    assert (witness.facts + second.facts)[Fact.BATCH_KNOWN] == 1


def test_trouble_is_told_by_kind_and_never_in_words(world: World, witness: Witness) -> None:
    world.submit(1)
    world.api.script("upload", Unclear("Jane Roe is ill"), Denied("Jane Roe is ill", status=401))
    world.waits()
    world.later(3600)
    world.held()
    told = [act.told for act in witness.acts if act.verb == "upload"]
    assert told == [{"fact": "postponed", "failed": True}, {"fact": "stopped", "failed": True}]
