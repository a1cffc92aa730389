"""The index of a shard: a Parquet file with ordinal, custom_id and digest of each request, in request file order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from airflow_openai_batch.engine.store.job_store import JobStore

    Column: TypeAlias = Sequence[Any] | np.ndarray[Any, Any] | pa.Array


def index_schema() -> pa.Schema:
    """Return the schema of an index."""
    import pyarrow as pa

    return pa.schema([("ordinal", pa.int64()), ("custom_id", pa.string()), ("digest", pa.binary(16))])


def write_index(store: JobStore, shard: str, ordinals: Column, ids: Column, digests: Column) -> str:
    """Write the index of a shard and return its file name. All columns are in the order of the request file.

    Args:
        store: The job's store.
        shard: The shard's id.
        ordinals: The ordinal of each request's row; a sequence or an array, as the next two.
        ids: The custom_id of each request.
        digests: The digest of each request, 16 bytes.

    Raises:
        StoreError: The store cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = store.new_name("index", shard)
    table = pa.table([ordinals, ids, digests], schema=index_schema())
    with store.writing(index) as file:
        pq.write_table(table, file, use_dictionary=False)  # nothing in it repeats
    return index


class Index(NamedTuple):
    """The requests of a shard, in the order of its request file."""

    ordinals: list[int]
    custom_ids: list[str]
    digests: list[bytes]


def read_index(store: JobStore, name: str) -> Index:
    """Read an index from the store."""
    return Index(*(column.to_pylist() for column in read_index_table(store, name).columns))


def read_index_table(
    store: JobStore, name: str, columns: Sequence[str] = ("ordinal", "custom_id", "digest")
) -> pa.Table:
    """Read an index from the store as an Arrow table.

    Args:
        store: The job's store.
        name: The name of its file.
        columns: The columns of ``index_schema`` to read.

    Raises:
        StoreError: The store cannot be read.
    """
    import pyarrow.parquet as pq

    with store.open(name) as file:
        # Without threads: one that still holds a Python file when the interpreter ends would abort the process.
        # Not `pq.read_table`, which imports all of `pyarrow.dataset`.
        index = pq.ParquetFile(file, pre_buffer=False)
        return index.read(columns=list(columns), use_threads=False)
