"""Promise 2: no paid answer is lost."""

from __future__ import annotations

import json

import pytest

from airflow_openai_batch.engine.answers.outcome_files import read_part
from airflow_openai_batch.engine.job.status import Wait
from airflow_openai_batch.engine.model import Policy, State

CONTENT = "GET /v1/files/*/content"


def test_what_an_expired_batch_finished_is_kept_and_only_the_rest_asked_again(world):
    w = world()
    w.submit(10)
    w.fault("batch", {"expire_at": {"fraction": 0.6, "lag": 1800}}, times=1)
    assert w.done(step_s=3600).n_succeeded == 10
    assert [b.status for b in w.batches] == ["expired", "completed"]
    assert len(w.asked(w.batches[1])) == 4
    w.assert_paid_once(10)
    w.assert_accounted(10)


def test_an_expired_batch_that_drops_its_unfinished_lines_is_kept_as_well(world):
    w = world()
    w.submit(10, policy=Policy(max_rounds=0))
    w.fault("batch", {"expire_at": {"fraction": 0.6}}, times=1)
    w.fault("batch", "drop_unfinished", times=1)
    summary = w.done(step_s=3600)
    assert summary.by_status == {"expired": 4, "succeeded": 6}
    assert len(w.billed()) == 6
    w.assert_accounted(10)


def test_a_batch_cancelled_half_way_by_a_person_elsewhere_is_kept_and_finished(world):
    """Somebody presses cancel in OpenAI's dashboard."""
    w = world()
    w.submit(10)
    w.advance()
    w.clock.advance(1800)
    w.client().batches.cancel(w.batches[0].id)
    assert w.done().n_succeeded == 10
    assert [b.status for b in w.batches] == ["cancelled", "completed"]
    assert 0 < len(w.asked(w.batches[1])) < 10
    w.assert_paid_once(10)


def test_cancelling_is_waited_out_and_its_answers_fetched(world):
    w = world(finalizing=600)
    w.submit(10)
    w.advance()
    w.clock.advance(1800)
    w.store.command("cancel")
    assert isinstance(w.advance(), Wait)
    assert w.batches[0].status == "cancelling"
    assert w.job.shards[0].state is State.RUNNING
    summary = w.done()
    assert w.batches[0].status == "cancelled"
    assert summary.n_succeeded == len(w.billed()) > 0
    assert summary.n_succeeded + summary.by_status["cancelled"] == 10
    w.assert_accounted(10)


def test_a_cancel_that_loses_the_race_against_completion_keeps_every_answer(world):
    w = world()
    w.submit(10)
    w.advance()
    w.store.command("cancel")
    w.clock.advance(3600)
    assert w.done().n_succeeded == 10
    w.assert_paid_once(10)


def test_a_completed_batch_without_output_file_is_read_from_its_error_file(world):
    w = world()
    w.submit(4)
    w.fault("row", {"http_error": {"status": 400, "code": "invalid_value", "message": "no good"}})
    summary = w.done()
    assert summary.by_status == {"failed": 4}
    assert {row["error_message"] for row in w.table()} == {"no good"}
    assert len(w.batches) == 1


def test_a_completed_batch_that_never_gets_its_output_file_is_for_a_person(world):
    w = world()
    w.submit(4)
    w.fault("batch", "no_output_file", times=1)
    reason = w.held()
    assert "4 of 4 rows have no line, but OpenAI counts 4 completed" in reason and "accept-missing" in reason
    assert len(w.batches) == 1 and w.clock.now() - w.batches[0].times.completed_at >= w.timing.proof_s
    w.store.command("ask_missing", at=w.clock.now())
    assert w.done().n_succeeded == 4 and len(w.batches) == 2


def test_rows_that_a_person_accepts_as_missing_are_not_asked_again(world):
    w = world()
    w.submit(4)
    w.fault("batch", "no_output_file", times=1)
    w.held()
    w.store.command("accept_missing", at=w.clock.now())
    assert w.done().by_status == {"missing": 4} and len(w.batches) == 1


