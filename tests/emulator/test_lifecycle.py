from __future__ import annotations

import asyncio
import re

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, RateLimitError

from airflow_openai_batch.emulator import Limits, SystemClock

CHAT = "/v1/chat/completions"


def test_a_batch_passes_through_its_states_as_time_goes_by(kit):
    created = kit.submit(10, metadata={"job": "a"})
    snapshots = []
    for _ in range(4):
        batch = kit.get(created)
        snapshots.append((batch.status, batch.request_counts.completed, batch.output_file_id, batch.usage))
        kit.emu.clock.advance(45)

    assert re.fullmatch(r"batch_[0-9a-f]{32}", created.id)
    assert created.status == "validating" and created.output_file_id is None and created.metadata == {"job": "a"}
    assert created.expires_at == created.created_at + 86_400
    assert [status for status, *_ in snapshots] == ["validating", "in_progress", "finalizing", "completed"]
    assert [completed for _, completed, *_ in snapshots] == [0, 4, 10, 10]
    assert [file_id is not None for *_, file_id, _ in snapshots] == [False, False, False, True]
    assert [usage is not None for *_, usage in snapshots] == [False, False, False, True]


def test_a_completed_batch_has_the_time_of_each_transition(kit):
    batch = kit.ended()
    created_at = batch.created_at

    assert (batch.in_progress_at, batch.finalizing_at, batch.completed_at) == (
        created_at + 10,
        created_at + 90,
        created_at + 100,
    )
    assert batch.failed_at is batch.expired_at is batch.cancelling_at is batch.cancelled_at is None
    assert batch.model == "gpt-6-luna"
    assert batch.error_file_id is None


def test_every_request_is_answered_once_with_the_documented_line(kit):
    batch = kit.ended(20)
    lines = kit.output(batch)

    assert set(lines) == {f"row-{i}" for i in range(20)}
    assert kit.raw(batch.output_file_id).count(b"\n") == 20
    for line in lines.values():
        assert set(line) == {"id", "custom_id", "response", "error"} and line["error"] is None
        assert re.fullmatch(r"batch_req_[0-9a-f]{32}", line["id"])
        assert line["response"]["status_code"] == 200 and line["response"]["request_id"]
    assert kit.texts(batch)["row-3"] == "Echo: text of row-3"


def test_lines_come_in_another_order_and_the_seed_decides_which(start):
    orders = []
    for seed in (1, 1, 2):
        kit = start(seed=seed)
        orders.append(list(kit.output(kit.ended(50))))
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0], key=lambda name: int(name[4:]))


def test_usage_of_the_batch_is_the_sum_of_its_lines(kit):
    batch = kit.ended(5)
    usages = [line["response"]["body"]["usage"] for line in kit.output(batch).values()]

    assert batch.usage.input_tokens == sum(u["prompt_tokens"] for u in usages) > 0
    assert batch.usage.output_tokens == sum(u["completion_tokens"] for u in usages) > 0
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens


def test_without_a_duration_a_batch_has_ended_at_the_first_look(start):
    kit = start()
    created = kit.submit()

    assert created.status == "validating"
    assert kit.get(created).status == "completed"


def test_real_time_moves_batches_along_even_if_nobody_looks(start):
    kit = start(clock=SystemClock(), duration=0.05)
    kit.submit()
    bills = kit.emu.ledger._bills  # not through the ledger, which would do the due work itself
    for _ in range(3_000):
        if bills:
            break
        asyncio.run(asyncio.sleep(0.02))

    assert len(bills) == 1


def test_the_asynchronous_client_is_served_too(kit):
    async def run() -> str:
        async with AsyncOpenAI(base_url=kit.emu.base_url, api_key="sk-test", max_retries=0) as client:
            content = (
                b'{"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"model": "m", "input": "x"}}'
            )
            file = await client.files.create(file=("a.jsonl", content), purpose="batch")
            batch = await client.batches.create(
                input_file_id=file.id, endpoint="/v1/responses", completion_window="24h"
            )
            kit.emu.clock.advance(100)
            batch = await client.batches.retrieve(batch.id)
            assert batch.output_file_id is not None
            return (await client.files.content(batch.output_file_id)).text

    assert '"custom_id": "a"' in asyncio.run(run())


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"endpoint": "/v1/audio"}, "endpoint", "invalid_value"),
        ({"completion_window": "48h"}, "completion_window", "invalid_value"),
        ({"completion_window": ""}, "completion_window", "invalid_value"),
        ({"metadata": {"tags": ["a"]}}, "metadata.tags", "invalid_type"),
        ({"metadata": {f"k{i}": "v" for i in range(17)}}, "metadata", "object_above_max_properties"),
        ({"metadata": {"k" * 65: "v"}}, f"metadata.{'k' * 65}", "string_above_max_length"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
            "output_expires_after.seconds",
            "invalid_value",
        ),
    ],
)
def test_a_badly_formed_request_for_a_batch_is_refused(kit, change, param, code):
    file_id = kit.upload(kit.lines(1))
    params = {"endpoint": CHAT, **change}
    with pytest.raises(BadRequestError) as refused:
        kit.create(file_id, **params)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert kit.emu.ledger.batches == []


