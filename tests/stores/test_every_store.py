"""One behaviour for every storage: exclusive commits, whole files or none, and no listing that is out of date."""

from __future__ import annotations

import json
import threading
import time
import uuid

import msgspec
import numpy as np
import pytest
from openai import DefaultHttpxClient, OpenAI
from upath import UPath

from airflow_openai_batch.emulator import Emulator, ManualClock
from airflow_openai_batch.engine.api.client import Api
from airflow_openai_batch.engine.cleaning.clean import clean
from airflow_openai_batch.engine.errors import CommitRefused, JobCleaned, StoreError, UnknownFormat
from airflow_openai_batch.engine.job.advance import advance
from airflow_openai_batch.engine.job.context import Engine
from airflow_openai_batch.engine.job.status import Done, Wait
from airflow_openai_batch.engine.job.submit import Request, submit
from airflow_openai_batch.engine.ledger import compaction
from airflow_openai_batch.engine.ledger.lookup import look_up
from airflow_openai_batch.engine.ledger.segments import Digests, Ledger, Pointers
from airflow_openai_batch.engine.model import JobKey, Policy
from airflow_openai_batch.engine.results.sinks import FileSink
from airflow_openai_batch.engine.results.writer import write_results
from airflow_openai_batch.engine.store.job_store import FULL_SNAPSHOTS, JobStore


def _at_once(n, act):
    """Let n threads do something at the same moment; return what each got."""
    barrier = threading.Barrier(n)
    found = [None] * n

    def work(i):
        barrier.wait()
        try:
            found[i] = act(i)
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_of_eight_concurrent_creators_exactly_one_wins_and_its_content_stands(storage):
    stores = [storage.store() for _ in range(8)]
    found = _at_once(8, lambda i: stores[i].create("state/000000.json", f"writer {i}".encode()))
    assert sorted(found, key=bool) == [False] * 7 + [True]
    assert storage.store().read("state/000000.json") == f"writer {found.index(True)}".encode()


def test_of_eight_concurrent_committers_exactly_one_wins(storage, job):
    stores = [storage.store() for _ in range(8)]
    found = _at_once(8, lambda i: stores[i].commit(0, job(i), 5.0))
    winners = [i for i, result in enumerate(found) if isinstance(result, tuple)]
    assert len(winners) == 1
    assert sum(isinstance(result, CommitRefused) for result in found) == 7
    assert storage.store().load()[1].n_rows == winners[0]


def test_a_file_that_exists_is_left_as_it_is(storage):
    store = storage.store()
    assert store.create("a/b.json", b"first") is True
    assert store.create("a/b.json", b"second") is False
    assert store.read("a/b.json") == b"first"


def test_what_was_committed_is_what_is_loaded(storage, job):
    number, committed = storage.store().commit(0, job(7), 5.0)
    assert number == 0
    assert storage.store().load() == (0, committed)
    assert committed.writer and committed.committed_at == 5.0


def test_there_is_no_job_before_the_first_commit(storage):
    assert storage.store().load() is None


def test_the_highest_number_is_the_truth(storage, job):
    store = storage.store()
    for number in range(12):
        store.commit(number, job(number), 5.0)
    assert storage.store().load()[0] == 11
    assert storage.store().load()[1].n_rows == 11


def test_a_second_client_sees_a_commit_at_once_although_it_has_listed_before(storage, job):
    ours, theirs = storage.store(), storage.store()
    assert theirs.load() is None
    for number in range(4):
        ours.commit(number, job(number), 5.0)
        assert theirs.load()[0] == number
    theirs.commit(4, job(4), 5.0)
    assert ours.load()[0] == 4


def test_a_refused_commit_changes_nothing(storage, job):
    store = storage.store()
    store.commit(0, job(1), 5.0)
    with pytest.raises(CommitRefused):
        storage.store().commit(0, job(2), 6.0)
    assert storage.store().load()[1].n_rows == 1


def test_a_job_of_another_state_format_is_refused_and_kept(storage, job):
    data = msgspec.json.encode(msgspec.structs.replace(job(), format_version=99))
    store = storage.store()
    store.create("state/000000.json", data)
    with pytest.raises(UnknownFormat, match=r"99.*Nothing is lost"):
        store.load()
    assert store.read("state/000000.json") == data


