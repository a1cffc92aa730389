from __future__ import annotations

import pytest
from openai import (
    BadRequestError,
    RateLimitError,
)


def test_a_batch_may_fail_for_a_given_reason(kit):
    kit.emu.faults.add(
        {"on": "batch", "times": 1, "do": {"fail": "token_limit_exceeded"}},
        {"on": "batch", "times": 1, "match": {"nth": 2}, "do": {"fail": "cannot_find_file"}},
    )
    kit.emu.faults.add(
        {
            "on": "batch",
            "match": {"nth": 3},
            "do": {"fail": {"errors": [{"code": "x", "message": "m", "param": "p", "line": 4}]}},
        }
    )
    queue, lost, own = kit.ended(), kit.ended(), kit.ended()

    assert queue.errors.data[0].code == "token_limit_exceeded" and "Enqueued token" in queue.errors.data[0].message
    assert (lost.errors.data[0].code, lost.errors.data[0].param) == ("invalid_request", "file_id")
    assert "Cannot find file" in lost.errors.data[0].message
    assert own.errors.data[0].model_dump() == {"code": "x", "message": "m", "param": "p", "line": 4}
    assert kit.ended().status == "completed"


def test_a_batch_may_expire_with_a_part_done(kit):
    kit.emu.faults.add({"on": "batch", "do": {"expire_at": 0.4}})
    created = kit.submit(10)
    kit.emu.clock.advance(86_399)
    running = kit.get(created)
    kit.emu.clock.advance(1)
    batch = kit.get(created)

    assert (running.status, running.request_counts.completed) == ("in_progress", 4)
    assert (batch.status, len(kit.output(batch)), len(kit.errors(batch))) == ("expired", 4, 6)
    assert kit.emu.ledger.n_rows() == 4


def test_a_batch_may_expire_soon_and_notice_late(kit):
    kit.emu.faults.add({"on": "batch", "do": {"expire_at": {"fraction": 0.5, "after": 60, "lag": 1800}}})
    created = kit.submit(4)
    kit.emu.clock.advance(1859)
    assert kit.get(created).status == "in_progress"
    kit.emu.clock.advance(1)
    batch = kit.get(created)

    assert batch.status == "expired" and batch.expires_at == batch.created_at + 60
    assert batch.expired_at == batch.expires_at + 1800


def test_the_unfinished_rows_may_be_left_out(kit):
    kit.emu.faults.add({"on": "batch", "do": {"expire_at": 0.5}}, {"on": "batch", "do": "drop_unfinished"})
    batch = kit.ended(4)

    assert len(kit.output(batch)) == 2 and batch.error_file_id is None


@pytest.mark.parametrize(
    ("state", "entered_at", "left_at"), [("validating", 0, 10), ("in_progress", 10, 90), ("finalizing", 90, 100)]
)
def test_a_batch_may_be_stuck_in_a_state(kit, state, entered_at, left_at):
    kit.emu.faults.add({"on": "batch", "do": {"stuck": {"state": state, "seconds": 3600}}})
    created = kit.submit()
    kit.emu.clock.advance(entered_at)
    assert kit.get(created).status == state
    kit.emu.clock.advance(left_at - entered_at + 3599)
    assert kit.get(created).status == state
    kit.emu.complete_all()
    batch = kit.get(created)
    assert batch.status == "completed" and batch.completed_at == batch.created_at + 3700


def test_a_batch_stuck_for_ever_expires(kit):
    kit.emu.faults.add({"on": "batch", "do": "stuck"})
    batch = kit.ended(4)

    assert batch.status == "expired" and len(kit.output(batch)) == 4


def test_a_cancel_may_be_stuck(kit):
    kit.emu.faults.add({"on": "batch", "do": {"stuck": {"state": "cancelling", "seconds": 600}}})
    created = kit.submit()
    kit.client.batches.cancel(created.id)
    kit.emu.clock.advance(600)
    assert kit.get(created).status == "cancelling"
    kit.emu.clock.advance(10)
    assert kit.get(created).status == "cancelled"


def test_the_output_id_may_come_late(kit):
    kit.emu.faults.add({"on": "batch", "do": {"late_output_file_id": 30}})
    created = kit.submit()
    kit.emu.clock.advance(100)
    early = kit.get(created)
    kit.emu.clock.advance(30)

    assert (early.status, early.output_file_id) == ("completed", None)
    assert kit.get(created).output_file_id


def test_absent_ids_may_be_empty_strings(kit):
    kit.emu.faults.add({"on": "batch", "do": "empty_string_ids"})
    created = kit.submit()
    batch = kit.ended()

    assert (created.output_file_id, created.error_file_id) == ("", "")
    assert batch.output_file_id and batch.error_file_id == ""


def test_a_clean_batch_may_have_an_error_file_of_no_bytes(kit):
    kit.emu.faults.add({"on": "batch", "do": "zero_byte_error_file"})
    batch = kit.ended()

    assert kit.raw(batch.error_file_id) == b""
    assert kit.client.files.retrieve(batch.error_file_id).bytes == 0


def test_a_completed_batch_may_have_no_output_file(kit):
    kit.emu.faults.add({"on": "batch", "do": "no_output_file"})
    batch = kit.ended()

    assert (batch.status, batch.output_file_id, batch.request_counts.completed) == ("completed", None, 3)


