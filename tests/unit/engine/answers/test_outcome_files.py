"""Row groups of outcome parts: whoever reads one row holds its whole group."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from airflow_openai_batch.engine.answers.outcome_files import group_rows

MB = 1024 * 1024


def vectors(n: int, dimensions: int) -> pa.RecordBatch:
    numbers = pa.array(np.zeros(n * dimensions, np.float32))
    offsets = pa.array(np.arange(0, n * dimensions + 1, dimensions, dtype=np.int32))
    return pa.record_batch({"output": pa.ListArray.from_arrays(offsets, numbers)})


@pytest.mark.parametrize(("n", "dimensions"), [(4096, 1536), (4096, 256), (100, 100_000)])
def test_a_row_group_of_large_rows_has_few_megabytes(n: int, dimensions: int) -> None:
    rows = group_rows(vectors(n, dimensions))
    assert 2 * MB < rows * dimensions * 4 <= 4 * MB


def test_small_rows_have_large_groups() -> None:
    assert group_rows(pa.record_batch({"output": ["yes"] * 10_000})) == 4096


def test_a_row_larger_than_a_group_has_one_of_its_own() -> None:
    assert group_rows(pa.record_batch({"output": ["x" * 5 * MB] * 3})) == 1


def test_no_rows_can_be_written() -> None:
    assert group_rows(vectors(0, 1536)) >= 1