def test_other_files_beside_the_snapshots_are_ignored(storage, job):
    store = storage.store()
    store.commit(0, job(1), 5.0)
    for name in ("state/notes.txt", "state/999999.json.bak", "state/.new-000009.json"):
        store.create(name, b"x")
    assert store.load()[0] == 0


def test_a_file_written_as_a_stream_appears_whole(storage):
    store = storage.store()
    with store.writing("e0/requests/a.jsonl") as file:
        for i in range(1000):
            file.write(b"%d\n" % i)
        assert not _exists(storage, "e0/requests/a.jsonl")
    with storage.store().open("e0/requests/a.jsonl") as file:
        assert file.read().split() == [b"%d" % i for i in range(1000)]
    assert storage.store().size("e0/requests/a.jsonl") == 3890


def test_a_file_whose_writer_failed_never_appears(storage):

    def fail():
        with storage.store().writing("e0/requests/a.jsonl") as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not _exists(storage, "e0/requests/a.jsonl")


def test_an_empty_and_a_large_file_survive_the_way(storage):
    store = storage.store()
    large = bytes(range(256)) * (6 * 1024 * 4)  # more than one part of an S3 upload would be 5 MB
    for name, data in (("e0/empty", b""), ("e0/large", large)):
        with store.writing(name) as file:
            file.write(data)
        with storage.store().open(name) as file:
            assert file.read() == data


def test_an_open_file_can_be_sought(storage):
    store = storage.store()
    with store.writing("e0/a") as file:
        file.write(b"0123456789")
    with store.open("e0/a") as file:
        file.seek(5)
        assert file.read(2) == b"56"


def test_a_good_store_passes_the_check_and_keeps_no_trace_of_it(storage):
    store = storage.store()
    store.check()
    store.check()
    root = storage.root()
    assert [name for name in root.fs.find(root.path) if "probe" in name] == []


def test_commands_stand_until_they_are_acknowledged(storage, job):
    store = storage.store()
    assert store.commands() == ()
    storage.store().command("cancel")
    assert store.standing_commands(job()).cancel is True
    acknowledged = msgspec.structs.replace(job(), acknowledged=store.commands())
    assert store.standing_commands(acknowledged).cancel is False
    storage.store().command("cancel")
    assert store.standing_commands(acknowledged).cancel is True


def test_only_the_newest_snapshots_are_kept_whole(storage, job):
    store = storage.store()
    for number in range(FULL_SNAPSHOTS + 3):
        store.commit(number, job(number), 5.0)
    sizes = [storage.store().size(f"state/{number:06d}.json") for number in range(FULL_SNAPSHOTS + 3)]
    assert [size > 0 for size in sizes] == [False] * 3 + [True] * FULL_SNAPSHOTS
    with pytest.raises(CommitRefused):
        storage.store().commit(1, job(99), 6.0)
    assert storage.store().load()[1].n_rows == FULL_SNAPSHOTS + 2


def test_an_s3_server_whose_refusal_s3fs_does_not_know_is_good(s3_options, job, monkeypatch):
    """Seen: SeaweedFS answers 412 without the element that s3fs takes for "exists already"."""
    import s3fs.core

    translate = s3fs.core.translate_boto_error

    def without_condition(error, *args, **more):
        getattr(error, "response", {}).get("Error", {}).pop("Condition", None)
        return translate(error, *args, **more)

    monkeypatch.setattr(s3fs.core, "translate_boto_error", without_condition)
    root = UPath(f"s3://jobs/{uuid.uuid4().hex}", **s3_options)
    with pytest.raises(OSError, match="pre-condition"):
        _twice(root / "x")
    key = job().key
    one, other = JobStore(root, key), JobStore(root, key)
    one.check()
    one.commit(0, job(1), 5.0)
    with pytest.raises(CommitRefused):
        other.commit(0, job(2), 6.0)
    assert other.load()[1].n_rows == 1
    found = _at_once(8, lambda i: JobStore(root, key).commit(1, job(i), 7.0))
    assert sum(isinstance(result, tuple) for result in found) == 1
    assert sum(isinstance(result, CommitRefused) for result in found) == 7


def _twice(path):
    for _ in range(2):
        with path.fs.open(path.path, "xb") as file:
            file.write(b"x")


