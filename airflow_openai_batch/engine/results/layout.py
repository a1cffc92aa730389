"""The schema of the result table: the input columns, the fixed columns, and the fields of a structured answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_openai_batch.engine.answers.outcome_files import FIELD, part_schema
from airflow_openai_batch.engine.errors import StoreError
from airflow_openai_batch.engine.model import RESULT_COLUMNS, Job
from airflow_openai_batch.engine.schema.arrow_types import field_types
from airflow_openai_batch.engine.schema.columns import column_names
from airflow_openai_batch.engine.store.job_store import JobStore

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Layout:
    """The schema of the result table, and the origin of each column.

    Their names: see ``schema.columns``.

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
            arrays.append(column if column.type == field.type else _cast(column, field.type))
        arrays += [outcomes.column(name) for name in RESULT_COLUMNS]
        arrays += [outcomes.column(FIELD + name) for name in self.fields]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def _cast(column: pa.Array, arrow_type: pa.DataType) -> pa.Array:
    import pyarrow as pa

    try:
        # Unsafe: a large integer that a column of floats rounds must not cost results that were paid for.
        return column.cast(arrow_type, safe=False)
    except pa.ArrowException:
        return pa.array(column.to_pylist(), arrow_type)  # older versions do not cast a struct that lacks a field


def layout_of(store: JobStore, job: Job) -> Layout:
    """Return the layout of a job's results, from its row parts, its endpoint and its schema.

    Raises:
        StoreError: The row parts cannot be read, or their schemas do not fit together.
    """
    import pyarrow as pa

    inputs = _input_schema(store, job)
    fields = field_types(job.spec.schema)
    fixed = part_schema(job)
    names = column_names(inputs.names, job.spec)
    columns = [pa.field(name, field.type) for name, field in zip(names.inputs, inputs, strict=True)]
    columns += [fixed.field(name) for name in RESULT_COLUMNS]
    columns += [pa.field(name, arrow_type) for name, arrow_type in zip(names.fields, fields.values(), strict=True)]
    return Layout(schema=pa.schema(columns), inputs=inputs, fields=tuple(fields))


def _input_schema(store: JobStore, job: Job) -> pa.Schema:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schemas: list[pa.Schema] = []
    for shard in job.shards:
        for name in shard.row_parts:
            with store.open(name) as file:
                schema = pq.read_schema(file).remove_metadata()
            if schema not in schemas:
                schemas.append(schema)
    try:
        return pa.unify_schemas(schemas, promote_options="permissive") if schemas else pa.schema([])
    except pa.ArrowException as error:
        raise StoreError(f"The row parts in {store} do not fit together: {error}") from error
