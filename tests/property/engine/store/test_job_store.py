from __future__ import annotations

import msgspec
import pytest
from builders import KEY
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from airflow_openai_batch.engine.errors import UnknownFormat
from airflow_openai_batch.engine.model import (
    FORMAT_VERSION,
    Backoff,
    Batch,
    CarriedAnswers,
    Intent,
    Job,
    JobKey,
    LineError,
    OutcomePart,
    Policy,
    Shard,
    Spec,
    State,
    Status,
    Upload,
    Usage,
)
from airflow_openai_batch.engine.store.job_store import JobStore, decode_job

text = st.text(max_size=12)
maybe = st.none() | text
number = st.integers(0, 2**53)
seconds = st.floats(0, 1e12, allow_nan=False)
maybe_seconds = st.none() | seconds
tallies = st.dictionaries(st.sampled_from(Status), number, max_size=3)
errors = st.builds(LineError, code=text, message=text, n=number, line=st.none() | number, param=maybe, custom_id=maybe)
batches = st.builds(
    Batch,
    id=text,
    status=text,
    created_at=maybe_seconds,
    expires_at=maybe_seconds,
    ended_at=maybe_seconds,
    input_file_id=maybe,
    output_file_id=maybe,
    error_file_id=maybe,
    n_total=number,
    n_completed=number,
    n_failed=number,
    nonce=maybe,
    errors=st.lists(errors, max_size=2).map(tuple),
)
usages = st.builds(Usage, input_tokens=number, cached_tokens=number, output_tokens=number, reasoning_tokens=number)
intents = st.builds(Intent, nonce=text, at=seconds, n_looks=number)
shards = st.builds(
    Shard,
    id=text,
    state=st.sampled_from(State),
    round=number,
    parent=maybe,
    child=maybe,
    n_rows=number,
    row_parts=st.lists(text, max_size=2).map(tuple),
    upload=st.builds(Upload, file_id=maybe, n_uploads=number, n_refused=number, n_misses=number),
    intent=st.none() | intents,
    doubt=st.none() | intents,
    backoff=st.builds(Backoff, not_before=seconds, n_waits=number),
    batch=st.none() | batches,
    cancel_asked_at=maybe_seconds,
    past_batches=st.lists(text, max_size=2).map(tuple),
    carried=st.none() | st.builds(CarriedAnswers, name=text, n_rows=number, row_index=text),
    outcomes=st.none()
    | st.builds(OutcomePart, name=text, unmatched=maybe, tally=tallies, retryable=tallies, usage=usages),
    rejections=st.lists(errors, max_size=2).map(tuple),
    problem=maybe,
)
json_values = st.none() | st.booleans() | number | text | st.lists(text, max_size=2)
specs = st.builds(
    Spec,
    endpoint=text,
    body=text,
    custom_id=maybe,
    schema=st.none() | st.dictionaries(text, json_values),
    schema_name=maybe,
)
policies = st.builds(
    Policy,
    max_rounds=number,
    retry_on=st.frozensets(st.sampled_from(Status)),
    max_bad_ratio=st.floats(0, 1),
    max_bad_rows=st.none() | number,
    deadline_s=seconds,
    max_enqueued_tokens=st.none() | number,
    cancel_on_kill=st.booleans(),
    metadata=st.dictionaries(text, text, max_size=2),
)
jobs = st.builds(
    Job,
    format_version=st.just(FORMAT_VERSION),
    key=st.builds(JobKey, dag_id=text, run_id=text, task_id=text, map_index=st.integers(-1, 99)),
    spec=specs,
    policy=policies,
    source_version=maybe,
    created_at=seconds,
    deadline_from=seconds,
    shards=st.lists(shards, max_size=3).map(tuple),
    epoch=number,
    n_rows=number,
    embeds_many=st.booleans(),
    earlier=st.lists(shards, max_size=2).map(tuple),
    acknowledged=st.lists(text, max_size=2).map(tuple),
    owner=text,
    writer=text,
    committed_at=seconds,
)


@settings(max_examples=60)
@given(jobs)
def test_a_snapshot_is_read_as_it_was_written(job: Job) -> None:
    assert decode_job(msgspec.json.encode(job)) == job
    assert decode_job(msgspec.json.format(msgspec.json.encode(job), indent=1)) == job


@settings(max_examples=30)
@given(jobs, st.integers(0, 9))
def test_a_commit_is_what_is_loaded(job: Job, number: int) -> None:
    store = JobStore(UPath("memory://snapshots"), KEY)
    job = msgspec.structs.replace(job, key=KEY)
    try:
        assert store.commit(number, job, 5.0) == store.load()
    finally:
        store._fs.rm(str(store._path.path), recursive=True)


@settings(max_examples=20)
@given(jobs, st.integers(-5, 99).filter(lambda n: not 1 <= n <= FORMAT_VERSION))
def test_a_format_version_that_was_never_written_is_refused(job: Job, version: int) -> None:
    with pytest.raises(UnknownFormat):
        decode_job(msgspec.json.encode(msgspec.structs.replace(job, format_version=version)))
