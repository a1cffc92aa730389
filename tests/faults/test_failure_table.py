"""The failure table of the design, line by line."""

from __future__ import annotations

import pytest

from airflow_openai_batch.engine.errors import StoreError
from airflow_openai_batch.engine.job.status import Done, Held, Wait
from airflow_openai_batch.engine.model import JobKey, State
from airflow_openai_batch.engine.store.job_store import JobStore

NOT_FOUND = {"fail": "cannot_find_file"}


def test_a_batch_failed_for_a_full_queue_goes_back_waits_and_sends_the_same_file(world):
    w = world()
    w.submit(6)
    w.fault("batch", {"fail": "token_limit_exceeded"}, times=3)
    assert w.done().n_succeeded == 6
    assert [b.status for b in w.batches] == ["failed"] * 3 + ["completed"]
    assert len({b.input_file_id for b in w.batches}) == 1
    gaps = [b.times.created_at - a.times.created_at for a, b in zip(w.batches, w.batches[1:], strict=False)]
    assert gaps == sorted(gaps) and gaps[0] > 0
    w.assert_paid_once(6)


def test_a_file_that_cannot_be_found_is_retried_then_uploaded_once_more_then_given_up(world):
    w = world()
    w.submit(6)
    w.fault("batch", NOT_FOUND)
    summary = w.done()
    assert w.n_calls("POST", "/v1/files") == 2
    assert len(w.batches) == 6
    assert summary.by_status == {"failed": 6}
    assert "Cannot find file" in w.check_thresholds()
    assert w.billed() == {}


def test_a_file_that_is_found_after_a_while_costs_nothing_extra(world):
    w = world()
    w.submit(6)
    w.fault("batch", NOT_FOUND, times=2)
    assert w.done().n_succeeded == 6
    assert w.n_calls("POST", "/v1/files") == 1
    w.assert_paid_once(6)


@pytest.mark.parametrize("status", [400, 404])
def test_a_create_that_is_refused_for_a_missing_file_is_retried_as_well(world, status):
    w = world()
    w.submit(6)
    error = {"message": "Cannot find file file-1, or organization org-1 does not have access to it."}
    w.fault("POST /v1/batches", {"status": {"code": status, "error": error}}, times=2)
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
    w.assert_paid_once(6)


def test_bad_lines_fail_the_job_name_the_rows_group_the_errors_and_cost_nothing(world):
    w = world()
    w.submit(6)
    errors = [{"code": "invalid_url", "message": "Wrong URL.", "line": n} for n in (2, 3, 5)]
    errors.append({"code": "missing_required_parameter", "message": "Missing 'messages'.", "line": 4})
    w.fault("batch", {"fail": {"errors": errors}})
    summary = w.done()
    assert summary.by_status == {"failed": 6}
    assert [(e.code, e.n, e.custom_id) for e in summary.rejections] == [
        ("invalid_url", 3, "t-1"),
        ("missing_required_parameter", 1, "t-3"),
    ]
    assert len(w.batches) == 1, "not retried"
    assert w.billed() == {}
    assert "3 x invalid_url" in w.check_thresholds()
    w.assert_accounted(6)


def test_fifty_thousand_errors_stay_a_short_message(world):
    w = world()
    w.submit(3)
    errors = [{"code": "invalid_json_line", "message": f"Line {n} is bad.", "line": n} for n in range(5000)]
    w.fault("batch", {"fail": {"errors": errors}})
    w.done()
    assert len(w.check_thresholds()) < 2000
    assert len(w.store.read(f"state/{w.store.load()[0]:06d}.json")) < 50_000


def test_an_upload_that_is_refused_rejects_the_shard_and_costs_nothing(world):
    w = world()
    w.submit(3)
    w.fault("POST /v1/files", {"status": {"code": 400, "error": {"message": "Invalid file format."}}})
    assert w.done().by_status == {"failed": 3}
    assert "Invalid file format." in w.check_thresholds()
    assert w.batches == []


def test_a_create_that_is_refused_rejects_the_shard_and_costs_nothing(world):
    w = world()
    w.submit(3)
    w.fault(
        "POST /v1/batches", {"status": {"code": 400, "error": {"code": "invalid_value", "message": "Bad endpoint."}}}
    )
    assert w.done().by_status == {"failed": 3}
    assert "Bad endpoint." in w.check_thresholds()
    assert w.n_calls("POST", "/v1/batches") == 1
    assert w.batches == []