def test_a_late_output_file_id_is_waited_for(world):
    w = world()
    w.submit(4)
    w.fault("batch", {"late_output_file_id": 500}, times=1)
    assert w.done(step_s=100).n_succeeded == 4
    assert len(w.batches) == 1
    w.assert_paid_once(4)


@pytest.mark.parametrize("counts", [{"completed": 0, "failed": 0}, {"total": 0, "completed": 0, "failed": 0}])
def test_a_late_output_file_id_is_waited_for_even_if_the_counts_deny_it(world, counts):
    """Counts are never believed: the answers were paid for."""
    w = world()
    w.submit(4)
    w.fault("batch", {"late_output_file_id": 500}, times=1)
    w.fault("batch", {"counts_lie": counts}, times=1)
    assert w.done(step_s=100).n_succeeded == 4
    assert len(w.batches) == 1
    w.assert_paid_once(4)


def test_a_late_output_file_id_is_waited_for_even_if_the_error_file_is_there(world):
    w = world()
    w.submit(4, policy=Policy(max_rounds=0))
    w.fault("row", {"http_error": {"status": 400, "code": "invalid_value"}}, match={"custom_id": "t-1$"})
    w.fault("batch", {"late_output_file_id": 500}, times=1)
    assert w.done(step_s=100).by_status == {"failed": 1, "succeeded": 3}


@pytest.mark.parametrize("quirk", ["empty_string_ids", "zero_byte_error_file"])
def test_empty_ids_and_empty_files_lose_nothing(world, quirk):
    w = world()
    w.submit(4)
    w.fault("batch", quirk)
    assert w.done().n_succeeded == 4
    w.assert_paid_once(4)


def test_missing_lines_are_asked_again_and_nothing_else_is(world):
    w = world()
    w.submit(6)
    w.fault("row", "missing", match={"custom_id": "t-[24]$"}, times=2)
    assert w.done().n_succeeded == 6
    assert w.asked(w.batches[1]) == ["t-2", "t-4"]
    w.assert_accounted(6)


@pytest.mark.parametrize("fault", ["duplicate", "both_files", "fragmented", "u2028"])
def test_odd_lines_lose_no_answer(world, fault):
    w = world()
    w.submit(6)
    w.fault("row", fault, match={"custom_id": "t-[135]$"})
    assert w.done().n_succeeded == 6
    assert len(w.batches) == 1
    assert all(row["output"].startswith(f"Echo: Label: ticket {i}") for i, row in enumerate(w.table()))
    w.assert_paid_once(6)
    w.assert_accounted(6)


def test_line_separators_inside_an_answer_survive(world):
    w = world()
    w.submit(3)
    w.fault("row", "u2028")
    w.done()
    assert [row["output"] for row in w.table()] == [
        f"Echo: Label: ticket {i} one\u2028two\u2029three\u0085four" for i in range(3)
    ]


def test_one_malformed_line_costs_only_its_own_row(world):
    w = world()
    w.submit(6, policy=Policy(max_rounds=0))
    w.fault("row", "malformed", match={"custom_id": "t-3$"})
    assert w.done().by_status == {"missing": 1, "succeeded": 5}
    w.assert_accounted(6)


def test_a_malformed_line_is_kept_verbatim_and_its_row_not_paid_again(world):
    w = world()
    w.submit(6)
    w.fault("row", {"malformed": "{broken \u2028 line"}, match={"custom_id": "t-3$"}, times=1)
    assert w.done().by_status == {"missing": 1, "succeeded": 5} and len(w.batches) == 1
    assert w.dead_letter(w.write()) == ["{broken \u2028 line".encode()]


@pytest.mark.parametrize("fault", [{"cut_body": 0.5}, "drop_response", "reset", {"status": 502}], ids=str)
def test_a_download_that_breaks_twice_is_begun_again(world, fault):
    w = world()
    w.submit(200)
    w.fault(CONTENT, fault, times=2)
    assert w.done().n_succeeded == 200
    w.assert_paid_once(200)
    w.assert_accounted(200)


