"""How long OpenAI keeps a job's files, and deleting them: no answer is lost by it, and nothing is paid for twice."""

from __future__ import annotations

import shutil

import msgspec
import pytest

from airflow_openai_batch.engine.job.remote_files import delete_files, remote_files
from airflow_openai_batch.engine.job.status import Done, Held
from airflow_openai_batch.engine.model import Policy, State, Timing

HOUR_S, DAY_S = 3600.0, 86_400.0
OTHER = {"model": "gpt-6-luna", "input": "Classify: {text}"}
BAD_ROW = {"http_error": {"status": 400, "code": "invalid_value", "message": "Bad row."}}
LEAST = Policy(files_expire_after_s=int(72 * HOUR_S + Timing().expiry_margin_s))
"""The shortest life of files that the default deadline allows."""
DELETING = Policy(delete_files=True)
FILE = "DELETE /v1/files/*"


def _files(w):
    """The ids of the files at OpenAI."""
    return {file.id for file in w.client().files.list()}


def _results(w, engine=None):
    """Do what the task does that writes the results."""
    table = w.table()
    return table, delete_files(engine or w.engine())


def _answered(w, n):
    """Every row has its one answer, which was billed once, and nothing of the job is left at OpenAI."""
    w.assert_paid_once(n)
    w.assert_accounted(n)
    assert _files(w) == set()
    assert list(remote_files(w.job)) == []


# -- files that expire -------------------------------------------------------------------------------------------------


def test_files_live_as_long_as_the_job_says(world):
    w = world()
    w.submit(2, policy=LEAST)
    w.fault("row", BAD_ROW, match={"custom_id": "t-1$"})
    w.done()
    files = {file.purpose: file for file in w.client().files.list()}
    assert len(list(w.client().files.list())) == 3
    assert {file.expires_at - file.created_at for file in files.values()} == {74 * HOUR_S}


def _expire(w):
    w.clock.advance(LEAST.files_expire_after_s + 2 * HOUR_S)


@pytest.mark.parametrize("ends", ["completed", "expired", "cancelled"])
def test_answers_that_expired_before_they_were_fetched_are_asked_again_only_when_a_person_says_so(world, ends):
    w = world()
    w.submit(4, policy=LEAST)
    if ends == "expired":
        w.fault("batch", {"expire_at": {"fraction": 0.5}}, times=1)
    w.advance()
    batch = w.batches[0]
    if ends == "cancelled":
        w.clock.advance(2000)
        w.client().batches.cancel(batch.id)
    w.clock.advance(30 * HOUR_S)
    w.client().batches.retrieve(batch.id)  # so that its rows are answered
    billed = w.billed()
    assert billed
    _expire(w)
    for _ in range(3):  # whoever clears the task, and however much time goes by
        w.held()
        w.clock.advance(4 * DAY_S)
        w.submit(4, policy=LEAST)
    reason = w.held()
    assert batch.id in reason and "files_expire_after=74h" in reason and "accept-missing" in reason
    assert (len(w.batches), w.billed()) == (1, billed)
    w.store.command("ask_missing", at=w.clock.now())
    w.submit(4, policy=LEAST)
    assert w.done().n_succeeded == 4
    w.assert_accounted(4)


def test_a_person_can_give_up_the_rows_of_a_file_that_expired_and_keeps_all_others(world):
    w = world()
    w.submit(6, per_shard=3, policy=LEAST)
    w.advance()
    gone = w.batches[0]
    w.clock.advance(HOUR_S)
    lost = w.client().batches.retrieve(gone.id).output_file_id
    w.client().files.delete(lost)
    assert gone.id in w.held()
    w.store.command("accept_missing", at=w.clock.now())
    assert w.done().by_status == {"missing": 3, "succeeded": 3}
    assert {row["error_code"] for row in w.table()} == {"file_gone", None}
    assert len(w.batches) == 2
    w.assert_accounted(6)


def test_a_person_can_ask_again_only_the_rows_of_a_file_that_expired(world):
    w = world()
    w.submit(6, per_shard=3, policy=LEAST)
    w.advance()
    gone = w.batches[0]
    w.clock.advance(HOUR_S)
    w.client().files.delete(w.client().batches.retrieve(gone.id).output_file_id)
    w.held()
    w.store.command("ask_missing", at=w.clock.now())
    assert w.done().n_succeeded == 6
    assert sorted(w.asked(w.batches[2])) == sorted(w.asked(gone))
    assert len(w.batches) == 3


