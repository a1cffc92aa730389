"""Reading Parquet: record batches are small in memory, whatever the file is like."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_openai_batch.engine.store.parquet import read_parquet

MB = 1024 * 1024


def parquet(table: pa.Table, **options) -> io.BytesIO:
    file = io.BytesIO()
    pq.write_table(table, file, **{"use_dictionary": False, **options})
    file.seek(0)
    return file


def vectors(n: int) -> pa.Array:
    """The same vector again and again, which is stored in next to nothing."""
    return pa.array([[0.5] * 1536] * n, pa.list_(pa.float32()))


@pytest.mark.parametrize(
    "column",
    [
        vectors(2000),
        pa.array(["long text " * 5000] * 400),
        pa.array([[{"text": "a picture" * 4000}]] * 400),
    ],
    ids=["vectors", "texts", "nested"],
)
@pytest.mark.parametrize("group_rows", [100, 10_000])
def test_what_hardly_takes_room_on_disk_comes_a_few_rows_at_a_time(column: pa.Array, group_rows: int) -> None:
    table = pa.table({"id": range(len(column)), "value": column})
    file = parquet(table, row_group_size=group_rows)
    assert file.getbuffer().nbytes < table.nbytes / 4
    batches = list(read_parquet(file))
    assert max(batch.nbytes for batch in batches) < 5 * MB
    assert pa.Table.from_batches(batches).equals(table)


def test_small_rows_come_4096_at_a_time_or_as_few_as_asked_for() -> None:
    table = pa.table({"id": range(10_000)})
    assert [batch.num_rows for batch in read_parquet(parquet(table))] == [4096, 4096, 1808]
    assert {batch.num_rows for batch in read_parquet(parquet(table), most_rows=1000)} == {1000}


def test_small_row_groups_are_read_together_and_large_ones_alone() -> None:
    small, large = ["x" * 1000] * 800, ["y" * (3 * MB)]
    file = io.BytesIO()
    with pq.ParquetWriter(file, pa.schema([("value", pa.string())]), use_dictionary=False) as writer:
        for values in (small, small, small, large, small, large, large):
            writer.write_table(pa.table({"value": values}))
    file.seek(0)
    batches = list(read_parquet(file))
    # 2,400 small rows have 2.4 MB; with a large one it would be more than 4 MB.
    assert batches[0].num_rows == 2400
    assert max(batch.nbytes for batch in batches) < 5 * MB
    assert pa.Table.from_batches(batches).column("value").to_pylist() == [
        *small * 3, *large, *small, *large, *large
    ]  # fmt: skip


def test_only_the_columns_that_are_read_count() -> None:
    table = pa.table({"id": range(1000), "value": vectors(1000)})
    (batch,) = read_parquet(parquet(table), ["id"])
    assert (batch.schema.names, batch.num_rows) == (["id"], 1000)
    assert len(list(read_parquet(parquet(table), ["value"]))) > 1


def test_a_row_larger_than_all_that_a_batch_should_have_comes_alone() -> None:
    table = pa.table({"value": ["x" * (6 * MB), "y", "z" * (6 * MB)]})
    batches = list(read_parquet(parquet(table)))
    assert [batch.num_rows for batch in batches] == [1, 1, 1]
    assert list(read_parquet(parquet(table.slice(0, 0)))) == []
