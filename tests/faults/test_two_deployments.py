"""Two Airflow deployments on one storage, or one on a copy of another's: neither touches the other's batches."""

from __future__ import annotations

import shutil

import msgspec
import pytest
from upath import UPath

from airflow_openai_batch.engine.errors import ForeignJob, StoreError
from airflow_openai_batch.engine.job.advance import advance
from airflow_openai_batch.engine.job.waiting import begin_waiting
from airflow_openai_batch.engine.model import Policy
from airflow_openai_batch.engine.store.job_store import JobStore

PRODUCTION, STAGING = "https://airflow.example.com", "https://staging.example.com"


@pytest.fixture
def of():
    """Return a function that makes an engine of a deployment."""

    def engine(world, owner, root=None):
        return world.engine(store=JobStore(root or world.root, world.key, owner=owner))

    return engine


def everything_in(root):
    return {path: path.read_bytes() for path in sorted(root.rglob("*"), key=str) if path.is_file()}


def is_refused_everything(world, engine, named):
    """Let a deployment do all that it can do with a job. Nothing of it may have an effect, anywhere."""
    root = engine.store.root
    files, calls = everything_in(root), list(world.emu.ledger.calls)
    for act in (
        lambda: world.submit(6, engine=engine, per_shard=3),
        lambda: world.submit(6, engine=engine, body={"model": "gpt-6-luna", "input": "Another prompt: {text}"}),
        lambda: world.submit(6, engine=engine, start_over="everything"),
        lambda: advance(engine),
        lambda: begin_waiting(engine),
    ):
        with pytest.raises(ForeignJob) as refused:
            act()
        assert all(name in str(refused.value) for name in named), refused.value
    assert everything_in(root) == files
    assert world.emu.ledger.calls == calls


def test_a_second_deployment_on_one_storage_never_cancels_posts_or_writes(world, of):
    w = world()
    production, staging = of(w, PRODUCTION), of(w, STAGING)
    w.submit(6, engine=production, per_shard=3)
    is_refused_everything(w, staging, named=(PRODUCTION, STAGING, str(w.root), "[openai_batch]"))
    w.advance(production)
    w.clock.advance(60)
    is_refused_everything(w, staging, named=(PRODUCTION, STAGING))
    w.clock.advance(100 * 3600)  # past the deadline, which clearing a task extends
    is_refused_everything(w, staging, named=(PRODUCTION, STAGING))
    w.done(production)
    is_refused_everything(w, staging, named=(PRODUCTION, STAGING))
    assert len(w.batches) == 2
    w.assert_paid_once(6)
    w.assert_accounted(6)


def test_a_copy_of_another_deployments_storage_cancels_and_fetches_nothing(world, of, tmp_path):
    w = world()
    production = of(w, PRODUCTION)
    w.submit(6, engine=production, per_shard=3)
    w.advance(production)
    shutil.copytree(w.root, tmp_path / "copy")
    is_refused_everything(w, of(w, STAGING, UPath(tmp_path / "copy")), named=(PRODUCTION, str(tmp_path / "copy")))
    w.done(production)
    w.assert_paid_once(6)


def test_of_two_deployments_that_submit_at_once_one_sends(world, of):
    w = world()
    production, staging = of(w, PRODUCTION), of(w, STAGING)
    load, is_first = staging.store.load, [True]

    def late():
        found = load()
        if is_first and is_first.pop():
            assert found is None
            w.submit(6, engine=production)
        return found

    staging.store.load = late
    with pytest.raises(ForeignJob):
        w.submit(6, engine=staging)
    w.done(production)
    assert len(w.batches) == 1
    w.assert_paid_once(6)


def test_a_restored_deployment_goes_on_once_it_is_named_as_it_was(world, of, tmp_path):
    """A backup is brought up under another URL: it is the same deployment, if a person says so."""
    w = world()
    lost = of(w, PRODUCTION)
    w.submit(6, engine=lost, per_shard=3)
    w.advance(lost)
    restored = UPath(tmp_path / "restored")
    shutil.copytree(w.root, restored)
    with pytest.raises(ForeignJob, match=rf"set \[openai_batch\] deployment = {PRODUCTION} and clear"):
        advance(of(w, "https://new.example.com", restored))
    w.root = restored
    w.done(of(w, PRODUCTION))
    assert len(w.batches) == 2
    w.assert_paid_once(6)


@pytest.mark.parametrize("owner", ["", PRODUCTION])
@pytest.mark.parametrize("asks", ["", PRODUCTION])
def test_a_job_or_a_deployment_without_a_name_goes_on(world, of, owner, asks):
    w = world()
    w.submit(6, engine=of(w, owner))
    w.advance(of(w, asks))
    w.submit(w.rows(6, "another ticket {}"), engine=of(w, asks))  # a new epoch
    assert w.job.owner == (owner or asks)
    w.done(of(w, asks))
    assert w.job.epoch == 1 and w.job.owner == (owner or asks)


def test_the_folder_of_another_job_is_refused(world, of, tmp_path):
    """Copied by hand, or on a storage for which "Labels" and "labels" are one folder."""
    w = world()
    w.submit(6)
    w.advance()
    w.clock.advance(7200)
    mine, folder = w.key, str(w.store)
    for other in (
        msgspec.structs.replace(mine, dag_id="Labels"),
        msgspec.structs.replace(mine, run_id="manual__2026-11-23"),
        msgspec.structs.replace(mine, map_index=0),
    ):
        elsewhere = JobStore(UPath(tmp_path / "elsewhere"), other)
        shutil.copytree(folder, str(elsewhere), dirs_exist_ok=True)
        w.key = other
        is_refused_everything(w, w.engine(store=elsewhere), named=(mine.dag_id, mine.run_id, other.dag_id, "Move"))
    w.key = mine
    w.done()
    w.assert_paid_once(6)


def test_a_foreign_job_is_an_error_of_the_store():
    assert issubclass(ForeignJob, StoreError)


def test_a_command_of_a_person_needs_no_name(world, of):
    w = world()
    production = of(w, PRODUCTION)
    w.submit(6, engine=production, policy=Policy())
    w.advance(production)
    w.store.command("cancel")
    w.done(production)
    assert [batch.status for batch in w.batches] == ["cancelled"]
