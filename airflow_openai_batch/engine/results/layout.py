"""The schema of the result table: the input columns, the fixed columns, and the fields of a structured answer."""

from __future__ import annotations

import dataclasses
import decimal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_openai_batch.engine.answers.outcome_files import FIELD, part_schema
from airflow_openai_batch.engine.errors import InputError
from airflow_openai_batch.engine.model import RESULT_COLUMNS, Job, Usage
from airflow_openai_batch.engine.requests.column_types import ColumnTypes
from airflow_openai_batch.engine.requests.exact_types import cast_exactly
from airflow_openai_batch.engine.schema.arrow_types import field_types
from airflow_openai_batch.engine.schema.columns import column_names
from airflow_openai_batch.engine.store.job_store import JobStore
from airflow_openai_batch.engine.store.parquet import read_parquet

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
            arrays.append(cast_exactly(column, field.type))
        arrays += _fixed_columns(outcomes)
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


def _fixed_columns(outcomes: pa.RecordBatch) -> list[pa.Array]:
    """Return the columns that all results have. An answer that was used again was billed to the job that asked."""
    import pyarrow as pa
    import pyarrow.compute as pc

    is_reused = outcomes.column("reused_from").is_valid()
    if not is_reused.true_count:
        return [outcomes.column(name) for name in RESULT_COLUMNS]
    columns = {name: outcomes.column(name) for name in RESULT_COLUMNS}
    for name in ("cost", *Usage.__struct_fields__):
        zero = pa.scalar(decimal.Decimal(0) if name == "cost" else 0, columns[name].type)
        columns[name] = pc.if_else(is_reused, zero, columns[name])
    return list(columns.values())


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


def layout_of(store: JobStore, job: Job) -> Layout:
    """Return the layout of a job's results, from its row parts, its endpoint and its schema.

    Raises:
        StoreError: The row parts cannot be read.
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
    types = ColumnTypes(or_text=True)
    for name, schema in schemas.items():
        columns = [column for column in mixed if column in schema.names]
        with store.open(name) as file:
            for batch in read_parquet(file, columns):
                types.add(batch, 0)
    return {field.name: field.type for field in types.schema}