def test_a_decision_counts_only_once_it_is_certain_that_the_file_is_gone(world):
    """A file that is back at the next look has its answers: nothing is given up for a blip after the command."""
    w = world()
    w.submit(4)
    w.advance()
    w.clock.advance(2 * HOUR_S)
    w.fault("GET /v1/files/*/content", {"status": 404})
    w.advance()  # not there, and not believed yet
    w.store.command("ask_missing", at=w.clock.now())
    w.clock.advance(60)
    w.advance()
    w.emu.faults.clear()
    assert w.done().n_succeeded == 4
    assert len(w.batches) == 1
    w.assert_paid_once(4)


_ENVELOPE = {"error": {"message": "The file is gone.", "code": "gone", "type": "invalid_request_error", "param": None}}
GONE = {
    "content_404": [("GET /v1/files/*/content", {"status": {"code": 404, **_ENVELOPE}})],
    "content_404_without_envelope": [("GET /v1/files/*/content", {"status": {"code": 404, "html": True}})],
    "content_410": [("GET /v1/files/*/content", {"status": {"code": 410, **_ENVELOPE}})],
    "file_404": [
        ("GET /v1/files/*", {"status": {"code": 404, **_ENVELOPE}}),
        ("GET /v1/files/*/content", {"status": {"code": 404, **_ENVELOPE}}),
    ],
    "batch_404": [("GET /v1/batches/*", {"status": {"code": 404, **_ENVELOPE}})],
    "ids_are_gone": [("GET /v1/batches/*", {"edit": {"set": {"output_file_id": None, "error_file_id": None}}})],
    "ids_are_empty": [("GET /v1/batches/*", {"edit": {"set": {"output_file_id": "", "error_file_id": ""}}})],
}


@pytest.mark.parametrize("ends", ["completed", "expired"])
@pytest.mark.parametrize("form", GONE)
def test_whatever_form_gone_has_nothing_is_asked_again(world, form, ends):
    w = world()
    w.submit(4)
    if ends == "expired":
        w.fault("batch", {"expire_at": {"fraction": 0.5}})
    w.advance()
    for on, fault in GONE[form]:
        w.fault(on, fault)
    for _ in range(3):
        assert isinstance(w.finish(step_s=DAY_S), Held)
        w.clock.advance(4 * DAY_S)
        w.submit(4)
    assert len(w.batches) == 1
    assert all(n == 1 for n in w.billed().values())


def test_files_that_are_gone_after_they_were_fetched_do_not_matter(world):
    w = world()
    w.submit(4, policy=LEAST)
    w.done()
    _expire(w)
    assert _files(w) == set()
    w.submit(4, policy=LEAST)
    assert w.done().n_succeeded == 4
    _, deletion = _results(w)
    assert deletion.left == {}
    _answered(w, 4)


@pytest.mark.parametrize("policy", [LEAST, Policy()], ids=["short_life", "thirty_days"])
def test_an_input_file_that_would_expire_before_its_batch_could_end_is_uploaded_again(world, policy):
    """No batch can be created until the file is nearly as old as it may get."""
    w = world()
    life_s = policy.files_expire_after_s or 30 * DAY_S
    policy = msgspec.structs.replace(policy, deadline_s=life_s - 2 * HOUR_S, delete_files=True)
    w.submit(4, policy=policy)
    w.fault("POST /v1/batches", {"status": 429})
    w.advance()
    first = w.job.shards[0].upload.file_id
    while w.clock.now() - w.began_at < life_s - 20 * HOUR_S:
        w.clock.advance(10 * HOUR_S)
        w.advance()
    w.emu.faults.clear()
    assert w.done().n_succeeded == 4
    upload = w.job.shards[0].upload
    assert first in upload.replaced and upload.file_id != first
    last = w.batches[-1]
    files = {file.id: file for file in w.client().files.list()}
    assert files[last.input_file_id].expires_at >= last.times.created_at + 24 * HOUR_S
    _results(w)
    _answered(w, 4)


def test_an_input_file_that_was_deleted_before_its_batch_was_created_is_uploaded_again(world):
    w = world()
    w.submit(4, policy=DELETING)
    w.fault("batch", {"queue_limit": {"tokens": 1}}, times=1)
    w.advance()
    w.clock.advance(1000)
    w.client().files.delete(w.job.shards[0].upload.file_id)
    assert w.done().n_succeeded == 4
    assert w.n_calls("POST", "/v1/files") == 2
    _results(w)
    _answered(w, 4)