def test_counts_may_lie(kit):
    kit.emu.faults.add({"on": "batch", "do": {"counts_lie": {"completed": 1, "failed": 9}}})
    batch = kit.ended()

    assert (batch.request_counts.completed, batch.request_counts.failed, batch.request_counts.total) == (1, 9, 3)
    assert len(kit.output(batch)) == 3


def test_a_new_batch_may_be_listed_late(kit):
    kit.emu.faults.add({"on": "batch", "do": {"listing_lag": 5}})
    created = kit.submit()

    assert list(kit.client.batches.list()) == []
    assert kit.get(created).id == created.id
    kit.emu.clock.advance(5)
    assert [batch.id for batch in kit.client.batches.list()] == [created.id]


@pytest.mark.parametrize(("status", "error"), [(429, RateLimitError), (400, BadRequestError)])
def test_a_full_queue_may_refuse_at_once(kit, status, error):
    kit.emu.faults.add({"on": "batch", "do": {"queue_limit": {"tokens": 30, "http": status}}})
    lines = [kit.line(body=kit.body("x" * 80))]  # 20 tokens
    first = kit.submit(lines)

    with pytest.raises(error, match="Enqueued token limit reached") as refused:
        kit.submit(lines)

    assert refused.value.code == "token_limit_exceeded"
    assert len(kit.emu.ledger.batches) == 1
    kit.emu.complete_all()
    assert kit.get(first).status == "completed"
    assert kit.ended(lines).status == "completed"


def test_a_queue_limit_may_be_a_rule_for_some_batches(kit):
    kit.emu.faults.add({"on": "batch", "match": {"metadata": {"small": "yes"}}, "do": {"queue_limit": 1}})

    assert kit.ended(metadata={"small": "yes"}).errors.data[0].code == "token_limit_exceeded"
    assert kit.ended(metadata={"small": "no"}).status == "completed"


@pytest.mark.parametrize("status", ["completed", "expired", "cancelled"])
def test_both_ids_may_come_late_and_the_counts_be_zero_meanwhile(kit, status):
    late = {"seconds": 300, "error_too": True, "zero_counts": True}
    kit.emu.faults.add({"on": "row", "match": {"custom_id": "row-0"}, "do": "line_error"})
    kit.emu.faults.add({"on": "batch", "do": {"late_output_file_id": late}})
    if status == "expired":
        kit.emu.faults.add({"on": "batch", "do": {"expire_at": {"fraction": 1.0, "after": 50}}})
    created = kit.submit(4)
    kit.emu.clock.advance(89)
    if status == "cancelled":
        kit.client.batches.cancel(created.id)
    kit.emu.clock.advance(11)
    early = kit.get(created)
    kit.emu.clock.advance(300)
    batch = kit.get(created)

    assert early.status == batch.status == status
    assert (early.output_file_id, early.error_file_id, early.request_counts.total) == (None, None, 0)
    assert batch.output_file_id and batch.error_file_id and batch.request_counts.total == 4


def test_the_output_id_may_never_come(kit):
    kit.emu.faults.add({"on": "batch", "do": {"late_output_file_id": float("inf")}})
    batch = kit.ended()
    kit.emu.clock.advance(86_400 * 29)

    assert kit.get(batch).output_file_id is None and kit.get(batch).request_counts.completed == 3


def test_a_completed_batch_may_seem_to_be_finalizing_again(kit):
    kit.emu.faults.add({"on": "batch", "do": {"relapse": {"seconds": 60, "after": 30}}})
    created = kit.submit()
    kit.emu.clock.advance(100)
    seen = []
    for seconds in (0, 29, 1, 59, 1):
        kit.emu.clock.advance(seconds)
        batch = kit.get(created)
        seen.append((batch.status, batch.output_file_id is not None))

    assert seen == [("completed", True)] * 2 + [("finalizing", False)] * 2 + [("completed", True)]


def test_a_status_may_have_another_name(kit):
    kit.emu.faults.add({"on": "batch", "do": {"rename_status": {"completed": "finished"}}})
    batch = kit.ended()

    assert batch.status == "finished" and len(kit.output(batch)) == 3
    assert [b.status for b in kit.client.batches.list()] == ["finished"]


def test_a_cancel_may_be_stuck_for_ever(kit):
    kit.emu.faults.add({"on": "batch", "do": {"stuck": {"state": "cancelling"}}})
    created = kit.submit()
    kit.client.batches.cancel(created.id)
    kit.emu.complete_all()
    kit.emu.clock.advance(86_400 * 10)

    assert kit.get(created).status == "cancelling"


@pytest.mark.parametrize("status", [None, 429])
def test_a_queue_may_be_full_of_requests(kit, status):
    kit.emu.faults.add({"on": "batch", "do": {"queue_limit": {"requests": 5, "http": status}}})
    first = kit.submit(3)
    if status:
        with pytest.raises(RateLimitError, match="Limit: 5 enqueued requests"):
            kit.submit(3)
    else:
        second = kit.ended(3)
        assert "Enqueued request limit reached" in second.errors.data[0].message
    kit.emu.complete_all()

    assert kit.get(first).status == "completed"
    assert kit.ended(5).status == "completed"


def test_a_batch_may_fail_with_a_queue_full_of_requests(kit):
    kit.emu.faults.add({"on": "batch", "do": {"fail": "request_limit_exceeded"}})

    assert "Limit: 1,000,000 enqueued requests" in kit.ended().errors.data[0].message
