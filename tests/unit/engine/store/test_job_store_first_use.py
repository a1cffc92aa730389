"""What is used for the first time by several threads at once: in a process of its own, because a failure ends it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import threading

import msgspec

from airflow_openai_batch.engine.model import FORMAT_VERSION, Job, JobKey, Policy, Spec
from airflow_openai_batch.engine.store.job_store import decode_job

key = JobKey(dag_id="d", run_id="r", task_id="t")
job = Job(
    format_version=FORMAT_VERSION,
    key=key,
    spec=Spec(endpoint="/v1/responses", body="{}"),
    policy=Policy(),
    source_version=None,
    created_at=1.0,
    deadline_from=1.0,
    shards=(),
    n_rows=0,
)
data = msgspec.json.encode(job)
together = threading.Barrier(8)
found = []


def decode():
    together.wait()
    found.append(decode_job(data) == job)


sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=decode) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert found == [True] * 8, found
"""


def test_a_snapshot_is_decoded_by_many_threads_at_once_from_the_first_time_on():
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