def test_an_unknown_command_is_refused(storage):
    with pytest.raises(ValueError, match="Unknown command"):
        storage.store().command("dance")


def test_a_missing_file_is_a_store_error_that_names_the_setting(storage):
    store = storage.store()
    with pytest.raises(StoreError, match=r"\[openai_batch\] storage"):
        store.read("e0/nothing")
    with pytest.raises(StoreError, match=r"\[openai_batch\] storage"), store.open("e0/nothing"):
        pass


def test_jobs_have_folders_of_their_own(storage, job):
    keys = [
        JobKey(dag_id="d", run_id=run_id, task_id="t", map_index=i)
        for run_id in ("a b", "a_b", "a/b", "..", "ä")
        for i in (-1, 0, 1)
    ]
    for i, key in enumerate(keys):
        storage.store(key).commit(0, msgspec.structs.replace(job(i), key=key), 5.0)
    assert [storage.store(key).load()[1].n_rows for key in keys] == list(range(len(keys)))


@pytest.fixture(scope="module")
def http():
    with DefaultHttpxClient() as client:
        yield client


def _exists(storage, name):
    try:
        storage.store().size(name)
    except StoreError:
        return False
    return True


def _finish(engine, clock):
    for _ in range(50):
        found = advance(engine)
        if not isinstance(found, Wait):
            return found
        clock.advance(1000)
    raise AssertionError("the job does not end")


def test_a_whole_job_lives_on_the_store_and_a_process_may_die_at_any_time(storage, http):
    """Every advance is a new engine, on the other client of the storage."""
    clock = ManualClock()
    with Emulator(clock=clock, duration=3600, seed=7, faults=[{"on": "row", "do": "missing", "times": 1}]) as emu:

        def engine():
            client = OpenAI(base_url=emu.base_url, api_key="sk-test", http_client=http)
            return Engine(storage.store(), Api(client), clock=clock.now, sleep=clock.advance)

        def request():
            rows = [{"id": i, "text": f"ticket {i}"} for i in range(20)]
            return Request(rows, endpoint="/v1/responses", body={"model": "m", "input": "{text}"})

        submit(engine(), request(), Policy())
        advance(engine())
        submit(engine(), request(), Policy())
        found = None
        for _ in range(50):
            found = advance(engine())
            if not isinstance(found, Wait):
                break
            clock.advance(1000)
        assert isinstance(found, Done)
        assert found.summary.n_succeeded == 20
        assert len(emu.batches) == 2
        assert emu.ledger.n_rows() == 20
        assert emu.ledger.rows_billed_twice() == []
        store = storage.store()
        target = storage.root() / "results" / "out.jsonl"
        write_results(store, store.load()[1], FileSink(target))
        lines = [json.loads(line) for line in target.read_bytes().splitlines()]
        assert [line["output"] for line in lines] == [f"Echo: ticket {i}" for i in range(20)]


def test_results_replace_those_of_an_earlier_run(storage, http):
    clock = ManualClock()
    with Emulator(clock=clock, duration=0, seed=7) as emu:
        client = OpenAI(base_url=emu.base_url, api_key="sk-test", http_client=http)
        engine = Engine(storage.store(), Api(client), clock=clock.now, sleep=clock.advance)
        target = storage.root() / "results" / "out.jsonl"
        for n in (3, 2):
            rows = [{"id": i} for i in range(n)]
            submit(engine, Request(rows, endpoint="/v1/responses", body={"model": "m", "input": "{id}"}), Policy())
            assert isinstance(_finish(engine, clock), Done)
            write_results(engine.store, engine.store.load()[1], FileSink(target))
        assert len(target.read_bytes().splitlines()) == 2


