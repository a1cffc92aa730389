"""Outcomes of rows that are never sent: written with the plan, so that every row has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from airflow_openai_batch.engine.answers.outcome_files import ROW_GROUP_ROWS, ClassifiedRow, PartWriter
from airflow_openai_batch.engine.model import Job, Outcome, OutcomePart, Shard, State, Status
from airflow_openai_batch.engine.money.prices import Prices
from airflow_openai_batch.engine.store.index import read_index_table

if TYPE_CHECKING:
    from airflow_openai_batch.engine.store.job_store import JobStore


def with_skipped(store: JobStore, job: Job) -> Job:
    """Return a new plan in which the rows that are not sent have their outcome, `skipped`.

    Raises:
        StoreError: The store cannot be written.
    """
    shards = (_settled(store, job, s) if s.state is State.SETTLED and s.outcomes is None else s for s in job.shards)
    return msgspec.structs.replace(job, shards=tuple(shards))


def _settled(store: JobStore, job: Job, shard: Shard) -> Shard:
    import numpy as np

    nothing = np.empty(0, dtype=np.int64)
    name = store.new_name("outcomes", shard.id)
    with store.writing(name) as file, PartWriter(file.name, job, shard, Prices()) as writer:
        for requests in read_index_table(store, shard.index).to_batches(max_chunksize=ROW_GROUP_ROWS):
            ids = requests.column("custom_id").to_pylist()
            outcomes = {i: ClassifiedRow(_skipped(custom_id), None) for i, custom_id in enumerate(ids)}
            if outcomes:
                writer.write(requests, [], nothing, nothing, outcomes)
    tally = writer.tally.by_status
    return msgspec.structs.replace(shard, outcomes=OutcomePart(name=name, tally=dict(tally)))


def _skipped(custom_id: str) -> Outcome:
    return Outcome(
        custom_id=custom_id,
        status=Status.SKIPPED,
        error_code="null_prompt",
        error_message="Not sent: the prompt has nothing of this row, whose columns are null or blank.",
    )
