"""The schema of the result table: the input columns, the fixed columns, and the fields of a structured answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.answers.outcome_files import FIELD, part_schema
from airflow_openai_batch.engine.model import RESULT_COLUMNS, Job
from airflow_openai_batch.engine.requests.arrow import BATCH_ROWS
from airflow_openai_batch.engine.requests.column_types import ColumnTypes
from airflow_openai_batch.engine.requests.exact_types import cast_exactly
from airflow_openai_batch.engine.schema.arrow_types import field_types
from airflow_openai_batch.engine.store.job_store import JobStore

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Layout:
    """The schema of the result table, and the origin of each column.

    Fixed columns keep their names; an input column with the name of a fixed one becomes ``input_<name>``, and a field
    with the name of either becomes ``output_<name>``.

    Attributes:
        schema: The schema of the result table.
        inputs: The schema of the input columns.
        fields: The names of the fields of a structured answer.
    """

    schema: pa.Schema
    inputs: pa.Schema
    fields: tuple[str, ...]

    def arrange(self, rows: pa.RecordBatch, outcomes: pa.RecordBatch) -> pa.RecordBatch:
        """Return the result rows of input rows and their outcomes, which have the same length and order."""
        import pyarrow as pa

        arrays = []
        for field in self.inputs:
            index = rows.schema.get_field_index(field.name)
            column = rows.column(index) if index >= 0 else pa.nulls(rows.num_rows, field.type)
            arrays.append(cast_exactly(column, field.type))
        arrays += [outcomes.column(name) for name in RESULT_COLUMNS]
        arrays += [outcomes.column(FIELD + name) for name in self.fields]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def layout_of(store: JobStore, job: Job) -> Layout:
    """Return the layout of a job's results, from its row parts, its endpoint and its schema.

    Raises:
        StoreError: The row parts cannot be read.
    """
    import pyarrow as pa

    inputs = _input_schema(store, job)
    fields = field_types(job.spec.schema)
    fixed = part_schema(job)
    names = set(inputs.names)
    columns = [
        pa.field(_free(f.name, "input_", {*RESULT_COLUMNS, *(names if f.name in RESULT_COLUMNS else ())}), f.type)
        for f in inputs
    ]
    columns += [fixed.field(name) for name in RESULT_COLUMNS]
    for name, arrow_type in fields.items():
        columns.append(pa.field(_free(name, "output_", {c.name for c in columns}), arrow_type))
    return Layout(schema=pa.schema(columns), inputs=inputs, fields=tuple(fields))


def _free(name: str, prefix: str, taken: set[str]) -> str:
    while name in taken:
        name = prefix + name
    return name


def _input_schema(store: JobStore, job: Job) -> pa.Schema:
    """Return the input columns, each with a type that holds its values in all row parts exactly."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schemas: dict[str, pa.Schema] = {}
    for name in (name for shard in job.shards for name in shard.row_parts):
        with store.open(name) as file:
            schemas[name] = pq.read_schema(file).remove_metadata()
    types: dict[str, set[Any]] = {}
    for schema in schemas.values():
        for field in schema:
            types.setdefault(field.name, set()).add(field.type)
    mixed = [name for name, its_types in types.items() if len(its_types) > 1]
    resolved = _mixed_types(store, schemas, mixed) if mixed else {}
    return pa.schema([(name, resolved.get(name) or next(iter(its_types))) for name, its_types in types.items()])


def _mixed_types(store: JobStore, schemas: Mapping[str, pa.Schema], mixed: list[str]) -> dict[str, pa.DataType]:
    """Return types for columns that differ between row parts. Their values decide, so they are read once more."""
    import pyarrow.parquet as pq

    types = ColumnTypes(or_text=True)
    for name, schema in schemas.items():
        columns = [column for column in mixed if column in schema.names]
        with store.open(name) as file:
            for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(BATCH_ROWS, columns=columns):
                types.add(batch, 0)
    return {field.name: field.type for field in types.schema}
