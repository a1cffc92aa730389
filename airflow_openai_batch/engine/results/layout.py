"""The schema of the result table: the input columns, the fixed columns, and the fields of a structured answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_openai_batch.engine.answers.outcome_files import FIELD, part_schema
from airflow_openai_batch.engine.errors import InputError, StoreError
from airflow_openai_batch.engine.model import RESULT_COLUMNS, Job
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
        kept: The places of the columns that are written, among all columns of a result row; None for all.
    """

    schema: pa.Schema
    inputs: pa.Schema
    fields: tuple[str, ...]
    kept: tuple[int, ...] | None = None

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
        if self.kept is not None:
            arrays = [arrays[place] for place in self.kept]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def without(self, dropped: Sequence[str]) -> Layout:
        """Return the layout without some columns.

        Args:
            dropped: Their names in the result table.

        Raises:
            InputError: The table has no such column, or cannot do without it.
        """
        import pyarrow as pa

        check_dropped(dropped, self.schema.names)
        if not dropped:
            return self
        kept = tuple(place for place, name in enumerate(self.schema.names) if name not in dropped)
        return dataclasses.replace(self, schema=pa.schema([self.schema.field(place) for place in kept]), kept=kept)


def check_dropped(dropped: Sequence[str], columns: Collection[str]) -> None:
    """Refuse to drop columns that a result table does not have, or its status.

    Args:
        dropped: The names of the columns to drop.
        columns: The names of all columns of the table.

    Raises:
        InputError: With the columns that there are.
    """
    if unknown := [name for name in dropped if name not in columns]:
        raise InputError(
            f"drop_columns: the results have no column {', '.join(map(repr, unknown))}. Columns: {', '.join(columns)}."
        )
    if "status" in dropped:
        raise InputError(
            "drop_columns: 'status' stays, because nothing else tells a good answer from a row that has none."
        )


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