def test_an_old_job_is_cleaned_and_only_its_tombstone_stays(storage, http, job):
    clock = ManualClock()
    with Emulator(clock=clock, duration=0, seed=7) as emu:

        def api():
            return Api(OpenAI(base_url=emu.base_url, api_key="sk-test", http_client=http))

        store = storage.store()
        engine = Engine(JobStore(storage.root(), store.key, "ours"), api(), clock=clock.now, sleep=clock.advance)
        rows = [{"id": i} for i in range(6)]
        submit(engine, Request(rows, endpoint="/v1/responses", body={"model": "m", "input": "{id}"}), Policy())
        assert isinstance(_finish(engine, clock), Done)
        files = store.walk()
        assert len(files) > 5
        assert all(abs(file.modified_at - time.time()) < 600 for file in files)
        clock.advance(20 * 86_400)
        report = clean(
            storage.root(), "ours", clock.now(), older_than_s=86_400, api_of=lambda _: api(), conn_ids=("openai",)
        )
        assert len(report.jobs) == 1
        assert report.problems == []
        assert not [file for file in storage.store().walk() if not file.name.startswith("state/")]
        assert len([file for file in storage.store().walk() if file.n_bytes]) == 1
        assert list(emu.files) == []
        with pytest.raises(JobCleaned):
            storage.store().load()
        for number in range(1, len(storage.store().names_in("state"))):
            with pytest.raises(CommitRefused):
                storage.store().commit(number, job(), 5.0)


@pytest.mark.parametrize("n_workers", [3])
def test_workers_at_once_on_one_store_pay_once(storage, http, n_workers):
    clock = ManualClock()
    with Emulator(clock=clock, duration=600, seed=7, patience=20) as emu:

        def engine():
            client = OpenAI(base_url=emu.base_url, api_key="sk-test", http_client=http)
            return Engine(storage.store(), Api(client), clock=clock.now, sleep=clock.advance)

        rows = [{"id": i, "text": f"ticket {i}"} for i in range(6)]
        request = Request(rows, endpoint="/v1/responses", body={"model": "m", "input": "{text}"})
        assert isinstance(submit(engine(), request, Policy()).shards, tuple)
        engines = [engine() for _ in range(n_workers)]
        for _ in range(6):
            found = _at_once(n_workers, lambda i: advance(engines[i]))
            assert not [error for error in found if isinstance(error, Exception)]
            clock.advance(200)
        assert isinstance(_finish(engine(), clock), Done)
        assert emu.ledger.n_rows() == 6
        assert emu.ledger.rows_billed_twice() == []


def test_jobs_share_a_ledger_on_the_store_and_it_is_kept_short(storage, http, monkeypatch):
    """Twenty nights, two rows more each: every answer is paid for once, and small segments become one."""
    monkeypatch.setattr(compaction, "_MIN_MERGED", 4)
    clock = ManualClock()
    name = uuid.uuid4().hex  # the storage keeps what other tests have left
    with Emulator(clock=clock, duration=0, seed=7) as emu:
        client = OpenAI(base_url=emu.base_url, api_key="sk-test", http_client=http)
        for night in range(1, 13):
            store = storage.store(JobKey(dag_id=name, run_id=f"night-{night}", task_id="ask"))
            engine = Engine(store, Api(client), clock=clock.now, sleep=clock.advance)
            rows = [{"text": f"ticket {i}"} for i in range(2 * night)]
            request = Request(rows, endpoint="/v1/responses", body={"model": "m", "input": "{text}"})
            submit(engine, request, Policy(reuse=name))
            found = _finish(engine, clock)
            assert found.summary.n_succeeded == 2 * night
            assert found.job.n_reused == 2 * (night - 1)
            clock.advance(86_400)
        assert emu.ledger.n_rows() == 24
        assert len(Ledger(storage.root(), name).segments()) < 8


def test_segments_that_vanish_while_they_are_read_are_found_where_they_went(storage, monkeypatch):
    ledger = Ledger(storage.root(), uuid.uuid4().hex)
    for number in range(6):
        ledger.add(_pointers(number), 1000 + number, 1000 + number, of=str(number))
    other = Ledger(storage.root(), ledger.name)
    listed, segments = iter([True]), ledger.segments

    def segments_before_a_merge():
        found = segments()
        if next(listed, False):
            monkeypatch.setattr(compaction, "_MIN_MERGED", 2)
            assert compaction.compact(other, 2000, 10_000) == 5
        return found

    monkeypatch.setattr(ledger, "segments", segments_before_a_merge)
    numbers = np.arange(6, dtype=np.uint64)
    assert look_up(ledger, Digests(numbers, numbers), 0).part.tolist() == [0] * 6
    assert len(other.segments()) == 1


def _pointers(number):
    key = np.array([number], np.uint64)
    one = np.array([0], np.int64)
    return Pointers(Digests(key, key), one + 500, one, one, ("a/b/c/e0/outcomes/x.parquet",))
