"""What keeps a worker's memory small: in a process of its own, because Arrow chooses its allocator once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import io, json, os
from airflow_openai_batch.engine.concurrency import use_releasing_allocator

use_releasing_allocator()
import pyarrow as pa
import pyarrow.parquet as pq

file = io.BytesIO()
pq.write_table(pa.table({"text": ["some text"] * 100_000}), file)
file.seek(0)
for _ in pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20).iter_batches():
    pass
pools = {name: getattr(pa, f"{name}_memory_pool")().max_memory() for name in pa.supported_memory_backends()}
print(json.dumps({"pools": pools, "default": pa.default_memory_pool().backend_name, "env": dict(os.environ)}))
"""
CHOICE = "ARROW_DEFAULT_MEMORY_POOL"


def run(**choice: str) -> dict[str, object]:
    env = {name: value for name, value in os.environ.items() if name != CHOICE} | choice
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="Arrow has this allocator on Linux")
def test_all_of_arrow_uses_the_allocator_that_gives_memory_back():
    found = run()
    assert found["default"] == "jemalloc"
    assert {name for name, most in found["pools"].items() if most} == {"jemalloc"}
    assert CHOICE not in found["env"], "not handed on to other programs"


def test_the_users_choice_of_an_allocator_stands():
    found = run(**{CHOICE: "system"})
    assert found["default"] == "system"
    assert {name for name, most in found["pools"].items() if most} == {"system"}
    assert found["env"][CHOICE] == "system"
