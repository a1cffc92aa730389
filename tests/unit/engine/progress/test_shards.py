from __future__ import annotations

import json

from builders import batch, job, shard

from airflow_openai_batch.engine.model import LineError, State, Status, Usage
from airflow_openai_batch.engine.progress.model import encoded
from airflow_openai_batch.engine.progress.shards import MAX_SHARDS, shards_of

S = State


def test_a_shard_is_shown_with_its_batch_and_nothing_is_left_out() -> None:
    made = batch("in_progress", "batch_2", n_total=7, input_file_id="file-1")
    running = shard(S.RUNNING, "0-00003.1", round=1, parent="0-00003", batch=made, past_batches=("batch_1",))
    value = encoded(shards_of(job(running, shard(S.PLANNED, "0-00004")), 12.5))
    assert (value["version"], value["updated_at"], value["n_shards"]) == (1, 12.5, 2)
    shown, planned = value["shards"]
    assert shown["batch"] == {
        "id": "batch_2",
        "status": "in_progress",
        "created_at": None,
        "expires_at": None,
        "in_progress_at": None,
        "finalizing_at": None,
        "ended_at": None,
        "n_total": 7,
        "n_completed": 0,
        "n_failed": 0,
        "input_file_id": "file-1",
        "output_file_id": None,
        "error_file_id": None,
    }
    assert (shown["id"], shown["state"], shown["parent"], shown["past_batches"]) == (
        "0-00003.1",
        "running",
        "0-00003",
        ["batch_1"],
    )
    assert planned["batch"] is None and planned["tally"] == {} and planned["problem"] is None
    assert planned["usage"] == dict.fromkeys(Usage.__struct_fields__, 0) and planned["cost"] == 0


def test_of_very_many_shards_trouble_and_what_runs_come_first_in_row_order() -> None:
    dull = [shard(S.SETTLED, f"0-{i:05}", tally={Status.SUCCEEDED: 2}) for i in range(1000)]
    dull[900] = shard(S.RUNNING, "0-00900", batch=batch("in_progress"))
    dull[950] = shard(S.UPLOADED, "0-00950", n_waits=3, problem="queue full")
    dull[980] = shard(S.SETTLED, "0-00980", rejections=(LineError(code="c", message="m"),))
    value = encoded(shards_of(job(*dull), 0.0))
    ids = [shown["id"] for shown in value["shards"]]
    assert value["n_shards"] == 1000 and len(ids) == MAX_SHARDS and ids == sorted(ids)
    assert {"0-00900", "0-00950", "0-00980"} <= set(ids)


def test_it_stays_within_what_an_xcom_may_be() -> None:
    many = [
        shard(S.RUNNING, f"0-{i:05}", batch=batch("in_progress", "batch_" + "x" * 40), problem="p" * 2000)
        for i in range(1000)
    ]
    assert len(json.dumps(encoded(shards_of(job(*many), 0.0)))) < 300_000