def test_uploading_anew_again_and_again_never_counts_as_a_file_that_cannot_be_found(world):
    """Each is one of OpenAI's own doing; after them the file may still be looked for as often as ever."""
    w = world()
    w.submit(4, policy=Policy(files_expire_after_s=int(26 * HOUR_S), deadline_s=24 * HOUR_S))
    w.fault("POST /v1/batches", {"status": 429})
    for _ in range(8):
        w.advance()
        w.clock.advance(2.5 * HOUR_S)
    assert w.job.shards[0].upload.n_uploads == 1 and len(w.job.shards[0].upload.replaced) >= 5
    w.emu.faults.clear()
    w.fault("POST /v1/batches", {"status": {"code": 404, **_ENVELOPE}}, times=2)
    assert w.done().n_succeeded == 4
    w.assert_paid_once(4)


@pytest.mark.parametrize("call", ["POST /v1/files", "POST /v1/batches"])
def test_a_server_that_refuses_such_a_life_holds_the_job_before_anything_is_paid(world, call):
    w = world()
    name = "expires_after" if call.endswith("files") else "output_expires_after"
    error = {"message": f"'{name}.seconds' must be between 1209600 and 2592000.", "code": "invalid_value"}
    w.fault(call, {"status": {"code": 400, "error": error}})
    w.submit(4, policy=LEAST)
    reason = w.held()
    assert "refused files_expire_after=74h" in reason and "Azure OpenAI 14 to 30 days" in reason
    assert w.batches == []
    w.emu.faults.clear()
    w.submit(4)
    assert w.done().n_succeeded == 4
    w.assert_paid_once(4)


@pytest.mark.parametrize("lifetime_s", [1800, 30 * DAY_S])
def test_a_server_that_keeps_files_for_another_time_than_it_was_asked_for_is_told(world, caplog, lifetime_s):
    w = world()
    w.fault("POST /v1/files", {"edit": {"set": {"expires_at": int(w.clock.now() + lifetime_s)}}})
    w.submit(4, policy=LEAST)
    assert w.done().n_succeeded == 4
    assert "files_expire_after is 74h, but the server keeps file-" in caplog.text
    assert w.n_calls("POST", "/v1/files") == 1
    w.assert_paid_once(4)


@pytest.mark.parametrize("expires_at", [0, 1, None, "never", 1e300])
def test_a_server_that_says_nonsense_of_how_long_it_keeps_files_is_not_heard(world, expires_at):
    w = world()
    w.fault("POST /v1/files", {"edit": {"set": {"expires_at": expires_at}}})
    w.submit(4)
    assert w.done().n_succeeded == 4
    assert w.n_calls("POST", "/v1/files") == 1
    w.assert_paid_once(4)


# -- deleting ----------------------------------------------------------------------------------------------------------


def test_once_the_results_are_written_nothing_of_the_job_is_left_at_openai(world):
    w = world()
    w.submit(6, per_shard=3, policy=DELETING)
    w.fault("row", BAD_ROW, match={"custom_id": "t-1$"})
    w.done()
    assert len(_files(w)) == 5
    table, deletion = _results(w)
    assert (deletion.n_deleted, deletion.left) == (5, {})
    assert _files(w) == set() and all(shard.are_files_deleted for shard in w.job.shards)
    n_deletes, n_files = w.n_calls("DELETE", "/v1/files"), w.n_calls("GET", "/v1/files")

    again, deletion = _results(w)  # cleared
    assert again == table and (deletion.n_deleted, deletion.left) == (5, {})
    w.submit(6, per_shard=3, policy=DELETING)
    assert isinstance(w.advance(), Done)
    assert (w.n_calls("DELETE", "/v1/files"), w.n_calls("GET", "/v1/files")) == (n_deletes, n_files)
    assert len(w.batches) == 2
    w.assert_accounted(6)


def test_what_is_not_in_the_store_is_never_deleted(world):
    """A results task that is run too early, or beside a job that a person replays."""
    w = world()
    w.submit(6, per_shard=3, policy=DELETING)
    w.fault("batch", {"stuck": {"seconds": 5 * HOUR_S}}, match={"nth": 2})
    w.advance()
    w.clock.advance(2 * HOUR_S)
    w.advance()
    assert [shard.state for shard in w.job.shards] == [State.SETTLED, State.RUNNING]
    deletion = delete_files(w.engine())
    assert deletion.n_deleted == 2 and set(deletion.left) == _files(w)
    assert w.done().n_succeeded == 6
    _results(w)
    _answered(w, 6)


def test_outcomes_that_the_store_has_lost_keep_their_files_at_openai(world):
    w = world()
    w.submit(2, policy=DELETING)
    w.done()
    w.store.remove(w.job.shards[0].outcomes.name)
    deletion = delete_files(w.engine())
    assert deletion.n_deleted == 0 and all("the store lacks" in reason for reason in deletion.left.values())
    assert len(_files(w)) == 2


