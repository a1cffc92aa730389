"""Jobs that an earlier version of this package stored, taken up and finished by this one.

``data/format_1`` holds the stores of six jobs as state format 1 had them, with a fake OpenAI's ids.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from builders import DATA, KEY, World, answer, cut, rows
from upath import UPath

from airflow_openai_batch.engine.job.commands import resume
from airflow_openai_batch.engine.job.submit import Request
from airflow_openai_batch.engine.model import Batch, Job, Policy, State, Status
from airflow_openai_batch.engine.results.sinks import ListSink
from airflow_openai_batch.engine.results.writer import write_results
from airflow_openai_batch.engine.store.job_store import JobStore

STORED = DATA / "format_1"
SCHEMA = {
    "type": "object",
    "properties": {"label": {"type": "string"}},
    "required": ["label"],
    "additionalProperties": False,
}
N_ROWS = {"running": 6, "half_harvested": 8, "creating": 2, "started_over": 4, "cancel_wish": 2, "done": 4}


def good(custom_id: str) -> bytes:
    return answer(custom_id, '{"label":"ok"}')


def world_of(name: str, tmp_path: Path) -> World:
    """Return the stored job, and an OpenAI that has the batches it knows of."""
    with zipfile.ZipFile(STORED / f"{name}.zip") as stored:
        stored.extractall(tmp_path)
    world = World(JobStore(UPath(tmp_path), KEY))
    job = world.job
    world.clock.now = job.committed_at + 60
    for shard in job.all_shards:
        file_id = shard.upload.file_id
        if file_id is None:
            continue
        world.api.files[file_id] = world.store.read(shard.requests)
        if shard.batch is not None:
            world.api.made[shard.batch.id] = msgspec.structs.replace(shard.batch, input_file_id=file_id)
            if shard.batch.output_file_id is not None:
                ids = [request["custom_id"] for request in world.api.requests(shard.batch.id)]
                world.api.files[shard.batch.output_file_id] = b"".join(good(i) + b"\n" for i in ids)
        elif shard.intent is not None:  # the answer of the create was lost
            lost = Batch(id="lost", status="validating", created_at=shard.intent.at, input_file_id=file_id)
            world.api.made["lost"] = msgspec.structs.replace(lost, nonce=shard.intent.nonce)
    return world


def finish(world: World) -> Job:
    for _ in range(12):
        world.advance()
        for batch_id in world.api.running:
            world.api.finish(batch_id, good)
        for batch_id, batch in world.api.made.items():
            if batch.status == "cancelling":
                world.api.finish(batch_id, None, status="cancelled")
        world.later(600)
    world.done()
    return world.job


@pytest.mark.parametrize("name", N_ROWS)
def test_a_job_of_format_1_is_taken_up_and_finished_each_row_once(name: str, tmp_path: Path) -> None:
    world = world_of(name, tmp_path)
    n_rows = N_ROWS[name]
    before = {batch_id for batch_id, batch in world.api.made.items() if batch.status != "cancelled"}
    changed = [
        dict(r, text=r["text"] + ("!" if name == "started_over" and r["id"] == "t3" else "")) for r in rows(n_rows)
    ]
    if name == "cancel_wish":
        assert resume(world.store, world.clock)
    world.submit(changed, limits=cut(2), response_model=SCHEMA)
    job = finish(world)
    sink = ListSink()
    write_results(world.store, job, sink)
    table = sink.rows
    assert [row["custom_id"] for row in table] == [f"t{i}" for i in range(n_rows)]
    assert {row["status"] for row in table} == {"succeeded"}
    new = [batch_id for batch_id in world.api.made if batch_id not in before]
    asked = Counter(request["custom_id"] for batch_id in new for request in world.api.requests(batch_id))
    # Only the started-over job has rows that no batch of its own was made for yet.
    assert set(asked) <= ({"t2", "t3"} if name == "started_over" else set()), asked
    assert all(n == 1 for n in asked.values())
    assert job.format_version == 2


def test_a_command_that_was_left_in_format_1_is_obeyed(tmp_path: Path) -> None:
    world = world_of("cancel_wish", tmp_path)
    job = finish(world)
    assert world.api.calls["cancel"] == 1 and world.api.calls["create"] == 0
    assert +Counter(job.shards[0].tally) == {Status.CANCELLED: 2}


def test_the_first_change_stores_the_job_in_the_new_format(tmp_path: Path) -> None:
    world = world_of("half_harvested", tmp_path)
    world.advance()
    data = msgspec.json.decode(world.store.read(f"state/{world.number:06d}.json"))
    assert data["format_version"] == 2
    settled = next(shard for shard in data["shards"] if shard["state"] == State.SETTLED and shard["id"] == "0-00000")
    assert settled["outcomes"]["tally"] == {"succeeded": 1, "failed": 1} and "tally" not in settled
    assert settled["upload"]["file_id"] and "file_id" not in settled


def test_a_changed_policy_is_all_that_taking_up_changes(tmp_path: Path) -> None:
    world = world_of("done", tmp_path)
    before = world.job
    request = Request(
        rows(4),
        endpoint="/v1/responses",
        body={"model": "gpt-6-luna", "input": "{text}"},
        custom_id="{id}",
        response_model=SCHEMA,
    )
    # It keeps the names that its columns had. Earlier versions sent rows without a prompt; here are none.
    assert msgspec.structs.replace(request.spec, column_prefix=None, on_null="send") == before.spec
    world.submit(4, limits=cut(2), response_model=SCHEMA, policy=Policy(max_bad_ratio=0.5))
    after = world.job
    assert after.policy.max_bad_ratio == 0.5 and after.shards == before.shards