def test_a_failed_batch_without_any_reason_is_told_as_such(world):
    w = world()
    w.submit(3)
    w.fault("batch", {"fail": {"code": "", "message": ""}})
    assert w.done().by_status == {"failed": 3}
    assert w.check_thresholds().startswith("OpenAI refused a whole batch")


def test_lines_given_up_are_reported_verbatim_and_not_retried(world):
    w = world()
    w.submit(6)
    w.fault(
        "row",
        {"http_error": {"status": 400, "code": "invalid_value", "message": "Bad."}},
        match={"custom_id": "t-[14]$"},
    )
    w.done()
    assert len(w.batches) == 1
    raw = w.emu.files[w.batches[0].result.error_file_id].read().splitlines()
    assert sorted(w.dead_letter(w.write())) == sorted(raw)


def test_a_store_that_is_not_shared_says_so_and_costs_nothing(world, tmp_path):
    w = world()
    w.submit(3)
    elsewhere = w.engine(store=JobStore(type(w.root)(tmp_path / "another-machine"), w.key))
    with pytest.raises(StoreError, match=r"not shared between workers.*\[openai_batch\] storage"):
        w.advance(elsewhere)
    assert w.emu.ledger.calls == []


def test_a_store_that_breaks_in_the_middle_stops_before_anything_is_paid_and_goes_on_later(world):
    w = world()

    class Broken(JobStore):
        def commit(self, number, job, now):
            if number == 2:
                raise StoreError("Cannot write to the job store: disk full.")
            return super().commit(number, job, now)

    w.submit(3)
    with pytest.raises(StoreError):
        w.advance(w.engine(store=Broken(w.root, w.key)))
    assert w.batches == [], "the intent could not be saved, so nothing was sent"
    assert w.done().n_succeeded == 3
    w.assert_paid_once(3)


def test_a_store_that_breaks_right_after_the_create_loses_no_batch(world):
    w = world()

    class Broken(JobStore):
        def commit(self, number, job, now):
            if number == 3:
                raise StoreError("Cannot write to the job store: disk full.")
            return super().commit(number, job, now)

    w.submit(3)
    with pytest.raises(StoreError):
        w.advance(w.engine(store=Broken(w.root, w.key)))
    assert len(w.batches) == 1
    assert w.job.shards[0].state is State.CREATING
    assert w.done().n_succeeded == 3
    assert len(w.batches) == 1
    w.assert_paid_once(3)


def test_a_commit_that_landed_but_was_reported_refused_is_not_committed_twice(world):
    """The storage client repeats a request whose answer was lost, and is refused by its own file."""
    w = world()
    store = JobStore(w.root, w.key)
    real = store.create

    def create(name, data):
        return real(name, data) and real(name, data)

    store.create = create
    store.check = lambda: None
    engine = w.engine(store=store)
    w.submit(3, engine=engine)
    assert w.done(engine).n_succeeded == 3
    w.assert_paid_once(3)


def test_waiting_names_the_batches_and_a_time(world):
    w = world()
    w.submit(6, per_shard=3)
    found = w.advance()
    assert isinstance(found, Wait)
    assert found.batch_ids == tuple(b.id for b in w.batches)
    assert found.wake_at > w.clock.now()


def test_a_quiet_job_commits_nothing(world):
    w = world()
    w.submit(6)
    w.advance()
    number = w.store.load()[0]
    for _ in range(5):
        assert isinstance(w.advance(), Wait)
    assert w.store.load()[0] == number
    w.done()
    number = w.store.load()[0]
    assert isinstance(w.advance(), Done)
    assert w.store.load()[0] == number


def test_jobs_of_mapped_tasks_do_not_touch_each_other(world):
    w = world()
    keys = [JobKey(dag_id="labels", run_id="r", task_id="ask", map_index=i) for i in range(3)]
    for key in keys:
        w.key = key
        w.submit(2)
        w.fault("POST /v1/batches", "drop_response", times=1)
        assert not isinstance(w.advance(), Held)
    for key in keys:
        w.key = key
        assert w.done().n_succeeded == 2
    assert len(w.batches) == 3
    assert len({b.metadata["airflow_openai_batch"] for b in w.batches}) == 3