REFUSED = {
    "403": {"status": {"code": 403, "error": {"message": "Missing scopes: api.files.write"}}},
    "405": {"status": {"code": 405, "error": {"message": "Not allowed."}}},
    "429": {"status": 429},
    "500": {"status": 500},
    "lost": "drop_response",
    "not_deleted": {"edit": {"set": {"deleted": False}}},
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_cannot_be_deleted_is_told_and_turns_nothing_red_and_a_clear_deletes_it(world, how):
    w = world()
    w.submit(4, per_shard=2, policy=DELETING)
    w.done()
    files = _files(w)
    w.fault(FILE, REFUSED[how])
    table, deletion = _results(w)
    assert [row["status"] for row in table] == ["succeeded"] * 4
    assert set(deletion.left) == files and len(files) == 4 and deletion.n_deleted == 0
    assert not any(shard.are_files_deleted for shard in w.job.shards)
    assert isinstance(w.advance(), Done)
    assert w.n_calls("DELETE", "/v1/files") <= 3 * 4, "not for ever"
    w.emu.faults.clear()
    _, deletion = _results(w)
    assert (deletion.n_deleted, deletion.left) == (4, {})
    _answered(w, 4)


def test_a_blip_is_overcome_at_once(world):
    w = world()
    w.submit(2, policy=DELETING)
    w.done()
    w.blip(FILE, {"status": 500}, {"status": 429}, "reset")
    assert _results(w)[1].left == {}
    _answered(w, 2)


def test_an_api_that_is_down_is_not_asked_for_each_of_many_files(world):
    w = world()
    w.submit(60, per_shard=2, policy=DELETING)
    w.done()
    w.fault(FILE, {"status": 500})
    before = w.n_calls("DELETE", "/v1/files")
    _, deletion = _results(w)
    assert len(deletion.left) == 60
    assert w.n_calls("DELETE", "/v1/files") - before <= 3 * 6
    w.emu.faults.clear()
    _results(w)
    _answered(w, 60)


def test_a_key_of_another_project_is_not_told_from_its_404s_that_the_files_are_deleted(world):
    w = world()
    w.submit(2, policy=DELETING)
    w.done()
    gone = {"status": {"code": 404, "error": {"message": "No such object."}}}
    w.fault(FILE, gone)
    w.fault("GET /v1/batches/*", gone)
    _, deletion = _results(w)
    assert set(deletion.left) == _files(w) and deletion.n_deleted == 0
    w.emu.faults.clear()
    _results(w)
    _answered(w, 2)


def test_a_worker_killed_at_any_moment_of_the_deletion_loses_nothing(world, fate, killed):
    n_moments = 0
    for at in range(1, 40):
        w = world()
        w.submit(4, per_shard=2, policy=DELETING)
        w.done()
        dying = fate(at)
        try:
            _results(w, w.mortal(dying))
        except killed:
            n_moments += 1
        assert isinstance(w.advance(), Done)
        _, deletion = _results(w)
        assert (deletion.n_deleted, deletion.left) == (4, {})
        assert len(w.batches) == 2
        _answered(w, 4)
        if not dying.has_struck:
            break
    assert n_moments >= 5, "each delete, and the commit"


def test_another_worker_that_moves_the_job_meanwhile_loses_nothing_and_hides_nothing(world):
    w = world()
    w.submit(4, per_shard=2, policy=DELETING)
    w.done()
    engine = w.engine()
    real = engine.api.delete_file
    deletes = iter(range(9))

    def meanwhile(file_id):
        real(file_id)
        if next(deletes) == 1:
            w.store.commit(w.store.load().number + 1, w.job, w.clock.now())

    engine.api.delete_file = meanwhile
    _, deletion = _results(w, engine)
    assert deletion.left == {} and all(shard.are_files_deleted for shard in w.job.shards)
    _answered(w, 4)


def test_the_files_of_every_round_go(world):
    w = world()
    w.submit(4, policy=DELETING)
    w.fault("row", "missing", match={"custom_id": "t-3$"}, times=1)
    assert w.done().rounds == 1
    _, deletion = _results(w)
    assert (deletion.n_deleted, deletion.left) == (4, {})
    _answered(w, 4)


@pytest.mark.parametrize("how", [{"body": OTHER}, {"start_over": "monday"}], ids=["changed_prompt", "start_over"])
@pytest.mark.parametrize("when", ["running", "done"])
def test_the_files_of_earlier_epochs_go_too(world, how, when):
    w = world()
    w.submit(4, per_shard=2, policy=DELETING)
    if when == "done":
        w.done()
    else:
        w.advance()
    w.submit(4, per_shard=2, policy=DELETING, **how)
    assert w.done().n_succeeded == 4
    _, deletion = _results(w)
    assert deletion.left == {}
    assert _files(w) == set() and list(remote_files(w.job)) == []
    w.assert_accounted(4)


def test_answers_carried_over_to_a_new_epoch_do_not_need_the_files(world):
    w = world()
    rows = w.rows(4)
    w.submit(rows, per_shard=2, policy=DELETING)
    w.done()
    _results(w)
    changed = [*rows[:3], {**rows[3], "text": "another"}]
    w.submit(changed, per_shard=2, policy=DELETING)
    assert w.done().n_succeeded == 4
    assert [w.asked(batch) for batch in w.batches[2:]] == [["t-3"]]
    _results(w)
    assert _files(w) == set()


def test_another_job_uses_answers_again_whose_files_are_deleted(world):
    policy = Policy(delete_files=True, reuse="labels")
    w = world()
    w.submit(4, policy=policy)
    w.done()
    _results(w)
    w.key = type(w.key)(dag_id="labels", run_id="manual__2026-11-23", task_id="ask")
    w.submit(5, policy=policy)
    assert w.done().n_succeeded == 5
    assert len(w.batches) == 2 and w.asked(w.batches[1]) == ["t-4"]
    _, deletion = _results(w)
    assert (deletion.n_deleted, deletion.left) == (2, {})
    _answered(w, 5)


def test_the_files_of_a_pilot_go_with_the_others(world):
    w = world()
    w.submit(6, policy=Policy(delete_files=True, pilot_rows=2))
    assert w.done().n_succeeded == 6
    _, deletion = _results(w)
    assert (deletion.n_deleted, deletion.left) == (4, {})
    _answered(w, 6)


def test_rows_asked_once_more_after_the_files_were_deleted_are_sent_in_a_new_file(world):
    w = world()
    w.submit(4, policy=Policy(delete_files=True, max_rounds=0, max_bad_ratio=1))
    w.fault("row", BAD_ROW, match={"custom_id": "t-1$"}, times=1)
    w.done()
    _results(w)
    w.store.command("replay")
    assert w.done().n_succeeded == 4
    assert w.asked(w.batches[1]) == ["t-1"]
    _results(w)
    assert _files(w) == set()
    w.assert_accounted(4)


def test_a_refused_file_that_was_deleted_is_uploaded_anew_when_the_task_is_cleared(world):
    w = world()
    w.submit(2, policy=DELETING)
    w.fault("batch", {"fail": {"code": "invalid_json_line", "message": "Bad.", "line": 1}}, times=1)
    assert w.done().by_status == {"failed": 2}
    _results(w)
    assert _files(w) == set()
    w.submit(2, policy=DELETING)
    assert w.done().n_succeeded == 2
    _results(w)
    _answered(w, 2)


@pytest.mark.parametrize("loss", ["wiped", "set_back"])
def test_a_store_that_forgot_the_outcomes_does_not_ask_again_what_was_deleted(world, loss):
    """The batches are found again by their metadata, their files are not: that is for a person."""
    w = world()
    w.submit(4, policy=DELETING)
    w.advance()
    home = w.root / "labels"
    shutil.copytree(home, w.root / "backup")
    w.done()
    _results(w)
    shutil.rmtree(home)
    if loss == "set_back":
        shutil.copytree(w.root / "backup", home)
    w.submit(4, policy=DELETING)
    reason = w.held()
    assert w.batches[0].id in reason and "gone at OpenAI" in reason
    assert len(w.batches) == 1
    w.assert_paid_once(4)


def test_a_batch_of_before_that_never_ends_keeps_its_files_and_is_told(world):
    w = world()
    w.submit(2, policy=DELETING)
    w.fault("batch", {"stuck": {"state": "cancelling", "seconds": 40 * DAY_S}}, times=1)
    w.advance()
    w.clock.advance(1200)
    old = w.batches[0].input_file_id
    w.submit(2, policy=DELETING, body=OTHER)
    assert w.done().n_succeeded == 2
    _, deletion = _results(w)
    assert set(deletion.left) == {old} <= _files(w)
    assert "has not ended" in deletion.left[old]


def test_without_delete_files_nothing_is_deleted(world):
    w = world()
    w.submit(2)
    w.done()
    w.write()
    assert w.n_calls("DELETE", "/v1/files") == 0 and w.job.policy.delete_files is None
