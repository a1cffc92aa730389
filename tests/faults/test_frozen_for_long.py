"""A process that sleeps through most of its job's life, and then goes on with the number that it had."""

from __future__ import annotations

import re

import pytest

from airflow_openai_batch.engine.errors import CommitRefused
from airflow_openai_batch.engine.job.advance import advance
from airflow_openai_batch.engine.job.status import Done, Wait
from airflow_openai_batch.engine.store.job_store import FULL_SNAPSHOTS, JobStore

N = 14


class Sleeper(JobStore):
    """A store whose process falls asleep before a commit that announces a create, once."""

    meanwhile = None

    def commit(self, number, job, now):
        if self.meanwhile is not None and any(shard.intent is not None for shard in job.shards):
            act, self.meanwhile = self.meanwhile, None
            act()
            assert self.load()[0] >= number + FULL_SNAPSHOTS
        return super().commit(number, job, now)


def let_others_work(world, *, until_done):
    world.advance()
    if until_done:
        assert world.done().by_status == {"succeeded": N}


@pytest.mark.parametrize("until_done", [False, True], ids=["while its batches run", "until it is done"])
def test_a_process_that_wakes_after_its_job_moved_on_by_many_snapshots_pays_nothing(world, until_done):
    w = world()
    w.submit(N, per_shard=1)
    store = Sleeper(w.root, w.key)
    store.meanwhile = lambda: let_others_work(w, until_done=until_done)
    found = advance(w.engine(store=store))
    assert isinstance(found, Done if until_done else Wait)
    w.done()
    assert len(w.batches) == N
    w.assert_paid_once(N)
    w.assert_accounted(N)


def test_no_number_is_free_again_whatever_was_emptied(world):
    w = world()
    w.submit(N, per_shard=1)
    w.done()
    newest = w.store.load()
    for number in range(newest.number + 1):
        with pytest.raises(CommitRefused):
            w.store.commit(number, newest.job, w.clock.now())
    names = sorted(path.name for path in w.root.rglob("state/*"))
    assert all(re.fullmatch(r"\d{6}\.json", name) for name in names) and len(names) == newest.number + 1
    assert w.store.load() == newest
