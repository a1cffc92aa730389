from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from airflow_openai_batch.engine.errors import StoreError
from airflow_openai_batch.engine.results import row_sorter
from airflow_openai_batch.engine.results.row_sorter import RowSorter

N = 60
COLUMNS = {
    "text": pa.array([f"text {i}" * (i % 5) for i in range(N)]),
    "view": pa.array([None if i % 7 == 0 else f"longer than twelve bytes {i}" for i in range(N)], pa.string_view()),
    "dictionary": pa.array(["a", "b", None] * (N // 3)).dictionary_encode(),
    "vector": pa.array([[float(i)] * (i % 4) for i in range(N)], pa.list_(pa.float32())),
    "struct": pa.array([{"x": str(i)} for i in range(N)], pa.struct([("x", pa.string_view())])),
    "null": pa.nulls(N),
    "0": pa.array([i * 10 for i in range(N)]),
    "ordinal": pa.array([-i for i in range(N)]),
}
ROWS = pa.RecordBatch.from_arrays(list(COLUMNS.values()), names=list(COLUMNS))
START = 1000


def taken(places: np.ndarray) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([ROWS.slice(i, 1).to_pylist()[0] for i in places.tolist()], ROWS.schema)


@pytest.mark.parametrize("block_rows", [1, 7, N, 10 * N, None])
@pytest.mark.parametrize("n", [1, 2, 9, N])
def test_rows_that_come_in_any_order_go_in_order(n: int, block_rows: int | None) -> None:
    hands = [np.arange(i, N, n) for i in range(n)]
    with RowSorter(ROWS.schema, START, START + N, block_rows) as sorter:
        for hand in reversed(hands):
            for places in np.array_split(hand, 2):
                if len(places):
                    sorter.add(START + places, taken(places))
        found = list(sorter.batches())
    assert pa.Table.from_batches(found).to_pylist() == ROWS.to_pylist()
    assert {batch.schema for batch in found} == {ROWS.schema}
    assert max(batch.num_rows for batch in found) <= (block_rows or N)


def test_rows_that_become_larger_are_put_in_order_fewer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_sorter, "_BLOCK_BYTES", 20_000)
    texts = ["x" if i < 100 else "y" * 10_000 for i in range(200)]
    rows = pa.record_batch({"i": range(200), "text": texts})
    with RowSorter(rows.schema, 0, 200) as sorter:
        for start in (0, 1):
            places = np.arange(start, 200, 2)
            sorter.add(places, rows.take(pa.array(places)))
        found = list(sorter.batches())
    assert pa.Table.from_batches(found).to_pylist() == rows.to_pylist()
    assert max(batch.nbytes for batch in found) <= 4 * 20_000


@pytest.mark.parametrize("places", [[0, 1, 2], [0, 1, 1, 3], [0, 1, 2, 3, 3]])
def test_a_row_that_lacks_or_comes_twice_is_an_error(places: list[int]) -> None:
    rows = pa.record_batch({"i": places})
    with RowSorter(rows.schema, 0, 4) as sorter:
        sorter.add(np.array(places), rows)
        with pytest.raises(StoreError, match="Of the rows 0 to 3, some are in no shard of the store, or in several"):
            list(sorter.batches())
