"""The life of files: bounds and anchor as OpenAI checks them, and files that are gone by the emulator's clock."""

from __future__ import annotations

import pytest
from openai import BadRequestError, NotFoundError

from airflow_openai_batch.emulator import Limits

HOUR_S, DAY_S = 3_600, 86_400


def after(seconds, anchor="created_at"):
    return {"anchor": anchor, "seconds": seconds}


@pytest.fixture
def failing(start):
    """An emulator whose batches have an output and an error file."""
    kit = start(duration=100)
    kit.emu.faults.add({"on": "row", "do": {"http_error": {"status": 400}}, "match": {"custom_id": "row-1$"}})
    return kit


def test_result_files_expire_by_their_own_creation_and_the_batch_still_names_them(failing):
    batch = failing.ended(3, output_expires_after=after(HOUR_S))
    ids = [batch.output_file_id, batch.error_file_id]
    files = [failing.client.files.retrieve(file_id) for file_id in ids]
    assert [file.created_at for file in files] == [batch.completed_at] * 2, "not that of the batch, nor of a look"
    assert [file.expires_at for file in files] == [batch.completed_at + HOUR_S] * 2

    failing.emu.clock.advance(batch.completed_at + HOUR_S - 1 - failing.emu.clock.now())
    assert failing.output(batch) and failing.errors(batch)
    failing.emu.clock.advance(1)
    for file_id in ids:
        for call in (failing.client.files.content, failing.client.files.retrieve, failing.client.files.delete):
            with pytest.raises(NotFoundError):
                call(file_id)
    assert [file.id for file in failing.client.files.list()] == [batch.input_file_id]
    assert failing.get(batch) == batch, "the batch object does not change"


def test_result_files_are_kept_for_thirty_days_unless_told_otherwise(kit):
    batch = kit.ended()
    file = kit.client.files.retrieve(batch.output_file_id)
    assert file.expires_at == file.created_at + 30 * DAY_S


def test_result_files_can_be_gone_before_anybody_looked(kit):
    batch = kit.submit(output_expires_after=after(HOUR_S))
    kit.emu.clock.advance(2 * HOUR_S)
    ended = kit.get(batch)
    assert ended.status == "completed" and ended.output_file_id is not None
    with pytest.raises(NotFoundError):
        kit.client.files.content(ended.output_file_id)
    assert len(list(kit.emu.ledger.rows())) == 3, "they were billed"


@pytest.mark.parametrize(
    ("policy", "param"),
    [
        (after(HOUR_S - 1), "output_expires_after.seconds"),
        (after(30 * DAY_S + 1), "output_expires_after.seconds"),
        (after("3600"), "output_expires_after.seconds"),
        (after(3600.5), "output_expires_after.seconds"),
        (after(True), "output_expires_after.seconds"),
        (after(HOUR_S, "completed_at"), "output_expires_after.anchor"),
        ({"seconds": HOUR_S}, "output_expires_after.anchor"),
        ({"anchor": "created_at"}, "output_expires_after.seconds"),
        (HOUR_S, "output_expires_after"),
    ],
)
def test_a_life_of_result_files_outside_the_rules_is_refused_and_no_batch_is_made(kit, policy, param):
    with pytest.raises(BadRequestError) as refused:
        kit.submit(output_expires_after=policy)
    assert refused.value.param == param
    assert kit.emu.ledger.batches == []


@pytest.mark.parametrize("seconds", [HOUR_S, 30 * DAY_S])
def test_the_bounds_themselves_are_allowed(kit, seconds):
    file_id = kit.upload(kit.lines(1), expires_after=after(seconds))
    assert kit.create(file_id, output_expires_after=after(seconds)).status == "validating"


def test_a_server_can_demand_a_longer_life(start):
    """As Azure does: 14 to 30 days."""
    kit = start(limits=Limits(file_lifetime_s=14 * DAY_S))
    with pytest.raises(BadRequestError, match="between 1209600 and 2592000"):
        kit.upload(kit.lines(1), expires_after=after(7 * DAY_S))
    file_id = kit.upload(kit.lines(1), expires_after=after(14 * DAY_S))
    with pytest.raises(BadRequestError, match="between 1209600 and 2592000"):
        kit.create(file_id, output_expires_after=after(7 * DAY_S))


def test_a_batch_of_an_input_file_that_has_expired_fails_and_bills_nothing(kit):
    file_id = kit.upload(kit.lines(2), expires_after=after(HOUR_S))
    kit.emu.clock.advance(HOUR_S)
    batch = kit.create(file_id)
    kit.emu.clock.advance(100)
    failed = kit.get(batch)
    assert failed.status == "failed" and "Cannot find file" in failed.errors.data[0].message
    assert list(kit.emu.ledger.rows()) == []


def test_an_input_file_that_expires_after_it_was_validated_is_needed_no_more(kit):
    batch = kit.create(kit.upload(kit.lines(2), expires_after=after(HOUR_S)))
    kit.emu.clock.advance(2 * HOUR_S)  # nobody looked meanwhile
    assert len(kit.output(kit.get(batch))) == 2


def test_a_deleted_file_is_gone_at_once_and_a_second_delete_is_told_so(failing):
    batch = failing.ended()
    for file_id in (batch.input_file_id, batch.output_file_id, batch.error_file_id):
        assert failing.client.files.delete(file_id).deleted
        with pytest.raises(NotFoundError):
            failing.client.files.delete(file_id)
    assert list(failing.client.files.list()) == []
    assert failing.get(batch) == batch