def test_a_content_route_that_fails_for_hours_delays_the_answers_and_loses_none(world):
    w = world()
    w.submit(20)
    w.fault(CONTENT, {"status": 500}, times=30)
    assert w.done().n_succeeded == 20
    assert w.hours > 2
    assert len(w.batches) == 1
    w.assert_paid_once(20)


def test_a_file_that_cannot_be_read_for_hours_keeps_no_other_batch_waiting(world):
    w = world()
    w.submit(30, per_shard=10)
    w.advance()
    stuck = w.batches[1].id
    w.fault(CONTENT, {"status": 500}, match={"file": f"{stuck}_output"}, times=30)
    while sum(shard.state is State.SETTLED for shard in w.job.shards) < 2:
        w.clock.advance(900)
        w.advance()
    assert w.hours < 2
    assert [shard.state is State.SETTLED for shard in w.job.shards] == [True, False, True]
    assert w.done().n_succeeded == 30
    assert w.hours > 2
    read = [call.path for call in w.emu.ledger.calls if call.path.endswith("/content")]
    for shard in w.job.shards:
        of_batch = [path for path in read if shard.batch.output_file_id in path]
        assert len(of_batch) == (31 if shard.batch.id == stuck else 1), read
    assert len(w.batches) == 3
    w.assert_paid_once(30)
    w.assert_accounted(30)


def test_a_content_answer_that_is_cut_without_an_error_is_noticed_by_its_size(world):
    """A proxy that ends the body early under a length that fits."""
    w = world()
    w.submit(50)
    w.fault(CONTENT, "malformed_json", times=2)
    assert w.done().n_succeeded == 50
    w.assert_paid_once(50)


def test_missing_result_files_hold_the_job_and_are_not_asked_again(world):
    w = world()
    w.submit(4)
    w.fault(CONTENT, {"status": 404})
    reason = w.held(step_s=60)
    assert "gone at OpenAI" in reason
    w.emu.faults.clear()
    assert w.done().n_succeeded == 4
    w.assert_paid_once(4)


def test_outcomes_are_in_the_store_and_nothing_is_deleted_at_openai(world):
    w = world()
    w.submit(4)
    w.done()
    found = [row for part in read_part(w.store, w.job.shards[0].outcomes.name) for row in part.to_pylist()]
    assert [row["status"] for row in found] == ["succeeded"] * 4
    assert w.n_calls("DELETE", "/v1/files") == 0


def test_results_can_be_written_again_from_the_store_alone(world):
    w = world()
    w.submit(4)
    w.done()
    first = w.table()
    for file_id in list(w.emu.files):
        w.client().files.delete(file_id)
    assert w.table() == first


def test_a_batch_that_ended_long_ago_is_still_fetched(world):
    """The worker was away for three weeks; files live thirty days."""
    w = world()
    w.submit(4)
    w.advance()
    w.clock.advance(21 * 86_400)
    assert w.done().n_succeeded == 4
    w.assert_paid_once(4)


def test_answers_of_a_batch_that_counts_as_failed_but_has_files_are_read(world):
    """A compatible server calls a batch failed when some of its requests failed."""
    w = world(answer=lambda endpoint, body: "fine")
    w.submit(3)
    w.fault("row", {"http_error": {"status": 400, "code": "invalid_value"}}, match={"custom_id": "t-0$"})
    w.advance()
    w.emu.complete_all()
    batch = w.batches[0]

    class Renamed(type(w.engine().api)):
        def retrieve(self, batch_id):
            import msgspec

            return msgspec.structs.replace(super().retrieve(batch_id), status="failed")

    summary = w.done(w.engine(api=Renamed(w.client())))
    assert summary.by_status == {"failed": 1, "succeeded": 2}
    assert json.loads(w.emu.files[batch.result.output_file_id].read().splitlines()[0])