def test_metadata_up_to_its_limits_is_kept(kit):
    metadata = {f"{i:02}" + "k" * 62: "v" * 512 for i in range(16)}

    assert kit.get(kit.submit(1, metadata=metadata)).metadata == metadata


def test_a_file_of_another_purpose_is_no_input(kit):
    file = kit.client.files.create(file=("a.jsonl", b"{}"), purpose="user_data")
    with pytest.raises(BadRequestError, match="user_data"):
        kit.create(file.id)


def test_a_file_that_does_not_exist_fails_the_batch_later(kit):
    created = kit.create("file-nothing")
    kit.emu.complete_all()
    batch = kit.get(created)

    assert created.status == "validating" and batch.status == "failed"
    error = batch.errors.data[0]
    assert (error.code, error.param, error.line) == ("invalid_request", "file_id", None)
    assert error.message.startswith("Cannot find file file-nothing, or organization")


def test_a_batch_that_never_was_is_not_found(kit):
    with pytest.raises(NotFoundError, match="No batch found"):
        kit.client.batches.retrieve("batch_nothing")
    with pytest.raises(NotFoundError, match="No batch found"):
        kit.client.batches.cancel("batch_nothing")


def test_the_output_lives_as_long_as_the_request_says(kit):
    batch = kit.ended(1, output_expires_after={"anchor": "created_at", "seconds": 3600})
    output = kit.client.files.retrieve(batch.output_file_id)

    assert output.expires_at == output.created_at + 3600
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")


def test_deleting_the_input_of_a_running_batch_does_not_hurt_it(kit):
    batch = kit.submit()
    kit.emu.clock.advance(50)
    kit.get(batch)
    kit.client.files.delete(batch.input_file_id)
    kit.emu.complete_all()

    assert len(kit.output(kit.get(batch))) == 3


def test_the_same_input_may_be_used_for_several_batches(kit):
    file_id = kit.upload(kit.lines(2))
    first, second = kit.create(file_id), kit.create(file_id)
    kit.emu.complete_all()

    assert first.id != second.id
    assert set(kit.output(kit.get(first))) == set(kit.output(kit.get(second)))


def test_more_batches_than_allowed_in_an_hour_are_refused_until_it_is_over(start):
    kit = start(limits=Limits(batches_per_hour=2))
    file_id = kit.upload(kit.lines(1))
    kit.create(file_id)
    kit.create(file_id)
    with pytest.raises(RateLimitError):
        kit.create(file_id)
    kit.emu.clock.advance(3600)
    kit.create(file_id)


def test_batches_are_listed_newest_first_and_the_sdk_pages_through_them(kit):
    file_id = kit.upload(kit.lines(1))
    created = [kit.create(file_id).id for _ in range(7)]
    batches = kit.client.batches

    assert [batch.id for batch in batches.list(limit=3)] == created[::-1]
    page = batches.list(limit=3)
    assert page.has_more and page.model_extra["first_id"] == created[6] and page.model_extra["last_id"] == created[4]
    assert not batches.list(after=created[1]).has_more
    assert [batch.id for batch in batches.list(after=created[1]).data] == [created[0]]


@pytest.mark.parametrize("limit", [0, 101])
def test_a_page_has_between_one_and_a_hundred_batches(kit, limit):
    with pytest.raises(BadRequestError) as refused:
        kit.client.batches.list(limit=limit)
    assert refused.value.param == "limit"


def test_twenty_batches_are_a_page_by_default(kit):
    file_id = kit.upload(kit.lines(1))
    for _ in range(21):
        kit.create(file_id)

    assert len(kit.client.batches.list().data) == 20


def test_a_large_batch_does_not_block_the_server(start):
    kit = start(patience=0.05)
    batch = kit.submit(b"\n".join([b'{"custom_id":"%d","method":"POST","url":"/v1/embeddings","body":{"model":"m","input":"x","dimensions":8}}' % i for i in range(20_000)]), "/v1/embeddings")  # fmt: skip # noqa: E501
    statuses = set()
    while (batch := kit.get(batch)).status != "completed":
        statuses.add(batch.status)

    assert statuses & {"validating", "finalizing"}
    assert kit.emu.ledger.n_rows() == 20_000
    assert kit.raw(batch.output_file_id).count(b"\n") == 20_000
